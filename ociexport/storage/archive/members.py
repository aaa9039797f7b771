"""The files in an archive of images, read in place: nothing is extracted.

The tar may be of any version: names with or without ``./``, with or without entries for directories, with links for
identical files. If it is compressed as a whole, or can't be seeked in, such as a pipe, it is copied once to a temporary
file without a name.
"""

from __future__ import annotations

import os
import posixpath
import stat
import sys
import tarfile
from copy import copy
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, FileIO
from typing import IO, TYPE_CHECKING, cast

from ociexport.errors import InvalidImageError, LimitExceededError, NotFoundError, quoted
from ociexport.spec.digest import ByteStream
from ociexport.spec.reference import as_path
from ociexport.system.compression import is_compressed, read_tar_chunks
from ociexport.system.temporary_files import open_temporary_file

if TYPE_CHECKING:
    from typing import Self

# The memory for names and offsets of files. docker save writes four files for each layer, and an OCI archive one for
# each blob: half a million names of that length fit.
_MAX_INDEX_BYTES = 160 * 1024 * 1024
# The memory for a file beside its name: measured, rounded up.
_MEMBER_BYTES = 200
# Headers, PAX records, long names and maps of sparse files are blocks of 512 bytes, and all are read into memory. No
# tool for images writes an entry with more of them.
_MAX_HEADER_BYTES = 1024 * 1024
# Global records stay in memory for all entries that follow. git writes one record, and no tool writes more than a few.
_MAX_GLOBAL_RECORDS = 64
# Tools write at most a link to a link.
_MAX_LINKS = 8
# An archive of layers compresses little; one that expands beyond both limits is made to fill the disk.
_MAX_EXPANSION = 100
_MAX_UNSUSPECTED_BYTES = 4 * 1024**3
# The errors that tarfile raises for damaged headers, some of them undocumented.
_TAR_ERRORS = (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class _Member:
    """The place of a file in the archive, or the target of a link."""

    offset: int
    size: int
    target: str | None


class ArchiveMembers:
    """The files in an archive, by name; its methods may be called from several threads.

    Args:
        file: the tar, open for reading at any place; closed with this.
        path: of the archive; ``-`` is standard input.

    Attributes:
        place: the archive's name in messages.
        typed: the archive's name as a user types it before an image's name; ``-`` alone would look like an option.

    Raises:
        InvalidImageError: it is not a tar, or a damaged one.
    """

    def __init__(self, file: FileIO, path: str) -> None:
        self.typed = "oci-archive:-" if path == "-" else as_path(path)
        self.place = _place_of(path)
        self._file = file
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
            if not _can_be_read_in_place(file):
                file, piped = _copied(file, _place_of(path)), file
                piped.close()
            return cls(file, path)
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
                f"expected at most {max_bytes} bytes, got {member.size}", where=f"{self.place}: {quoted(name)}"
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
        return _MemberStream(os.dup(self._file.fileno()), member.offset + offset, member.offset + member.size)

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
        end = self._file.seek(0, SEEK_END)
        last_offset = -1
        taken = 0
        reader = _HeaderReader(self._file)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:", errors="surrogateescape") as tar:
                while (item := tar.next()) is not None:
                    vars(tar)["members"] = []  # tarfile keeps them for extracting
                    reader.begin_entry()
                    if len(tar.pax_headers) > _MAX_GLOBAL_RECORDS:
                        raise tarfile.ReadError(f"global headers of more than {_MAX_GLOBAL_RECORDS} records")
                    if item.offset <= last_offset:
                        raise tarfile.ReadError("an entry that begins before the previous one")
                    last_offset = item.offset
                    if item.offset_data + (item.size if item.isreg() else 0) > end:
                        raise tarfile.ReadError("the last entry is truncated")
                    taken += _add_member(members, item)
                    if taken > _MAX_INDEX_BYTES:
                        raise LimitExceededError(
                            f"names of files: expected at most {_MAX_INDEX_BYTES} bytes of memory for them, got more",
                            where=self.place,
                        )
        except _TAR_ERRORS as error:
            raise InvalidImageError(f"expected a tar, got a damaged one or none ({error})", where=self.place) from error
        return members


def _place_of(path: str) -> str:
    return "standard input" if path == "-" else path


def _add_member(members: dict[str, _Member], item: tarfile.TarInfo) -> int:
    """Add the file or link of an entry, and return how many bytes of memory it takes."""
    name = _normalized(item.name)
    if item.issym():
        members[name] = _Member(0, 0, _normalized(posixpath.join(posixpath.dirname(name), item.linkname)))
    elif item.islnk():
        members[name] = _Member(0, 0, _normalized(item.linkname))
    elif item.isreg() and not item.issparse():
        members[name] = _Member(item.offset_data, item.size, None)
    else:
        return 0
    return _MEMBER_BYTES + sys.getsizeof(name) + sys.getsizeof(members[name].target or "")


def _normalized(name: str) -> str:
    """Return a name as other files in the archive refer to it: without ``./`` or a slash at the beginning."""
    return posixpath.normpath(name).lstrip("/")


def _can_be_read_in_place(file: FileIO) -> bool:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    return not is_compressed(os.pread(file.fileno(), 6, 0)) and file.tell() == 0


def _copied(file: FileIO, place: str) -> FileIO:
    """Return a temporary file with the content of ``file``, decompressed; the caller closes both."""
    counting = _CountingReader(file)
    copy = open_temporary_file()  # closed by the caller
    written = 0
    try:
        for chunk in read_tar_chunks(counting):
            written += len(chunk)
            if written > max(_MAX_UNSUSPECTED_BYTES, _MAX_EXPANSION * counting.count):
                raise LimitExceededError(
                    f"expected at most {_MAX_EXPANSION} times the compressed size, got more ({written} bytes so far)",
                    where=place,
                )
            view = memoryview(chunk)
            while view:
                view = view[os.write(copy.fileno(), view) :]
        copy.seek(0)
    except InvalidImageError as error:
        copy.close()
        if not error.where:
            error.add_place(place)
        raise
    except BaseException:
        copy.close()
        raise
    return copy


class _CountingReader:
    """A stream that counts the bytes read from it."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size) or b""
        self.count += len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()


class _HeaderReader:
    """The file that tarfile reads headers from, with its own position, and a limit on the headers before one entry.

    tarfile has no such limit, and keeps all headers in memory until it has read the entry.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._position = 0
        self._left = _MAX_HEADER_BYTES

    def begin_entry(self) -> None:
        """Reset the limit for the next entry."""
        self._left = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"headers of more than {_MAX_HEADER_BYTES} bytes before an entry")
        chunk = os.pread(self._file.fileno(), size, self._position)
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (self._position if whence == SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        return self._position


class _MemberStream:
    """The bytes of one file in the archive."""

    def __init__(self, fd: int, position: int, end: int) -> None:
        self._file = FileIO(fd)
        self._position = position
        self._end = end

    def read(self, size: int = -1, /) -> bytes:
        missing = max(self._end - self._position, 0)
        chunk = os.pread(self._file.fileno(), missing if size < 0 else min(size, missing), self._position)
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()
