"""The images that an ``index.json`` lists: their names, and the choice of one of them.

Spec: image-spec 1.1 image-layout.md, "index.json file"; annotations.md; containerd's ``images/annotations.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from ociexport.errors import (
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    UsageError,
    locating,
    printable,
    quoted,
)
from ociexport.images.budget import DocumentBudget
from ociexport.images.companions import (
    is_companion_tag,
    referrers_tag,
    says_artifact,
    says_companion,
    says_signatures,
)
from ociexport.images.resolve import read_small_blob
from ociexport.images.source import BlobOpener, ImageName, ReceivedManifest, embedded_document
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.numerals import number_up_to
from ociexport.spec.reference import ImageReference, as_path

if TYPE_CHECKING:
    from ociexport.storage.alternatives import Alternatives

# The limit for ``index.json``. 20,000 images fit, also within the limit on JSON values.
MAX_INDEX_BYTES = 32 * 1024 * 1024

# The annotations with an image's names (image-spec annotations.md; containerd's images/annotations.go).
REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
FULL_NAME_ANNOTATION = "io.containerd.image.name"

ListedImage: TypeAlias = tuple[Descriptor, ImageName]
# The least ratio of difflib for a suggestion: one or two wrong letters in a tag (lates, 3.2O).
_NEAR = 0.6
# Names in a message: a list of images has one for each that fails, and a layout may hold ten thousand images.
_MAX_NAMED = 24


def list_images(index: JsonObject) -> list[ListedImage]:
    """Return the descriptors that ``index.json`` lists, each with its names.

    Raises:
        InvalidImageError: it breaks the specification.
    """
    images = []
    for entry in index.objects("manifests"):
        descriptor = Descriptor.from_json(entry)
        images.append((descriptor, name_of(descriptor)))
    return images


def choose_image(
    place: str, images: Sequence[ListedImage], name: str | None, *, typed: str | None = None
) -> Descriptor | Digest:
    """Return the listed image called ``name``, or its digest if it is not listed but may still exist.

    Args:
        place: the layout's name in messages.
        typed: the layout's name as a user types it before an image's name; by default made from ``place``.
        name: a tag, a full reference, ``@sha256:…`` or ``@N`` (position in ``images``); None if the layout has only
            one image. If a tag or reference has a digest, only the digest counts.

    Raises:
        NotFoundError: no image matches; the message lists the existing names.
        UsageError: several images match.
    """
    if name is not None and "@" in name and all(known.tag != name for _, known in images):
        return _find_by_digest_or_position(place, images, name.partition("@")[2])
    typed = typed or as_path(place)
    fitting = _find_by_name(place, images, name, typed)
    if len({descriptor.digest for descriptor, _ in fitting}) > 1:
        raise _several_error(place, fitting, name, typed)
    return fitting[0][0]


def choose_from_layout(
    place: str, blobs: BlobOpener, images: Sequence[ListedImage], name: str | None, *, typed: str | None = None
) -> Descriptor | Digest | Alternatives:
    """Return the image called ``name`` as `choose_image` does, or the images that share the name.

    Entries that are no images are left out, if there are others.

    Args:
        blobs: opens the layout's blobs.

    Raises:
        as `choose_image` does; UsageError: several images match, with different names.
    """
    if name is not None and "@" in name and all(known.tag != name for _, known in images):
        return choose_image(place, images, name, typed=typed)
    typed = typed or as_path(place)
    fitting = _find_by_name(place, images, name, typed)
    listed: dict[Digest, Descriptor] = {}
    for descriptor, _ in fitting:
        listed.setdefault(descriptor.digest, descriptor)
    if len(listed) == 1:
        return fitting[0][0]
    from ociexport.storage.alternatives import AlternativesReader  # noqa: PLC0415 - start-up: few layouts need it

    reader = AlternativesReader(place, blobs)
    entries = reader.images_among(list(listed.values()))
    if len(entries) == 1:
        return entries[0]
    digests = {entry.digest for entry in entries}
    fitting = [image for image in fitting if image[0].digest in digests]
    if len({known.full or known.tag for _, known in fitting}) > 1:
        raise _several_error(place, fitting, name, typed)
    return reader.alternatives(entries, _expected_one(place, name), typed)


def main_images(images: Sequence[ListedImage]) -> Sequence[ListedImage]:
    """Return the images to choose from if no name is given: all that are not about other images, or else all."""
    return [image for image in images if not _is_companion(*image)] or images


def _is_companion(descriptor: Descriptor, name: ImageName) -> bool:
    if says_companion(descriptor) or name.tag is not None or name.full is not None:
        return says_companion(descriptor) or (name.tag is not None and is_companion_tag(name.tag))
    return says_artifact(descriptor)


def _find_by_name(place: str, images: Sequence[ListedImage], name: str | None, typed: str) -> list[ListedImage]:
    """Return the entries called ``name``; those that say that they are about an image only if all do."""
    if name is None:
        fitting = main_images(images)
    else:
        full = _normalized(name)
        fitting = [image for image in images if image[1].full is not None and image[1].full in (name, full)]
        fitting = fitting or [image for image in images if image[1].tag == name]
    if not fitting:
        requested = f"image {quoted(name)}" if name is not None else "an image"
        raise NotFoundError(
            f"{place}: expected {requested}, there are: {_listed(images)}", hint=_meant(images, name or "", typed)
        )
    return [image for image in fitting if not says_companion(image[0])] or list(fitting)


def _several_error(place: str, fitting: Sequence[ListedImage], name: str | None, typed: str) -> UsageError:
    """Return the error for several images; the hint names one in a way that leads to it alone."""
    first = shown_name(*fitting[0])
    if [shown_name(*image) for image in fitting].count(first) > 1:
        first = f"@{fitting[0][0].digest}"
    return UsageError(
        f"{_expected_one(place, name)}, there are: {_listed(fitting)}",
        hint=f"name one of them, for example {typed}:{first}",
    )


def _expected_one(place: str, name: str | None) -> str:
    return f"{place}: expected one image" + (f" {quoted(name)}" if name is not None else "")


def _meant(images: Sequence[ListedImage], name: str, typed: str) -> str | None:
    """Return a hint with the most similar name; None if no name is similar."""
    # Only an error needs difflib.
    from difflib import get_close_matches  # noqa: PLC0415 - start-up: as above

    names = [text for _, known in images for text in (known.tag, known.full) if text is not None]
    near = get_close_matches(name, names, n=1, cutoff=_NEAR)
    return f"did you mean {typed}:{near[0]}?" if near else None


def _find_by_digest_or_position(place: str, images: Sequence[ListedImage], text: str) -> Descriptor | Digest:
    if (position := number_up_to(text, len(images))) is not None:
        if position == len(images):
            raise NotFoundError(f"{place}: expected an image at position {quoted(text)}, there are {position}")
        return images[position][0]
    digest = Digest.parse(text)
    for descriptor, _ in images:
        if descriptor.digest == digest:
            return descriptor
    # If an index is listed, the manifests of its platforms are not listed themselves.
    return digest


class ListedSource:
    """One image of a layout, in a directory or an archive; an `ImageSource`.

    Args:
        place: the layout's name in messages.
        blobs: opens its blobs; closed by the caller.
        image: its descriptor, with its names, or the images that share the requested name.
        images: all images that the layout lists.

    Attributes:
        alternatives: the images that share the requested name; None for one image.
    """

    def __init__(
        self, place: str, blobs: BlobOpener, image: Descriptor | Alternatives, images: Sequence[ListedImage] = ()
    ) -> None:
        self._place = place
        self._blobs = blobs
        self.alternatives = None if isinstance(image, Descriptor) else image
        self._descriptor = image if isinstance(image, Descriptor) else image.descriptor
        self._images = images

    @property
    def descriptor(self) -> Descriptor:
        """The image's entry in ``index.json``."""
        return self._descriptor

    @property
    def blobs(self) -> BlobOpener:
        """What opens its blobs."""
        return self._blobs

    @property
    def display_name(self) -> str:
        """The layout's path and the image's name."""
        if self.alternatives is not None and self.image_name == ImageName(None, None):
            return self._place
        return f"{self._place}:{printable(shown_name(self._descriptor, self.image_name))}"

    @property
    def image_name(self) -> ImageName:
        """The image's names in ``index.json``."""
        return name_of(self._descriptor)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index with this descriptor, verified; by default the image's own."""
        descriptor = descriptor or self._descriptor
        if (embedded := embedded_document(descriptor)) is not None:
            return embedded
        with locating(self._place):
            raw = read_small_blob(self._blobs, descriptor, MAX_MANIFEST_BYTES, f"manifest {descriptor.digest}")
        return ReceivedManifest(raw, descriptor.media_type, descriptor.digest)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's file."""
        return self._blobs.open_blob(descriptor, offset)

    def fetch_tagged(self, tag: str) -> Iterator[ReceivedManifest]:
        """Yield the documents that the layout lists under ``tag``, in any repository; see `CompanionSource`."""
        for descriptor, name in self._images:
            if tag in (name.tag, (name.full or "").rpartition(":")[2]):
                with suppress(NotFoundError):  # listed, but not copied with the layout
                    yield self.fetch_manifest(descriptor)

    def fetch_referrers(self, digest: Digest, budget: DocumentBudget) -> Iterator[Descriptor]:
        """Yield descriptors of the artifacts that refer to ``digest``; see `CompanionSource`.

        They are listed in ``index.json`` directly, or in an index under the referrers tag. A signature entry of
        ``cosign save`` or hauler does not contain the digest of its image, so it is yielded for any digest, unless it
        has another name than this image.
        """
        for received in self.fetch_tagged(referrers_tag(digest)):
            budget.take(received.raw)
            listed = parse_document(received.raw, received.media_type, received.digest)
            yield from listed.manifests if isinstance(listed, Index) else ()
        for descriptor, name in self._images:
            if says_signatures(descriptor):
                if ImageName(None, None) in (name, self.image_name) or name == self.image_name:
                    yield descriptor
            elif (document := self._read_listed(descriptor)) and document.subject and document.subject.digest == digest:
                yield replace(descriptor, artifact_type=artifact_type_of(document), annotations=document.annotations)

    def _read_listed(self, descriptor: Descriptor) -> Index | Manifest | None:
        """Return a listed document; None if it is missing or damaged, since it may belong to another image."""
        with suppress(NotFoundError, InvalidImageError):
            received = self.fetch_manifest(descriptor)
            return parse_document(received.raw, received.media_type, received.digest)
        return None

    def close(self) -> None:
        """Nothing stays open."""


def artifact_type_of(document: Index | Manifest) -> str | None:
    """Return the artifact type that a registry lists for a referrer.

    Spec: distribution-spec 1.1, "Listing Referrers".
    """
    config_type = document.config.media_type if isinstance(document, Manifest) else None
    return document.artifact_type or config_type


def named(descriptor: Descriptor, name: ImageName) -> Descriptor:
    """Return the entry of ``index.json`` for an image, with both annotations for names, for all readers."""
    annotations = dict(descriptor.annotations)
    annotations.pop(REF_NAME_ANNOTATION, None)
    annotations.pop(FULL_NAME_ANNOTATION, None)
    if name.tag is not None:
        annotations[REF_NAME_ANNOTATION] = name.tag
    if name.full is not None:
        annotations[FULL_NAME_ANNOTATION] = name.full
    return replace(descriptor, annotations=annotations)


def name_of(descriptor: Descriptor) -> ImageName:
    """Return the names in an entry of ``index.json``, whichever tool wrote it.

    If only the full name is written, its tag is returned too, since a copy has both annotations.
    """
    ref_name = descriptor.annotations.get(REF_NAME_ANNOTATION) or None
    full = descriptor.annotations.get(FULL_NAME_ANNOTATION) or None
    if full is None and ref_name is not None and ("/" in ref_name or ":" in ref_name):
        # Others write the tag here, but crane and podman the full reference, and skopeo the user's words: app:1.
        full = _normalized(ref_name)
        ref_name = None if full is not None else ref_name
    if full is not None and ref_name is None:
        ref_name = _tag_of(full)
    return ImageName(ref_name, full)


def _tag_of(full: str) -> str | None:
    try:
        return ImageReference.parse(full).tag
    except InvalidReferenceError:
        return None


def _normalized(name: str) -> str | None:
    try:
        return str(ImageReference.parse(name))
    except InvalidReferenceError:
        return None


def shown_name(descriptor: Descriptor, name: ImageName) -> str:
    """Return an image's full name or tag, or ``@`` and its digest if it has neither."""
    return name.full or name.tag or f"@{descriptor.digest}"


def _listed(images: Sequence[ListedImage]) -> str:
    names = list(dict.fromkeys(printable(shown_name(*image)) for image in images))
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more if names else "none"
