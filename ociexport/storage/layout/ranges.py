"""The ranges of blobs that a layout has got from some volumes of a set, until the blobs are whole.

Each blob has a file of its full size in ``.ociexport/ranges``, in which every range is at its place, and beside it a
document that lists the ranges which are there, verified and synced. A range is listed after its bytes are on disk, so a
process that is killed leaves nothing that is taken for a range. When all bytes are there, the digest of the blob is
verified, and the file takes the blob's name. Only the bytes of ranges take space: the file has holes in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ociexport.errors import InvalidDigestError, InvalidImageError
from ociexport.spec.descriptor import parse_digest_of
from ociexport.spec.digest import CHUNK_BYTES, Chunk, Digest, Verifier
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.index import MAX_INDEX_BYTES
from ociexport.storage.layout.blobs import COLLECTED_DIRECTORY, name_blob, write_at
from ociexport.storage.layout.documents import to_json
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from typing import Self

_LIST_SUFFIX = ".json"


class CollectedRange(NamedTuple):
    """A range that is there.

    Args:
        set_id: of the set of volumes that it came from.
        volume: its number in the set.
    """

    offset: int
    end: int
    set_id: Digest
    volume: int

    @classmethod
    def from_json(cls, item: JsonObject) -> CollectedRange:
        """Return ``item`` as a range; raises `InvalidImageError`."""
        set_id = parse_digest_of(item, "set", item.text("set"))
        return cls(item.integer("offset"), item.integer("end"), set_id, item.integer("volume"))

    def to_json(self) -> dict[str, object]:
        """Return the range as JSON."""
        return {"offset": self.offset, "end": self.end, "set": str(self.set_id), "volume": self.volume}


class CollectedBlob:
    """One blob whose ranges come together; a context manager, within which no other process writes to it.

    Args:
        directory: of a layout that is in use.
        digest: of the blob.
        size: of the blob.
    """

    def __init__(self, directory: LayoutDirectory, digest: Digest, size: int) -> None:
        self._directory = directory
        self._digest = digest
        self._size = size
        self._name = _name_of(digest)
        self.ranges: list[CollectedRange] = []

    def __enter__(self) -> Self:
        self._directory.make_directory(COLLECTED_DIRECTORY)
        self._fd = self._directory.open_locked(self._name, is_written=True)
        try:
            if os.fstat(self._fd).st_size == self._size:
                # Written over if it is damaged: the ranges have to come again then.
                with suppress(InvalidImageError):
                    self.ranges = list(read_collected(self._directory, self._digest))
            else:
                os.ftruncate(self._fd, 0)
                self._write_list()
                os.ftruncate(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self.ranges:
                self.remove()
        finally:
            os.close(self._fd)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there."""
        return not list(gaps_in(self.ranges, 0, self._size))

    def has(self, offset: int, end: int) -> bool:
        """Whether all bytes from ``offset`` to ``end`` are there."""
        return not list(gaps_in(self.ranges, offset, end))

    def write(self, chunk: Chunk, offset: int) -> None:
        """Write bytes that are not verified yet; those that are there stay as they are."""
        view = memoryview(chunk)
        for begin, end in gaps_in(self.ranges, offset, offset + len(view)):
            try:
                write_at(self._fd, view[begin - offset : end - offset], begin)
            except OSError as error:
                error.filename = self._directory.path_of(self._name)
                raise

    def add(self, one: CollectedRange) -> None:
        """List a range whose bytes are written, and were verified."""
        os.fsync(self._fd)
        self.ranges.append(one)
        self._write_list()

    def finish(self) -> None:
        """Verify the blob, and give it its name in the layout.

        Raises:
            DigestMismatchError: together the ranges are another blob; all of them are removed.
        """
        verifier = Verifier(self._digest, self._size, subject="")
        for offset in range(0, self._size, CHUNK_BYTES):
            verifier.update(os.pread(self._fd, min(CHUNK_BYTES, self._size - offset), offset))
        try:
            verifier.verify()
        except InvalidImageError:
            self.ranges = []
            raise
        os.fsync(self._fd)
        name_blob(self._directory, self._name, self._digest)
        self.ranges = []

    def remove(self) -> None:
        """Remove the file and the list."""
        remove_collected(self._directory, self._digest)

    def _write_list(self) -> None:
        content = to_json({"rangesVersion": 1, "ranges": [one.to_json() for one in self.ranges]})
        self._directory.write_file(f"{self._name}{_LIST_SUFFIX}", content, aside=COLLECTED_DIRECTORY)


def gaps_in(ranges: Sequence[CollectedRange], offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts from ``offset`` to ``end`` that no range covers, in order."""
    for one in sorted(ranges):
        if one.offset >= end:
            break
        if one.offset > offset:
            yield offset, one.offset
        offset = max(offset, one.end)
    if offset < end:
        yield offset, end


def read_collected(directory: LayoutDirectory, digest: Digest) -> tuple[CollectedRange, ...]:
    """Return the ranges of a blob that a layout has collected.

    Raises:
        InvalidImageError: the list is damaged.
    """
    name = f"{_name_of(digest)}{_LIST_SUFFIX}"
    try:
        raw = directory.read_file(name, MAX_INDEX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    item = parse_json_object(raw, where=directory.path_of(name))
    return tuple(map(CollectedRange.from_json, item.objects("ranges")))


def has_collected(directory: LayoutDirectory, digest: Digest) -> bool:
    """Whether a file of this blob is there."""
    return directory.has(_name_of(digest)) or directory.has(f"{_name_of(digest)}{_LIST_SUFFIX}")


def remove_collected(directory: LayoutDirectory, digest: Digest) -> None:
    """Remove all ranges of a blob: another way, the blob has become whole, or it is not needed."""
    name = _name_of(digest)
    # The list at last: without the file it is void.
    for file in (name, f"{name}{_LIST_SUFFIX}", f"{name}{_LIST_SUFFIX}.partial"):
        with suppress(FileNotFoundError, NotADirectoryError):
            directory.remove(file)


def collected_files(directory: LayoutDirectory) -> Iterator[tuple[str, Digest | None, os.stat_result]]:
    """Yield the files of collected blobs: name, digest of the blob, and status; no digest for a file of another kind.

    Raises:
        InvalidImageError: something other than a directory has the name of their directory.
    """
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(directory.list_names(COLLECTED_DIRECTORY))
    for name in names:
        algorithm, _, encoded = name.split(".")[0].partition("-")
        digest = None
        with suppress(InvalidDigestError):
            digest = Digest(algorithm, encoded)
        with suppress(FileNotFoundError):  # complete meanwhile
            yield f"{COLLECTED_DIRECTORY}/{name}", digest, directory.status(f"{COLLECTED_DIRECTORY}/{name}")


def _name_of(digest: Digest) -> str:
    return f"{COLLECTED_DIRECTORY}/{digest.algorithm}-{digest.encoded}"
