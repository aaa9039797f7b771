"""One volume of a set as a destination: an archive in which some files are ranges of blobs.

The digest of a range is in ``bundle.json``. That document has a place in the plan, and is written when all ranges are
there. A cut blob is hashed from volume to volume, so its digest is verified with its last range.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO

from ociexport.errors import DigestMismatchError, InvalidImageError, SizeMismatchError, counted
from ociexport.images.destination import BlobWriter
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, Chunk, Digest, Hasher, Verifier
from ociexport.spec.lazy_dataclass import replace
from ociexport.storage.archive.plan import ArchiveEntry, ArchivePlan
from ociexport.storage.archive.writer import ArchiveFile
from ociexport.storage.bundle import MAX_BUNDLE_BYTES, Bundle, parse_bundle
from ociexport.storage.bundle_volume import VolumeRange
from ociexport.storage.layout.blobs import write_at
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.system.progress.protocol import ProgressTask


class CutBlobs:
    """The hashes of the cut blobs of a set, up to each range that was written or read."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[Digest, int], Hasher] = {}

    def hash_up_to(self, one: VolumeRange) -> Hasher:
        """Return the hash of the bytes before a range; a caller may update it."""
        return self._hashes[one.blob, one.offset].copy() if one.offset else one.blob.new_hasher()

    def note(self, one: VolumeRange, hasher: Hasher) -> None:
        """Remember the hash of all bytes up to the end of a range.

        Raises:
            DigestMismatchError: it is the last range, and the blob has another digest.
        """
        if one.end == one.size and hasher.hexdigest() != one.blob.encoded:
            got = f"{one.blob.algorithm}:{hasher.hexdigest()}"
            raise DigestMismatchError(f"digest mismatch: expected {one.blob}, got {got}", where="")
        self._hashes[one.blob, one.end] = hasher


class VolumeFile(ArchiveFile):
    """A volume that is being written; see `ArchiveFile`. Where it is asked for a cut blob, it takes the range of it.

    Args:
        bundle: its ``bundle.json``, with any digests for the ranges.

    Attributes:
        wrong: blobs whose ranges, from the first to the one in this volume, are not the blob.
    """

    def __init__(self, path: str, plan: ArchivePlan, bundle: Bundle, cut: CutBlobs) -> None:
        super().__init__(path, plan)
        self._bundle = bundle
        self._cut = cut
        self._ranges = _ranges_of(bundle)
        self._digests: dict[Digest, Digest] = {}
        self.wrong: set[Digest] = set()

    # A cut blob is never there as a whole, so its tar can't be compared with its diff_id.
    takes_checks = False

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether an earlier try left the complete blob; the bytes of a range are written again."""
        return descriptor.digest not in self._ranges and super().has_blob(descriptor, check)

    @contextmanager
    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> Iterator[BlobWriter]:
        """Give a writer for a blob, or for the range of a cut one; see `ArchiveFile.new_blob`."""
        one = self._ranges.get(descriptor.digest)
        if one is None:
            with super().new_blob(descriptor, check) as blob:
                yield blob
            return
        fd = os.dup(self._fd)
        try:
            writer = RangeWriter(fd, one, self._plan.blobs[one.blob].content_offset, self._cut.hash_up_to(one))
            yield writer
            self._digests[one.blob] = writer.verify()
            self._cut.note(one, writer.whole)
            self.wrong.discard(one.blob)  # a second try may have brought the right bytes
        except InvalidImageError:
            self.wrong.add(one.blob)
            raise
        finally:
            os.close(fd)
        self._note_whole(one.blob)

    def _finish(self) -> None:
        content = with_range_digests(self._bundle, self._digests).to_json()
        write_at(self._fd, content, _bundle_entry(self._plan, self._bundle).content_offset)
        super()._finish()


class RangeWriter:
    """Writes one range of a blob to its place in a volume.

    Args:
        place: offset of the range's first byte in the volume.
        before: hash of the blob's bytes before the range.

    Attributes:
        whole: hash of the blob's bytes up to those that are written.
    """

    is_complete = False

    def __init__(self, fd: int, one: VolumeRange, place: int, before: Hasher) -> None:
        self._fd = fd
        self._range = one
        self._place = place
        self._before = before
        self.restart()

    def restart(self) -> None:
        """Discard all bytes."""
        self.offset = 0
        self.whole = self._before.copy()
        self._hasher = hashlib.sha256()

    def write(self, chunk: Chunk, /) -> None:
        """Write the next bytes; raises SizeMismatchError before any are written beyond the range."""
        if self.offset + len(chunk) > self._range.length:
            raise SizeMismatchError(f"size mismatch: expected {counted(self._range.size, 'byte')}, got more", where="")
        write_at(self._fd, chunk, self._place + self.offset)
        self._hasher.update(chunk)
        self.whole.update(chunk)
        self.offset += len(chunk)

    def verify(self) -> Digest:
        """Return the digest of the range.

        Raises:
            SizeMismatchError: bytes are missing.
        """
        if self.offset != self._range.length:
            got = self._range.offset + self.offset
            raise SizeMismatchError(f"size mismatch: expected {counted(self._range.size, 'byte')}, got {got}", where="")
        return Digest("sha256", self._hasher.hexdigest())


def with_range_digests(bundle: Bundle, digests: Mapping[Digest, Digest]) -> Bundle:
    """Return the ``bundle.json`` of a volume with the digests of its ranges, by blob."""
    if bundle.volume is None:
        raise AssertionError("only a volume has ranges")
    ranges = tuple(replace(one, digest=digests[one.blob]) for one in bundle.volume.ranges)
    return replace(bundle, volume=replace(bundle.volume, ranges=ranges))


def verify_volume(path: str, plan: ArchivePlan, bundle: Bundle, cut: CutBlobs, task: ProgressTask) -> str:
    """Return the SHA-256 of a finished volume, if it is byte for byte what ``plan`` and ``bundle`` would write.

    The digests of its ranges are its own; each is compared with the bytes.

    Raises:
        FileNotFoundError: there is none.
        InvalidImageError: it is another one, or damaged.
    """
    hasher = hashlib.sha256()
    ranges = _ranges_of(bundle)
    with FileIO(path) as file:
        if os.fstat(file.fileno()).st_size != plan.size:
            raise _another(path)
        described = _bundle_entry(plan, bundle)
        digests = _range_digests_in(file, described, bundle, path)
        content = with_range_digests(bundle, digests).to_json()
        for entry in plan.entries:
            _compare(file, entry.header, hasher, path)
            if entry.content is not None:
                _compare(file, content if entry is described else entry.content, hasher, path)
            elif entry.digest in ranges:
                one = replace(ranges[entry.digest], digest=digests[entry.digest])
                whole = cut.hash_up_to(one)
                _read_range(file, one, (hasher, whole), task)
                cut.note(one, whole)
            elif entry.digest is not None:
                verifier = Verifier(entry.digest, entry.size, subject=path)
                for chunk in _chunks(file, entry):
                    verifier.update(chunk)
                    hasher.update(chunk)
                    task.advance(len(chunk))
                verifier.verify()
            _compare(file, entry.padding, hasher, path)
        _compare(file, plan.end, hasher, path)
    return hasher.hexdigest()


def _bundle_entry(plan: ArchivePlan, bundle: Bundle) -> ArchiveEntry:
    content = bundle.to_json()
    return next(entry for entry in plan.entries if entry.content == content)


def _range_digests_in(file: FileIO, entry: ArchiveEntry, bundle: Bundle, path: str) -> dict[Digest, Digest]:
    raw = os.pread(file.fileno(), min(entry.size, MAX_BUNDLE_BYTES), entry.content_offset)
    known = parse_bundle(raw, where=f"{path}: {BUNDLE_FILE}").volume
    digests = {one.blob: one.digest for one in known.ranges} if known is not None else {}
    if digests.keys() != _ranges_of(bundle).keys():
        raise _another(path)
    return digests


def _read_range(file: FileIO, one: VolumeRange, hashers: Iterable[Hasher], task: ProgressTask) -> None:
    """Update ``hashers`` with the bytes of a range, and verify its digest."""
    verifier = Verifier(one.digest, one.length, subject=one.file)
    left = one.length
    while left and (chunk := file.read(min(left, CHUNK_BYTES))):
        left -= len(chunk)
        verifier.update(chunk)
        for hasher in hashers:
            hasher.update(chunk)
        task.advance(len(chunk))
    verifier.verify()


def _compare(file: FileIO, expected: bytes, hasher: Hasher, path: str) -> None:
    got = file.read(len(expected))
    if got != expected:
        raise _another(path)
    hasher.update(got)


def _chunks(file: FileIO, entry: ArchiveEntry) -> Iterator[bytes]:
    left = entry.size
    while left and (chunk := file.read(min(left, CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def _ranges_of(bundle: Bundle) -> dict[Digest, VolumeRange]:
    return {one.blob: one for one in bundle.volume.ranges} if bundle.volume is not None else {}


def _another(path: str) -> InvalidImageError:
    return InvalidImageError("expected the volume that this run would write, got another one", where=path)
