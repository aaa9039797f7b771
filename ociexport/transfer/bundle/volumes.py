"""write_volumes(): a thin archive as volumes, each complete before the next one begins, and their ``SHA256SUMS``.

Blobs go straight from their source into the volumes. Unfinished is only the volume that is being written; the next run
keeps the finished ones, if they are byte for byte what it would write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO

from ociexport.errors import InvalidImageError, UsageError, quoted
from ociexport.images.fetch import BlobFetch
from ociexport.images.prepare import PreparedImage
from ociexport.images.source import BlobOpener
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.archive.names import compression_of
from ociexport.storage.archive.volume_file import CutBlobs, VolumeFile, verify_volume
from ociexport.storage.archive.writer import verify_is_file_to_write
from ociexport.storage.bundle import Bundle
from ociexport.storage.bundle_volume import is_volume_name, volume_name
from ociexport.system.files import errors_named, new_file
from ociexport.system.partial_names import partial_name
from ociexport.system.progress.protocol import Progress, format_bytes
from ociexport.transfer.bundle.volume_plan import Piece, PlannedVolume, plan_volumes
from ociexport.transfer.result import FetchedBlobs, WrittenVolume

SUMS_FILE = "SHA256SUMS"
# A larger file of that name has no sums.
_MAX_SUMS_BYTES = 1024 * 1024
_SUM_DIGITS = 64


def write_volumes(
    out: str,
    images: Sequence[PreparedImage],
    bundle: Bundle,
    max_bytes: int,
    *,
    jobs: int,
    seconds: int,
    progress: Progress,
) -> tuple[FetchedBlobs, tuple[WrittenVolume, ...]]:
    """Write ``images`` into volumes called after ``out``; returns what was fetched, and the volumes.

    Args:
        bundle: describes all of ``images``, and what is left out of them.
        max_bytes: of one volume.
        seconds: modification time of all entries, since 1970.

    Raises:
        UsageError: ``max_bytes`` is too small, or something other than a file has the name of a volume.
        InvalidImageError, NotFoundError, RegistryError: a blob can't be fetched, or is not what its digest says;
            volumes with ranges of a wrong blob are removed.
        OSError: the disk or file system.
    """
    verify_fits_volumes(out)
    volumes = plan_volumes(images, bundle, max_bytes, seconds)
    paths = [volume_name(out, volume.number, volume.count) for volume in volumes]
    for path in paths:
        verify_is_file_to_write(path)
    total = _Total(progress)
    cut = CutBlobs()
    sums: dict[str, str] = {}
    with _Streams() as streams:
        for path, volume in zip(paths, volumes, strict=True):
            size = format_bytes(volume.plan.size)
            with suppress(FileNotFoundError, InvalidImageError):
                sums[path] = _kept_sum(path, volume, cut, progress)
                total.add_kept(volume)
                progress.say(f"{path}: volume {volume.number} of {volume.count} ({size}): already there")
                continue
            with errors_named(path, partial_name(path)), VolumeFile(path, volume.plan, volume.bundle, cut) as file:
                try:
                    total.add(volume, file, [streams.of(piece) for piece in volume.pieces], jobs)
                except InvalidImageError:
                    _remove_volumes_with(file.wrong, volumes[: volume.number - 1], paths)
                    raise
            sums[path] = _sum_of(path)
            progress.say(f"{path}: volume {volume.number} of {volume.count} ({size}): written")
    if not total.fetched_bytes:
        total.reused |= {blob.descriptor.digest for image in images for blob in image.blobs}
    _write_sums(out, sums)
    return total, tuple(
        WrittenVolume(path, volume.plan.size, sums[path]) for path, volume in zip(paths, volumes, strict=True)
    )


def name_volumes(
    out: str, images: Sequence[PreparedImage], bundle: Bundle, max_bytes: int, seconds: int
) -> tuple[WrittenVolume, ...]:
    """Return the volumes that `write_volumes` would write; raises UsageError as it does."""
    verify_fits_volumes(out)
    return tuple(
        WrittenVolume(volume_name(out, volume.number, volume.count), volume.plan.size)
        for volume in plan_volumes(images, bundle, max_bytes, seconds)
    )


def verify_fits_volumes(out: str) -> None:
    """Return if ``out`` is a name for volumes: that of a plain archive.

    Raises:
        UsageError: it is not.
    """
    if compression_of(out) is not None or not os.path.basename(out) or os.path.isdir(out):
        raise UsageError(
            f"volume-size: expected the name of a plain archive, such as update.tar, got {quoted(out)}",
            hint="layers are compressed already, so volumes are not compressed again",
        )


class _Total:
    """What was fetched for all volumes: a blob counts once, with the bytes of all its ranges; see `FetchedBlobs`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.fetched_bytes: dict[Digest, int] = {}
        self.reused: set[Digest] = set()

    def add_kept(self, volume: PlannedVolume) -> None:
        """Count the blobs of a volume that an earlier run finished."""
        self.reused |= {piece.blob.descriptor.digest for piece in volume.pieces} - self.fetched_bytes.keys()

    def add(self, volume: PlannedVolume, file: VolumeFile, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        """Fetch the pieces of a volume; raises as `BlobFetch.run`."""
        fetch = BlobFetch(file, self._progress)
        fetch.run(blobs, jobs)
        for digest, count in fetch.fetched_bytes.items():
            self.fetched_bytes[digest] = self.fetched_bytes.get(digest, 0) + count
        self.reused = (self.reused | fetch.reused) - fetch.fetched_bytes.keys()


class _Streams:
    """Opens pieces of blobs. A stream that one volume did not read to its end stays open for the next one.

    Otherwise a source that can only be read from the beginning would be read again for each volume.
    """

    def __init__(self) -> None:
        self._kept: dict[Digest, tuple[int, ByteStream]] = {}

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        for _offset, stream in self._kept.values():
            stream.close()

    def of(self, piece: Piece) -> BlobToFetch:
        """Return a piece as a blob to fetch; it has the digest of the whole blob, and its own size."""
        if piece.is_whole:
            return piece.blob
        blob, end = piece.blob, piece.offset + piece.length
        descriptor = blob.descriptor
        return BlobToFetch(
            _PieceOpener(blob.source, descriptor, piece, self),
            Descriptor(descriptor.media_type, descriptor.digest, piece.length),
            f"{blob.label}: bytes {piece.offset} to {end} of {descriptor.size}",
            f"{blob.title} from {format_bytes(piece.offset)} on",
            blob.content[piece.offset : end] if blob.content is not None else None,
        )

    def open(self, source: BlobOpener, descriptor: Descriptor, offset: int) -> ByteStream:
        """Return a blob's bytes from ``offset`` on."""
        known = self._kept.pop(descriptor.digest, None)
        if known is not None:
            if known[0] == offset:
                return known[1]
            known[1].close()
        return source.open_blob(descriptor, offset)

    def keep(self, digest: Digest, offset: int, stream: ByteStream) -> None:
        """Keep a stream open that is at ``offset`` of a blob."""
        self._kept[digest] = offset, stream


@dataclass(frozen=True, slots=True)
class _PieceOpener:
    source: BlobOpener
    whole: Descriptor
    piece: Piece
    streams: _Streams

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the bytes of the piece from its own ``offset`` on."""
        begin = self.piece.offset + offset
        return _PieceStream(self.streams.open(self.source, self.whole, begin), begin, self.piece, self.streams)


class _PieceStream:
    """Ends where the piece ends; for the last piece of a blob where the stream ends, so a longer blob is detected."""

    def __init__(self, stream: ByteStream, offset: int, piece: Piece, streams: _Streams) -> None:
        self._stream = stream
        self._offset = offset
        self._digest = piece.blob.descriptor.digest
        self._end = piece.offset + piece.length
        self._is_last = self._end == piece.blob.descriptor.size
        self._streams = streams

    def read(self, size: int = -1, /) -> bytes:
        if not self._is_last:
            left = self._end - self._offset
            size = min(size, left) if size >= 0 else left
            if not size:
                return b""
        chunk = self._stream.read(size)
        self._offset += len(chunk)
        return chunk

    def close(self) -> None:
        if self._offset == self._end and not self._is_last:
            self._streams.keep(self._digest, self._offset, self._stream)
        else:
            self._stream.close()


def _kept_sum(path: str, volume: PlannedVolume, cut: CutBlobs, progress: Progress) -> str:
    """Return the sum of a finished volume; raises as `verify_volume`."""
    count = sum(piece.length for piece in volume.pieces)
    if os.path.getsize(path) != volume.plan.size:
        raise InvalidImageError("expected the volume that this run would write, got another one", where=path)
    with progress.phase("verifying", count), progress.task(os.path.basename(path), count) as task:
        return verify_volume(path, volume.plan, volume.bundle, cut, task)


def _remove_volumes_with(wrong: set[Digest], volumes: Sequence[PlannedVolume], paths: Sequence[str]) -> None:
    """Remove finished volumes with ranges of a blob that proved to be wrong."""
    for volume, path in zip(volumes, paths, strict=False):
        if any(piece.blob.descriptor.digest in wrong for piece in volume.pieces):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _sum_of(path: str) -> str:
    hasher = hashlib.sha256()
    with FileIO(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _write_sums(out: str, sums: Mapping[str, str]) -> None:
    """Write the sums beside the volumes, as ``sha256sum`` does; lines for other files there stay.

    Spec: GNU coreutils manual, "md5sum invocation", about the format and the backslash.
    """
    directory, name = os.path.split(out)
    place = os.path.join(directory, SUMS_FILE)
    lines = [line for line in _known_sums(place) if not is_volume_name(_name_in(line), name)]
    for path, value in sums.items():
        file = os.path.basename(path)
        escaped = file.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(os.fsencode(f"{'' if escaped == file else chr(92)}{value}  {escaped}"))
    with new_file(place) as file_of_sums:
        file_of_sums.write(b"\n".join(lines) + b"\n")


def _known_sums(place: str) -> list[bytes]:
    with suppress(FileNotFoundError), FileIO(place) as file:
        raw = file.read(_MAX_SUMS_BYTES + 1)
        return raw.splitlines() if len(raw) <= _MAX_SUMS_BYTES else []
    return []


def _name_in(line: bytes) -> str:
    """Return the name of a file in a line of sums; a backslash at its beginning says that the name is escaped."""
    name = os.fsdecode(line.removeprefix(b"\\")[_SUM_DIGITS + 2 :])
    if not line.startswith(b"\\"):
        return name
    return name.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
