"""The files in an archive of images, read in place: nothing is extracted.

The tar may be of any version: names with or without ``./``, with or without entries for directories, with links for
identical files, with sparse files. If it is compressed as a whole, or can't be seeked in, such as a pipe, it is copied
once to a temporary file without a name.
"""

from __future__ import annotations

import os
import posixpath
import stat
import sys
from copy import copy
from io import FileIO
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, LimitExceededError, NotFoundError, counted, quoted
from ociexport.layers.tar.file_reader import TarFileReader
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.spec.digest import ByteStream
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import as_path
from ociexport.storage.archive.member_streams import MemberStream, SparseMemberStream
from ociexport.system.compression import MAGIC_BYTES, compression_of, is_compressed, read_tar_chunks
from ociexport.system.temporary_files import append_whole, open_temporary_file

if TYPE_CHECKING:
    from typing import Self

# The memory for names and offsets of files. docker save writes four files for each layer, and an OCI archive one for
# each blob: half a million names of that length fit.
_MAX_INDEX_BYTES = 160 * 1024 * 1024
# The memory for a file beside its name: measured, rounded up.
_MEMBER_BYTES = 200
# A segment of a sparse file is two numbers in an array, which may have spare room.
_SEGMENT_BYTES = 20
# Tools write at most a link to a link.
_MAX_LINKS = 8
# An archive of layers compresses little; one that expands beyond both limits is made to fill the disk. Holes of sparse
# files expand too.
_MAX_EXPANSION = 100
_MAX_UNSUSPECTED_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class _Member:
    """The place of a file in the archive, with its segments if it is sparse, or the target of a link."""

    offset: int
    size: int
    target: str | None = None
    segments: SparseSegments | None = None


class ArchiveMembers:
    """The files in an archive, by name; its methods may be called from several threads.

    Args:
        file: the tar, open for reading at any place; closed with this.
        path: of the archive; ``-`` is standard input.
        compression: the format in which the tar was compressed, for messages.

    Attributes:
        path: as given.
        place: the archive's name in messages.
        typed: the archive's name as a user types it before an image's name; ``-`` alone would look like an option.

    Raises:
        InvalidImageError: it is not a tar, or a damaged one.
    """

    def __init__(self, file: FileIO, path: str, compression: str | None = None) -> None:
        self.typed = "oci-archive:-" if path == "-" else as_path(path)
        self.path = path
        self.place = _place_of(path)
        self._file = file
        self._compression = compression
        self._is_owner = True
        self._members = self._read_members()

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the archive at ``path``; ``-`` is standard input.

        Raises:
            NotFoundError: the file does not exist.
            InvalidImageError, LimitExceededError: it is not a tar, a damaged one, or a decompression bomb.
        """
        try:
            file = FileIO(0, closefd=False) if path == "-" else FileIO(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFoundError(f"{quoted(path)}: expected an archive, there is no such file") from error
        return cls.over(file, path)

    @classmethod
    def over(cls, file: FileIO, path: str) -> Self:
        """Return the archive in an open file, which is closed with it, or at once after an error; raises as `open`."""
        try:
            compression = None
            if not _can_be_read_in_place(file):
                piped = file
                file, compression = _copied(piped, _place_of(path))
                piped.close()
            return cls(file, path, compression)
        except BaseException:
            file.close()
            raise

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files and links, in the order of the archive."""
        return tuple(self._members)

    def size_of(self, name: str) -> int:
        """Return a file's size."""
        return self._member(name).size

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a whole file.

        Raises:
            LimitExceededError: it is larger than ``max_bytes``.
            NotFoundError: it is not in the archive.
        """
        member = self._member(name)
        if member.size > max_bytes:
            raise LimitExceededError(
                f"expected at most {counted(max_bytes, 'byte')}, got {member.size}",
                where=f"{self.place}: {quoted(name)}",
            )
        stream = self.open_file(name)
        try:
            return stream.read(member.size)
        finally:
            stream.close()

    def open_file(self, name: str, offset: int = 0) -> ByteStream:
        """Return a file's bytes from ``offset`` on; the caller closes it.

        Raises:
            NotFoundError: it is not in the archive.
        """
        member = self._member(name)
        fd = os.dup(self._file.fileno())
        if member.segments is not None:
            return SparseMemberStream(fd, member.offset, member.segments, member.size, offset)
        return MemberStream(fd, member.offset + offset, member.offset + member.size)

    def kept_open(self) -> Self:
        """Return the same archive for a user whose ``close`` leaves it open for the others."""
        other = copy(self)
        other._is_owner = False
        return other

    def close(self) -> None:
        """Close the archive; open streams stay usable."""
        if self._is_owner:
            self._file.close()

    def _member(self, name: str) -> _Member:
        member = self._find(name)
        if member is None:
            raise NotFoundError(f"{self.place}: {quoted(name)}: not in the archive")
        return member

    def _find(self, name: str) -> _Member | None:
        """Return the file called ``name``, following links within the archive."""
        for _ in range(_MAX_LINKS):
            member = self._members.get(posixpath.normpath(name))
            if member is None or member.target is None:
                return member
            name = member.target
        return None

    def _read_members(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        taken = sparse_bytes = 0
        name = ""
        reader = TarFileReader(self._file.fileno())
        try:
            for entry in reader:
                name = _normalized(_text_of(entry.name))
                taken += _add_member(members, name, entry, reader.data_offset)
                if taken > _MAX_INDEX_BYTES:
                    raise LimitExceededError(
                        f"names of files: expected at most {_MAX_INDEX_BYTES} bytes of memory for them, got more"
                    )
                sparse_bytes += entry.size if entry.segments is not None else 0
                self._verify_sparse_bytes(sparse_bytes)
        except LimitExceededError as error:
            error.add_place(self.place)
            error.hint = None  # it names an option for layers
            raise
        except InvalidImageError as error:
            raise self._tar_error(name, error.message) from error
        if not reader.data_offset:
            raise self._tar_error("", "no bytes")
        return members

    def _tar_error(self, last: str, reason: str) -> InvalidImageError:
        """Return the error for what comes after the entry ``last``, or for the file if there is no entry."""
        from ociexport.storage.archive.misfits import damaged_tar_error, no_tar_error  # noqa: PLC0415 - start-up: only an error needs it

        if last:
            return damaged_tar_error(self.place, last, reason)
        return no_tar_error(self._file.fileno(), self.path, self.place, self._compression, reason)

    def _verify_sparse_bytes(self, count: int) -> None:
        """Return if the sparse files, holes included, may have ``count`` bytes in all."""
        if count > _MAX_UNSUSPECTED_BYTES and count > _MAX_EXPANSION * os.fstat(self._file.fileno()).st_size:
            raise LimitExceededError(
                f"sparse files: expected at most {_MAX_EXPANSION} times the size of the archive, "
                f"got more ({counted(count, 'byte')} so far)"
            )


def _place_of(path: str) -> str:
    return "standard input" if path == "-" else path


def _add_member(members: dict[str, _Member], name: str, entry: Entry, data_offset: int) -> int:
    """Add the file or link of an entry, and return how many bytes of memory it takes."""
    if entry.type is EntryType.SYMLINK:
        target = posixpath.join(posixpath.dirname(name), _text_of(entry.link_name))
        members[name] = _Member(0, 0, _normalized(target))
    elif entry.type is EntryType.HARD_LINK:
        members[name] = _Member(0, 0, _normalized(_text_of(entry.link_name)))
    elif entry.type is EntryType.FILE:
        members[name] = _Member(data_offset, entry.size, segments=entry.segments)
    else:
        return 0
    map_bytes = _SEGMENT_BYTES * len(entry.segments or ())
    return _MEMBER_BYTES + sys.getsizeof(name) + sys.getsizeof(members[name].target or "") + map_bytes


def _text_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _normalized(name: str) -> str:
    """Return a name as other files in the archive refer to it: without ``./`` or a slash at the beginning."""
    return posixpath.normpath(name).lstrip("/")


def _can_be_read_in_place(file: FileIO) -> bool:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    return not is_compressed(os.pread(file.fileno(), MAGIC_BYTES, 0)) and file.tell() == 0


def _copied(file: FileIO, place: str) -> tuple[FileIO, str | None]:
    """Return a temporary file with what ``file`` holds, decompressed, and its compression; the caller closes both."""
    counting = _CountingReader(file)
    copy = open_temporary_file()  # closed by the caller
    written = 0
    try:
        for chunk in read_tar_chunks(counting):
            written += len(chunk)
            if written > max(_MAX_UNSUSPECTED_BYTES, _MAX_EXPANSION * counting.count):
                raise LimitExceededError(
                    f"expected at most {_MAX_EXPANSION} times the compressed size, got more "
                    f"({counted(written, 'byte')} so far)",
                    where=place,
                )
            append_whole(copy, chunk)
        copy.seek(0)
    except InvalidImageError as error:
        copy.close()
        if not error.where:
            error.add_place(place)
        raise
    except BaseException:
        copy.close()
        raise
    return copy, compression_of(counting.head)


class _CountingReader:
    """A stream that counts the bytes read from it, and keeps the first ones."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.count = 0
        self.head = b""

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size) or b""
        self.count += len(chunk)
        if len(self.head) < MAGIC_BYTES:
            self.head += chunk[:MAGIC_BYTES]
        return chunk

    def close(self) -> None:
        self._file.close()
