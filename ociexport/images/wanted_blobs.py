"""The blobs that an image needs, each with the source that gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from ociexport.errors import InvalidImageError, NotFoundError, RegistryError, quoted
from ociexport.images.source import BlobOpener, ImageSource
from ociexport.spec.config import ImageConfig
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.manifest import Manifest

# What is read, hashed and written at once; larger chunks bring nothing, smaller ones more hand-overs of the lock.
CHUNK_BYTES = 1024 * 1024


class BlobToFetch(NamedTuple):
    """A blob to fetch, from where, and how messages call it.

    Args:
        content: its bytes where they are known already, from a document that holds them or from reading the config.
    """

    source: BlobOpener
    descriptor: Descriptor
    label: str
    title: str
    content: bytes | None


def blobs_of(source: ImageSource, manifest: Manifest, config: ImageConfig | None) -> list[BlobToFetch]:
    """Return each blob of the image once; the config's bytes, which were read before, are not fetched again.

    Raises:
        InvalidImageError: the same digest is said to have several sizes.
    """
    count = len(manifest.layers)
    kind = "layer" if config is not None else "blob"
    digest = manifest.config.digest
    content = config.raw if config is not None else manifest.config.data
    blobs = {digest: BlobToFetch(source, manifest.config, f"config {digest}", f"config {digest.short}", content)}
    for number, layer in enumerate(manifest.layers, start=1):
        label = f"{kind} {number} of {count} ({layer.digest})"
        title = f"{kind} {number}/{count} {layer.digest.short}"
        known = blobs.setdefault(layer.digest, BlobToFetch(source, layer, label, title, layer.data))
        if known.descriptor.size != layer.size:
            raise InvalidImageError(
                f"size: expected {known.descriptor.size}, as for the same digest before, got {layer.size}",
                where=f"manifest {manifest.digest}: {label}",
            )
    return list(blobs.values())


def unite_blobs(images: Iterable[Iterable[BlobToFetch]]) -> list[BlobToFetch]:
    """Return the blobs of several images or platforms, each once, in order.

    Raises:
        InvalidImageError: two say different sizes of the same digest.
    """
    united: dict[Digest, BlobToFetch] = {}
    for blobs in images:
        for blob in blobs:
            known = united.setdefault(blob.descriptor.digest, blob)
            if known.descriptor.size != blob.descriptor.size:
                expected, got = known.descriptor.size, blob.descriptor.size
                raise InvalidImageError(
                    f"size: expected {expected}, as for the same digest before, got {got}", where=blob.label
                )
    return list(united.values())


def read_chunks(blob: BlobToFetch, offset: int) -> Iterator[bytes]:
    """Yield the blob's bytes from ``offset`` on, as they come; nothing is verified."""
    if blob.content is not None:
        yield blob.content[offset:]
        return
    with closing(open_stream(blob, offset)) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def open_stream(blob: BlobToFetch, offset: int) -> ByteStream:
    descriptor = blob.descriptor
    try:
        return blob.source.open_blob(descriptor, offset)
    except NotFoundError as error:
        if not descriptor.urls:
            error.hint = "the image names a blob that is not there: whoever has the image should push it again"
        elif not isinstance(error, RegistryError):  # which knows more of it
            urls = ", ".join(map(quoted, descriptor.urls))
            error.hint = f"a foreign layer, to be had from {urls}"
        raise
