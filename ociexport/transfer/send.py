"""send_image(): one image from any source to a registry, its tag last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress

from ociexport.errors import (
    InvalidImageError,
    InvalidReferenceError,
    MissingBlobsError,
    NotFoundError,
    UsageError,
    counted,
)
from ociexport.images.destination import SendingDestination
from ociexport.images.fetch import BlobFetch
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.resolve import MAX_INDEX_DEPTH
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest, innermost, is_remote
from ociexport.images.wanted_blobs import BlobToFetch, blobs_of, unite_blobs
from ociexport.images.wrapping_source import WrappingSource
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.manifest import Index, parse_document
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult, results_of, with_companions

# The image that an image was built on (image-spec annotations.md); where containerd found a layer, by registry.
_BASE_ANNOTATION = "org.opencontainers.image.base.name"
_SOURCE_ANNOTATION = "containerd.io/distribution.source."
# Names in a message; an image with more missing blobs is not there at all.
_MAX_NAMED = 16


def send_image(
    source: ImageSource,
    destination: SendingDestination,
    options: PullOptions,
    progress: Progress = SILENT,
) -> PullResult:
    """Send one image to a registry; see `copy_image`.

    1. Its documents are read and checked, and so are its companions'.
    2. No tag is in the way, and each blob is at the source or at the registry.
    3. Blobs are sent side by side, then manifests, children first, then the companions' tags, and the tag last.

    Raises:
        MissingBlobsError: blobs are neither here nor there; no manifest was sent.
        UsageError: a tag exists with another digest, and may not be moved; ``deep`` is for layouts and archives.
    """
    if options.deep or options.decompress:
        raise UsageError("deep, decompress: expected a layout or an archive as destination, got a registry")
    image, companions = prepare_to_send(source, destination, options, progress)  # 1
    destination.add_mounts(images_named_by(image))
    copies = (*companions, image)
    for copy in copies:  # 2
        if copy.name.tag is not None:
            destination.verify_tag(copy.name.tag, copy.listed.digest)
    blobs = unite_blobs(copy.blobs for copy in copies)
    lacking = {blob.descriptor.digest for blob in verify_available(image.source, blobs, destination)}
    fetch = BlobFetch(destination, progress)
    fetch.run([blob for blob in blobs if blob.descriptor.digest not in lacking], options.jobs)  # 3
    for copy in copies:
        for document in copy.documents:
            destination.write_manifest(document)
        destination.write_name(copy.listed, copy.name)
    return with_companions(results_of([image], [image], [fetch])[0], companions)


def prepare_to_send(
    source: ImageSource, destination: SendingDestination, options: PullOptions, progress: Progress
) -> tuple[PreparedImage, list[PreparedImage]]:
    """Return the image and its companions, read and checked; what the source lacks is read at the registry."""
    if not is_remote(source):
        source = _CompletedSource(source, destination)
    # Outermost: a document from the registry must be signed as well.
    source = options.signed(source)
    try:
        image = prepare_image(source, options.platform, None, progress)
    except MissingBlobsError as error:
        # The first one that preparing needed; the user has to know of all.
        missing = list(dict.fromkeys(_missing_below(source, None, destination)))
        raise (_missing_error(source, destination, missing) if missing else error) from error
    if not options.referrers:
        return image, []
    from ociexport.transfer.companions import prepare_companions  # noqa: PLC0415 - start-up: few copies have referrers

    return image, prepare_companions(image, None, progress)


def images_named_by(image: PreparedImage) -> Iterator[ImageReference]:
    """Yield the images that ``image`` names and that may share blobs with it: itself at its source, and its bases."""
    names = [_name_at_source(image.source)]
    for one in image.manifests:
        names.append(one.manifest.annotations.get(_BASE_ANNOTATION))
        for layer in one.manifest.layers:
            for key, value in layer.annotations.items():
                registry = key.removeprefix(_SOURCE_ANNOTATION)
                names += [f"{registry}/{path}" for path in value.split(",")] if registry != key else []
    for name in dict.fromkeys(filter(None, names)):
        with suppress(InvalidReferenceError):
            yield ImageReference.parse(name)


def verify_available(
    source: ImageSource, blobs: Iterable[BlobToFetch], destination: SendingDestination
) -> list[BlobToFetch]:
    """Return the blobs that only the registry has, or that it does without: foreign layers that are not here.

    Raises:
        MissingBlobsError: some are neither here nor there.
    """
    if is_remote(source):
        return []
    lacking, missing = [], []
    for blob in blobs:
        if _is_here(blob):
            continue
        descriptor = blob.descriptor
        is_there = destination.has_blob(descriptor) or destination.mount(descriptor)
        if not is_there and descriptor.media_type not in mediatypes.FOREIGN_LAYERS:
            missing.append(str(descriptor.digest))
        lacking.append(blob)
    if missing:
        raise _missing_error(source, destination, missing)
    return lacking


def _missing_below(
    source: ImageSource, descriptor: Descriptor | None, destination: SendingDestination, depth: int = 0
) -> Iterator[str]:
    """Yield the digests of manifests and blobs, of all platforms, that are neither here nor at the registry."""
    try:
        received = source.fetch_manifest(descriptor)
    except MissingBlobsError:
        yield str(descriptor.digest if descriptor is not None else "")
        return
    with suppress(InvalidImageError):
        document = parse_document(received.raw, received.media_type, received.digest)
        if isinstance(document, Index):
            for entry in document.manifests if depth < MAX_INDEX_DEPTH else ():
                yield from _missing_below(source, entry, destination, depth + 1)
            return
        for blob in blobs_of(source, document, None):
            try:
                verify_available(source, [blob], destination)
            except MissingBlobsError:
                yield str(blob.descriptor.digest)


def _missing_error(source: ImageSource, destination: SendingDestination, missing: list[str]) -> MissingBlobsError:
    more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
    return MissingBlobsError(
        f"{source.display_name}: expected each blob here or at {destination}, "
        f"{counted(len(missing), 'blob')} missing at both: {', '.join(missing[:_MAX_NAMED])}{more}",
        hint="push the image that it is based on first, or complete the layout",
    )


def _name_at_source(source: ImageSource) -> str | None:
    inner = innermost(source)
    name = getattr(inner, "image_name", None)
    return name.full if isinstance(name, ImageName) else None


def _is_here(blob: BlobToFetch) -> bool:
    if blob.content is not None:
        return True
    try:
        with closing(blob.source.open_blob(blob.descriptor)):
            return True
    except (NotFoundError, MissingBlobsError):
        return False


class _CompletedSource(WrappingSource):
    """A source on this machine whose documents and configs may be at the registry instead: of a thin layout.

    Args:
        source: gives its other blobs.
        destination: is read only for what ``source`` lacks.
    """

    def __init__(self, source: ImageSource, destination: SendingDestination) -> None:
        super().__init__(source)
        self._destination = destination

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return a manifest or index, from the registry if it is not here."""
        try:
            return super().fetch_manifest(descriptor)
        except NotFoundError:
            if descriptor is None:
                raise
        try:
            return self._destination.fetch_manifest(descriptor)
        except NotFoundError as error:
            raise _missing_error(self, self._destination, [str(descriptor.digest)]) from error

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return a blob; a config from the registry if it is not here."""
        try:
            return super().open_blob(descriptor, offset)
        except NotFoundError:
            if descriptor.media_type not in mediatypes.IMAGE_CONFIGS:
                raise
        is_there = self._destination.has_blob(descriptor) or self._destination.mount(descriptor)
        if not is_there:
            raise _missing_error(self, self._destination, [str(descriptor.digest)])
        return self._destination.open_blob(descriptor, offset)
