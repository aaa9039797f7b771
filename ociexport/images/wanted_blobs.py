"""The blobs that an image needs, each with the source that returns it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from ociexport.errors import InvalidImageError, NotFoundError, RegistryError, locating, quoted
from ociexport.images.source import BlobOpener, ImageSource
from ociexport.spec.config import ImageConfig
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest
from ociexport.spec.manifest import Manifest
from ociexport.spec.named_tuple import NamedTuple


class BlobToFetch(NamedTuple):
    """A blob to fetch, and its source.

    Args:
        label: its name in errors.
        title: its name in progress lines, shorter.
        content: its bytes, if a document that is read already contains them, or the config was read; else None.
    """

    source: BlobOpener
    descriptor: Descriptor
    label: str
    title: str
    content: bytes | None


def blobs_of(source: ImageSource, manifest: Manifest, config: ImageConfig | None) -> list[BlobToFetch]:
    """Return each blob of the image once; the config's bytes, which were read before, are not fetched again.

    Raises:
        InvalidImageError: the manifest declares different sizes for one digest.
    """
    digest = manifest.config.digest
    content = config.raw if config is not None else manifest.config.data
    stored_config = BlobToFetch(source, manifest.config, f"config {digest}", f"config {digest.short}", content)
    layers = layer_blobs(source, manifest.layers, "layer" if config is not None else "blob")
    with locating(f"manifest {manifest.digest}"):
        return unite_blobs([[stored_config], layers])


def layer_blobs(source: BlobOpener, layers: Sequence[Descriptor], kind: str = "layer") -> list[BlobToFetch]:
    """Return a blob for each of ``layers``, numbered; ``kind`` is what messages call one."""
    count = len(layers)
    return [
        BlobToFetch(
            source,
            layer,
            f"{kind} {number} of {count} ({layer.digest})",
            f"{kind} {number}/{count} {layer.digest.short}",
            layer.data,
        )
        for number, layer in enumerate(layers, start=1)
    ]


def listed_blobs(source: BlobOpener, entries: Sequence[Descriptor]) -> list[BlobToFetch]:
    """Return a blob for each of ``entries``, which an index lists."""
    return [BlobToFetch(source, entry, f"blob {entry.digest}", f"blob {entry.digest.short}", None) for entry in entries]


def unite_blobs(images: Iterable[Iterable[BlobToFetch]]) -> list[BlobToFetch]:
    """Return the blobs of several images or platforms, each once, in order.

    Raises:
        InvalidImageError: different sizes are declared for one digest.
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
    """Yield the blob's bytes from ``offset`` on, as they arrive; nothing is verified."""
    if blob.content is not None:
        yield blob.content[offset:]
        return
    with closing(open_stream(blob, offset)) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def open_stream(blob: BlobToFetch, offset: int) -> ByteStream:
    """Return the blob's bytes from ``offset`` on, as `BlobOpener.open_blob`; a missing blob's error gets a hint."""
    descriptor = blob.descriptor
    try:
        return blob.source.open_blob(descriptor, offset)
    except NotFoundError as error:
        if not descriptor.urls:
            # A layout or an archive may know why it lacks the blob.
            if error.hint is None or isinstance(error, RegistryError):
                error.hint = "the source lacks this blob of the image: someone who has the image should push it again"
        elif not isinstance(error, RegistryError):  # whose own hint is better
            urls = ", ".join(map(quoted, descriptor.urls))
            error.hint = f"a foreign layer, available from {urls}"
        raise
