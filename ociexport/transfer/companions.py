"""Preparing an image's companions to be copied with it: signatures, SBOMs, provenance, each an image of its own.

They are found under cosign's tags, ``sha256-<hex>.sig``, ``.att`` and ``.sbom``, and as the referrers of each manifest
and index. Companions of companions count too: a signature of an SBOM. A copy has the tags under the image's own
repository; a referrer has no name, and is listed with its type.

Spec: distribution-spec 1.1, "Listing Referrers"; cosign's SIGNATURE_SPEC.md, "Discovery".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ociexport.errors import InvalidReferenceError, LimitExceededError, NotFoundError
from ociexport.images.budget import DocumentBudget
from ociexport.images.choose import PlatformChoice
from ociexport.images.companions import (
    KIND_ANNOTATION,
    CompanionSource,
    companion_source,
    companion_tags,
    says_signatures,
)
from ociexport.images.destination import ImageDestination
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.resolve import DocumentReader
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT, Progress

# A scanner that pushes a report each night makes a thousand in three years. Each costs a request or two.
_MAX_COMPANIONS = 2048


@dataclass(frozen=True, slots=True)
class Companion:
    """One companion of an image; an `ImageSource`.

    Args:
        source: the image's; the caller closes it.
        received: the companion's manifest or index.
        image_name: the name for a copy.
        listed_as: the descriptor, with type and annotations, in the list of referrers; None for a tagged companion.
    """

    source: CompanionSource
    received: ReceivedManifest
    image_name: ImageName
    listed_as: Descriptor | None

    @property
    def display_name(self) -> str:
        """The image's name, and the companion's tag or digest."""
        return f"{self.source.display_name}: {self.image_name.tag or f'referrer {self.received.digest}'}"

    @property
    def wrapped(self) -> CompanionSource:
        """The source of its blobs."""
        return self.source

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the companion's own manifest, or the document that ``descriptor`` names."""
        return self.received if descriptor is None else self.source.fetch_manifest(descriptor)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Open a blob of the image's repository."""
        return self.source.open_blob(descriptor, offset)

    def close(self) -> None:
        """Does nothing: a companion opens no connection of its own."""


def each_once(companions: Iterable[Iterable[PreparedImage]]) -> list[PreparedImage]:
    """Return the companions of several images, each once, even if one image was requested twice."""
    return list({(one.listed.digest, one.name): one for some in companions for one in some}.values())


def prepare_companions(
    image: PreparedImage, destination: ImageDestination | None, progress: Progress
) -> list[PreparedImage]:
    """Return the companions of ``image`` at its source, and report the type of each.

    A published index that is not kept has companions too, mostly the signatures. They are not copied, and a line
    reports how many.

    Raises:
        RegistryError: the registry failed to list or return them.
        InvalidImageError: one of them breaks the specification.
        LimitExceededError: there are too many, or their documents are too large in total.
    """
    source = companion_source(image.source)
    if source is None:
        progress.say(f"{image.source.display_name}: this kind of source holds no signatures or other referrers")
        return []
    budget = DocumentBudget(f"{source.display_name}: referrers", hint="without --referrers only the image is copied")
    search = _Search(source, image.name, budget, progress)
    prepared = []
    for companion in search.companions_of(image.subjects):
        documents = DocumentReader(companion, companion.received, budget)
        copy = prepare_image(companion, PlatformChoice(), destination, SILENT, documents)
        if companion.listed_as is not None:
            shown = replace(companion.listed_as, digest=copy.listed.digest, size=copy.listed.size)
            copy = copy._replace(listed=replace(shown, media_type=copy.listed.media_type))
        progress.say(f"{companion.display_name}, {_kind_of(copy)}, manifest {copy.listed.digest}")
        prepared.append(copy)
    if image.published not in image.subjects:
        left = sum(1 for _ in search.beside(image.published))
        if left:
            progress.say(
                f"{image.source.display_name}: referrers of the published index {image.published} "
                f"were not copied: {left}; --sparse keeps that index, and copies them"
            )
    return prepared


def _kind_of(copy: PreparedImage) -> str:
    main = copy.main.manifest if copy.main is not None else None
    kind = copy.listed.artifact_type or (main and (main.artifact_type or next((x.media_type for x in main.layers), "")))
    return f"of type {kind}" if kind else "of unknown type"


@dataclass(frozen=True, slots=True)
class _Search:
    """Searches for an image's companions.

    Args:
        source: the image's.
        name: of the image's copy.
        budget: counts every document of the search.
        progress: gets a warning for each listed referrer that is missing.
    """

    source: CompanionSource
    name: ImageName
    budget: DocumentBudget
    progress: Progress

    def companions_of(self, subjects: Iterable[Digest]) -> Iterator[Companion]:
        """Yield the companions of ``subjects``, and the companions' own, each once."""
        waiting = list(dict.fromkeys(subjects))
        seen = set(waiting)
        found = 0
        while waiting:
            for companion in self.beside(waiting.pop(0), seen):
                digest = companion.received.digest
                if digest in seen:
                    continue
                found += 1
                if found > _MAX_COMPANIONS:
                    raise LimitExceededError(
                        f"referrers: expected at most {_MAX_COMPANIONS}, got more", where=self.source.display_name
                    )
                seen.add(digest)
                waiting.append(digest)
                yield companion

    def beside(self, digest: Digest, seen: Collection[Digest] = ()) -> Iterator[Companion]:
        """Yield the companions of ``digest``; a referrer that was ``seen`` is not fetched again."""
        for tag in companion_tags(digest):
            for received in self.source.fetch_tagged(tag):
                self.budget.take(received.raw)
                yield Companion(self.source, received, _name_beside(self.name, tag), None)
        for descriptor in self.source.fetch_referrers(digest, self.budget):
            if descriptor.digest in seen:
                continue
            try:
                received = self.source.fetch_manifest(descriptor)
                self.budget.take(received.raw)
            except NotFoundError as error:
                self.budget.take(b"")
                # Deleting a referrer does not remove it from the list under a tag.
                self.progress.warn(f"{self.source.display_name}: a listed referrer is missing: {error}")
                continue
            kept = {KIND_ANNOTATION: descriptor.annotations[KIND_ANNOTATION]} if says_signatures(descriptor) else {}
            listed_as = replace(descriptor, annotations=kept, urls=())
            yield Companion(self.source, received, ImageName(None, None), listed_as)


def _name_beside(name: ImageName, tag: str) -> ImageName:
    """Return the name for ``tag`` in the repository of the image called ``name``."""
    if name.full is not None:
        try:
            reference = ImageReference.parse(name.full)
            return ImageName(tag, str(ImageReference(reference.registry, reference.repository, tag)))
        except InvalidReferenceError:
            pass
    return ImageName(tag, None)
