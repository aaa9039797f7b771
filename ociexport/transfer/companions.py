"""What lies beside an image as images of their own, so that they can be copied along: signatures, SBOMs, provenance.

Found are cosign's tags, ``sha256-<hex>.sig``, ``.att`` and ``.sbom``, and the referrers of each manifest and index, and
what is about these in turn: a signature of an SBOM. A copy has the tags under the image's own repository; a referrer
has no name, and is listed with its type.

Spec: distribution-spec 1.1, "Listing Referrers"; cosign's SIGNATURE_SPEC.md, "Discovery".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from ociexport.errors import InvalidReferenceError, LimitExceededError, NotFoundError
from ociexport.images.budget import DocumentBudget
from ociexport.images.choose import PlatformChoice
from ociexport.images.companions import CompanionSource, companion_source, companion_tags
from ociexport.images.destination import ImageDestination
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.resolve import DocumentReader
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.reference import ImageReference
from ociexport.storage.index import SIGNATURES_ENTRY
from ociexport.system.progress.protocol import SILENT, Progress

# Scanners that push a report each night make a thousand in three years; each is a request or two.
_MAX_COMPANIONS = 2048


@dataclass(frozen=True, slots=True)
class Companion:
    """One thing beside an image; an `ImageSource`.

    Args:
        source: of the image; stays open.
        received: its manifest or index.
        image_name: of a copy.
        listed_as: type and annotations that an index lists it with; empty for what has a name.
    """

    source: CompanionSource
    received: ReceivedManifest
    image_name: ImageName
    listed_as: Descriptor | None

    @property
    def display_name(self) -> str:
        """The image's name and what this is."""
        return f"{self.source.display_name}: {self.image_name.tag or f'referrer {self.received.digest}'}"

    @property
    def wrapped(self) -> CompanionSource:
        """Where its blobs are."""
        return self.source

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the companion's own manifest, or what ``descriptor`` names."""
        return self.received if descriptor is None else self.source.fetch_manifest(descriptor)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return a blob of the image's repository."""
        return self.source.open_blob(descriptor, offset)

    def close(self) -> None:
        """Nothing is open."""


def each_once(companions: Iterable[Iterable[PreparedImage]]) -> list[PreparedImage]:
    """Return the companions of several images; one image may have been named twice."""
    return list({(one.listed.digest, one.name): one for some in companions for one in some}.values())


def prepare_companions(
    image: PreparedImage, destination: ImageDestination | None, progress: Progress
) -> list[PreparedImage]:
    """Return what lies beside ``image`` at its source, and say of each what it is.

    A published index that is not kept has companions too, mostly the signatures; that they stay behind is told.

    Raises:
        RegistryError: the registry does not tell.
        InvalidImageError: one of them breaks the specification.
        LimitExceededError: there are too many, or their documents are too large together.
    """
    source = companion_source(image.source)
    if source is None:
        progress.say(f"{image.source.display_name}: this kind of source keeps no signatures and other referrers")
        return []
    budget = DocumentBudget(f"{source.display_name}: referrers", hint="without --referrers the image comes alone")
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
                f"{image.source.display_name}: {left} that are about the published index {image.published} stay "
                "behind; --sparse keeps that index, and them"
            )
    return prepared


def _kind_of(copy: PreparedImage) -> str:
    main = copy.main.manifest if copy.manifests else None
    kind = copy.listed.artifact_type or (main and (main.artifact_type or next((x.media_type for x in main.layers), "")))
    return f"of type {kind}" if kind else "of unknown type"


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks for what is about an image.

    Args:
        source: of the image.
        name: of the image's copy.
        budget: of all documents that are met.
        progress: told of what is listed and not there.
    """

    source: CompanionSource
    name: ImageName
    budget: DocumentBudget
    progress: Progress

    def companions_of(self, subjects: Iterable[Digest]) -> Iterator[Companion]:
        """Yield what is beside the ``subjects``, and beside that in turn, each once."""
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
        """Yield what is about ``digest``; a referrer that was ``seen`` is not fetched again, however often listed."""
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
                # A list under a tag is not cleared when one of its entries is.
                self.progress.warn(f"{self.source.display_name}: a referrer that is listed is not there: {error}")
                continue
            kept = {key: value for key, value in descriptor.annotations.items() if (key, value) == SIGNATURES_ENTRY}
            listed_as = replace(descriptor, annotations=kept, urls=())
            yield Companion(self.source, received, ImageName(None, None), listed_as)


def _name_beside(name: ImageName, tag: str) -> ImageName:
    """Return the name that ``tag`` has in the repository of the image called ``name``."""
    if name.full is not None:
        try:
            reference = ImageReference.parse(name.full)
            return ImageName(tag, str(ImageReference(reference.registry, reference.repository, tag)))
        except InvalidReferenceError:
            pass
    return ImageName(tag, None)
