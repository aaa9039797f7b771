"""The images that an ``index.json`` lists: their names, and which one is meant.

Spec: image-spec 1.1 image-layout.md, "index.json file"; annotations.md; containerd's ``images/annotations.go``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from ociexport.digest import ByteStream, Digest
from ociexport.documents import MAX_MANIFEST_BYTES, Descriptor
from ociexport.errors import InvalidReferenceError, NotFoundError, UsageError, locating, printable, quoted
from ociexport.jsonfields import JsonObject
from ociexport.reference import ImageReference
from ociexport.resolve import read_small_blob
from ociexport.sources import BlobOpener, ImageName, ReceivedManifest

# What names are kept in (image-spec annotations.md; containerd's images/annotations.go).
REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
FULL_NAME_ANNOTATION = "io.containerd.image.name"

ListedImage: TypeAlias = tuple[Descriptor, ImageName]


def list_images(index: JsonObject) -> list[ListedImage]:
    """Return what ``index.json`` lists: descriptors, and the names that they have.

    Raises:
        InvalidImageError: it breaks the specification.
    """
    images = []
    for entry in index.objects("manifests"):
        descriptor = Descriptor.from_json(entry)
        images.append((descriptor, name_of(descriptor)))
    return images


def choose_image(place: str, images: Sequence[ListedImage], name: str | None) -> Descriptor | Digest:
    """Return the image that ``name`` means; a digest where that is of what is not listed, but may be there.

    Args:
        place: how messages call the layout.
        name: a tag, a full reference, ``@sha256:…`` or ``@N`` (position in ``images``); None where there is only one.
            Of a tag or reference with a digest the digest counts.

    Raises:
        NotFoundError: there is no such image; the message lists the names there are.
        UsageError: several images fit.
    """
    if name is not None and "@" in name and all(known.tag != name for _, known in images):
        return _find_by_digest_or_position(place, images, name.partition("@")[2])
    return _find_by_name(place, images, name)


def _find_by_name(place: str, images: Sequence[ListedImage], name: str | None) -> Descriptor:
    if name is None:
        fitting = images
    else:
        full = _normalized(name)
        fitting = [image for image in images if image[1].full is not None and image[1].full in (name, full)]
        fitting = fitting or [image for image in images if image[1].tag == name]
    if not fitting:
        wanted = f"image {quoted(name)}" if name is not None else "an image"
        raise NotFoundError(f"{place}: expected {wanted}, there are: {_listed(images)}")
    if len({descriptor.digest for descriptor, _ in fitting}) > 1:
        what = "one image" if name is None else f"one image {quoted(name)}"
        raise UsageError(
            f"{place}: expected {what}, there are: {_listed(fitting)}",
            hint=f"name one of them, for example {place}:{shown_name(*fitting[0])}",
        )
    return fitting[0][0]


def _find_by_digest_or_position(place: str, images: Sequence[ListedImage], text: str) -> Descriptor | Digest:
    if text.isascii() and text.isdigit():
        position = int(text[:9])
        if position >= len(images):
            raise NotFoundError(f"{place}: expected an image at position {position}, there are {len(images)}")
        return images[position][0]
    digest = Digest.parse(text)
    for descriptor, _ in images:
        if descriptor.digest == digest:
            return descriptor
    # A platform's manifest is not listed where the index that lists it is.
    return digest


class ListedSource:
    """One image of a layout, in a directory or an archive; an `ImageSource`.

    Args:
        place: how messages call the layout.
        blobs: opens its blobs; closed by the caller.
        descriptor: of the image, with its names.
    """

    def __init__(self, place: str, blobs: BlobOpener, descriptor: Descriptor) -> None:
        self._place = place
        self._blobs = blobs
        self._descriptor = descriptor

    @property
    def display_name(self) -> str:
        """The layout's path and the image's name."""
        return f"{self._place}:{printable(shown_name(self._descriptor, self.image_name))}"

    @property
    def image_name(self) -> ImageName:
        """What ``index.json`` calls the image."""
        return name_of(self._descriptor)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index that ``descriptor`` names, verified; without one, the image's own."""
        wanted = descriptor or self._descriptor
        with locating(self._place):
            raw = read_small_blob(self._blobs, wanted, MAX_MANIFEST_BYTES, f"manifest {wanted.digest}")
        return ReceivedManifest(raw, wanted.media_type, wanted.digest)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's file."""
        return self._blobs.open_blob(descriptor, offset)

    def close(self) -> None:
        """Nothing stays open."""


def named(descriptor: Descriptor, name: ImageName) -> Descriptor:
    """Return the entry of ``index.json`` for an image: both annotations that names are kept in, for all readers."""
    annotations = dict(descriptor.annotations)
    annotations.pop(REF_NAME_ANNOTATION, None)
    annotations.pop(FULL_NAME_ANNOTATION, None)
    if name.tag is not None:
        annotations[REF_NAME_ANNOTATION] = name.tag
    if name.full is not None:
        annotations[FULL_NAME_ANNOTATION] = name.full
    return replace(descriptor, annotations=annotations)


def name_of(descriptor: Descriptor) -> ImageName:
    """Return the name in an entry of ``index.json``, whichever tool wrote it."""
    ref_name = descriptor.annotations.get(REF_NAME_ANNOTATION) or None
    full = descriptor.annotations.get(FULL_NAME_ANNOTATION) or None
    if full is None and ref_name is not None and "/" in ref_name:
        # crane writes the full reference where others write the tag.
        return ImageName(None, _normalized(ref_name) or ref_name)
    return ImageName(ref_name, full)


def _normalized(name: str) -> str | None:
    try:
        return str(ImageReference.parse(name))
    except InvalidReferenceError:
        return None


def shown_name(descriptor: Descriptor, name: ImageName) -> str:
    """Return what an image is called, or its digest as it stands after the place where it is."""
    return name.full or name.tag or f"@{descriptor.digest}"


def _listed(images: Sequence[ListedImage]) -> str:
    return ", ".join(printable(shown_name(*image)) for image in images) or "none"
