"""LayoutDirectory: all access to the files of a layout, of a cache of blobs, and of skopeo's ``dir:``.

The user names the directory itself, so it may be a link. No link within it is followed, since a layout may come from
an untrusted source: each directory is opened relative to its parent's descriptor, and only regular files are opened.
Nothing stays open between two calls, since another process may remove a layout and make it again.

Names are relative to the directory, with ``/`` between their parts.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO

from ociexport.errors import InvalidImageError, UsageError, counted, quoted
from ociexport.spec.digest import CHUNK_BYTES
from ociexport.system.files import NO_LINK, sync_directory
from ociexport.system.locks import kind_of_file, open_locked, verify_is_regular
from ociexport.system.partial_names import PARTIAL_SUFFIX, hidden_name, random_name

# A directory on the way to a file need not be readable.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# Non-blocking, since a fifo may replace a file after its kind was checked.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Linux's ioctl for a copy that shares its blocks (ioctl_ficlone(2)); the same number on all processors we support.
_FICLONE = 0x40049409
LINKED_DIRECTORY_HINT = (
    "links in a layout are not followed; the layout itself may be one, and another disk may be mounted within it"
)


class LayoutDirectory:
    """The files below one directory, which need not exist yet.

    Args:
        path: of the directory, as the user named it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def path_of(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return os.path.join(self.path, name)

    # Reading.

    def has(self, name: str) -> bool:
        """Whether anything has this name, a file or something else."""
        try:
            self.status(name)
        except (OSError, InvalidImageError, ValueError):
            return False
        return True

    def has_directory(self, name: str) -> bool:
        """Whether a directory has this name."""
        try:
            return stat.S_ISDIR(self.status(name).st_mode)
        except (OSError, InvalidImageError):
            return False

    def is_own(self) -> bool:
        """Whether the directory exists and belongs to the user of this process."""
        try:
            return os.stat(self.path).st_uid == os.geteuid()
        except OSError:
            return False

    def status(self, name: str) -> os.stat_result:
        """Return the status of a name; a link is not followed.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing has the name.
            InvalidImageError: one of its parents is not a directory.
        """
        with self._parent_of(name) as (fd, last):
            return os.stat(last, dir_fd=fd, follow_symlinks=False)

    def list_names(self, name: str) -> list[str]:
        """Return the names in a directory. Raises as `status`."""
        with self._opened(name) as fd, _readable(fd) as readable:
            return os.listdir(readable)

    def open_file(self, name: str) -> FileIO:
        """Return a regular file, unbuffered; the caller closes it.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing has this name.
            InvalidImageError: something other than a file has it, or one of its parents is not a directory.
        """
        path = self.path_of(name)
        with self._parent_of(name) as (parent, last):
            # A device must not be opened at all.
            status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            verify_is_regular(status, path, hint=self._hint() if stat.S_ISLNK(status.st_mode) else None)
            file = FileIO(os.open(last, _READ, dir_fd=parent), "rb")
        try:
            verify_is_regular(os.fstat(file.fileno()), path)
        except BaseException:
            file.close()
            raise
        return file

    def read_file(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a small file. Raises as `open_file`, and `InvalidImageError` if it is too large."""
        with self.open_file(name) as file:
            parts, left = [], max_bytes + 1
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                parts.append(chunk)
                left -= len(chunk)
        if not left:
            raise InvalidImageError(
                f"expected at most {counted(max_bytes, 'byte')}, got more", where=self.path_of(name)
            )
        return b"".join(parts)

    def verify_directories(self, *names: str) -> None:
        """Return if each of these names is a directory or does not exist, and so are the names in the last one.

        The last one may also contain files, but no links and nothing else.

        Raises:
            UsageError: one of them is a link, or something other than a directory.
        """
        for name in names:
            self._verify_directory(name, may_be_file=False)
        with suppress(FileNotFoundError, NotADirectoryError):
            for below in sorted(self.list_names(names[-1])):
                self._verify_directory(f"{names[-1]}/{below}", may_be_file=True)

    def _verify_directory(self, name: str, *, may_be_file: bool) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            status = self.status(name)
            if not stat.S_ISDIR(status.st_mode) and not (may_be_file and stat.S_ISREG(status.st_mode)):
                raise UsageError(
                    f"{quoted(self.path_of(name))}: expected a directory, got {kind_of_file(status)}",
                    hint=LINKED_DIRECTORY_HINT if stat.S_ISLNK(status.st_mode) else None,
                )

    # Writing.

    def missing_directories(self) -> tuple[str, ...]:
        """Return the paths of the directory and its parents that do not exist, outermost first."""
        missing, path = [], self.path
        while path and not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        return tuple(reversed(missing))

    def sync_made(self, directories: Sequence[str]) -> None:
        """Sync the names of directories that `missing_directories` returned and that now exist."""
        for directory in directories:
            sync_directory(os.path.dirname(directory) or os.curdir)

    def remove_made(self, directories: Sequence[str]) -> None:
        """Remove the same directories, which must be empty."""
        for directory in reversed(directories):
            os.rmdir(directory)

    def make_directory(self, name: str) -> None:
        """Make a directory and its parents, unless they exist.

        Raises:
            InvalidImageError: something else has its name.
        """
        os.makedirs(self.path, exist_ok=True)
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            with self._parent_of("/".join(parts[:count])) as (fd, last), suppress(FileExistsError):
                os.mkdir(last, dir_fd=fd)
        with self._opened(name):
            pass

    def sync(self, name: str) -> None:
        """Sync the names in a directory to disk."""
        with self._opened(name) as fd, _readable(fd) as readable:
            os.fsync(readable)

    def remove(self, name: str) -> None:
        """Remove a file; if it is a link, only the link."""
        with self._parent_of(name) as (fd, last):
            os.unlink(last, dir_fd=fd)

    def remove_directory(self, name: str) -> None:
        """Remove an empty directory."""
        with self._parent_of(name) as (fd, last):
            os.rmdir(last, dir_fd=fd)

    def rename(self, source: str, target: str) -> None:
        """Rename a file; it replaces a file called ``target``."""
        with (
            self._parent_of(source) as (source_fd, source_last),
            self._parent_of(target) as (target_fd, target_last),
            _file_replaced(self.path_of(target)),
        ):
            os.rename(source_last, target_last, src_dir_fd=source_fd, dst_dir_fd=target_fd)

    def open_locked(self, name: str, *, shared: bool = False, is_written: bool = False) -> int:
        """Return the descriptor of a file that is locked for the caller; see `locks.open_locked`."""
        with self._parent_of(name) as (fd, last):
            return open_locked(last, shared=shared, is_written=is_written, dir_fd=fd, place=self.path_of(name))

    def write_file(self, name: str, content: bytes, *, aside: str, mode: int = 0o644) -> None:
        """Write a file, or replace it; a reader sees the old or the new content, never a part.

        Args:
            aside: the directory for the unfinished file, ``NAME.partial``.
            mode: of the file, also while it is unfinished.
        """
        directory, _, last = name.rpartition("/")
        with self._opened(aside) as aside_fd, self._opened(directory) as fd:
            with _new_file(aside_fd, f"{last}{PARTIAL_SUFFIX}", fd, last, self.path_of(name), mode=mode) as file:
                file.write(content)
            with _readable(fd) as readable:
                os.fsync(readable)

    def share_file(self, source: LayoutDirectory, name: str) -> None:
        """Put a file of another directory here under the same name: as a hard link, with shared blocks, or as a copy.

        The file is complete when it appears, and replaces a file of that name.
        """
        with source._parent_of(name) as (source_fd, last), self._parent_of(name) as (fd, _):
            verify_is_regular(os.stat(last, dir_fd=source_fd, follow_symlinks=False), source.path_of(name))
            try:
                with _file_replaced(self.path_of(name)):
                    _link(source_fd, last, fd)
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
            else:
                return
            with (
                _file_replaced(self.path_of(name)),
                source.open_file(name) as original,
                _new_file(fd, hidden_name(last), fd, last, name) as copy,
            ):
                try:
                    fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
                except OSError:
                    import shutil  # noqa: PLC0415 - start-up: few file systems need it

                    shutil.copyfileobj(original, copy, CHUNK_BYTES)

    # Opening.

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Give a descriptor of a directory for access to names in it; no link is followed."""
        fd = os.open(self.path, _PASS)
        try:
            place = self.path
            for part in name.split("/") if name else ():
                place = os.path.join(place, part)
                below = self._open_below(fd, part, place)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _open_below(self, fd: int, part: str, place: str) -> int:
        try:
            return os.open(part, _PASS | os.O_NOFOLLOW, dir_fd=fd)
        except OSError as error:
            error.filename = place
            with suppress(FileNotFoundError):
                status = os.stat(part, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    raise InvalidImageError(
                        f"expected a directory, got {kind_of_file(status)}", where=place, hint=LINKED_DIRECTORY_HINT
                    ) from error
            raise

    @contextmanager
    def _parent_of(self, name: str) -> Iterator[tuple[int, str]]:
        """Give a descriptor of the parent of ``name``, and the last part of ``name``; errors name the whole path."""
        directory, _, last = name.rpartition("/")
        with self._opened(directory) as fd:
            try:
                yield fd, last
            except OSError as error:
                if error.filename in (last, None):
                    error.filename, error.filename2 = self.path_of(name), None
                raise

    def _hint(self) -> str:
        import shlex  # noqa: PLC0415 - start-up: only an error needs it

        return f"links in it are not followed; a copy has files in their place: cp -RL {shlex.quote(self.path)} COPY"


@contextmanager
def _file_replaced(path: str) -> Iterator[None]:
    """Make the error name ``path`` if a directory stands there; the kernel's names the file that was to replace it."""
    try:
        yield
    except IsADirectoryError as error:
        error.filename, error.filename2 = path, None
        raise


@contextmanager
def _readable(fd: int) -> Iterator[int]:
    """Give a descriptor of the same directory that can be listed and synced."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield readable
    finally:
        os.close(readable)


@contextmanager
def _new_file(
    aside_fd: int, aside: str, fd: int, name: str, place: str, *, mode: int = 0o644
) -> Iterator[BufferedWriter]:
    """Give an empty file that is renamed from ``aside`` to ``name`` when the ``with`` block ends well.

    A process that is killed leaves ``aside`` behind, and the next one overwrites it.
    """
    file_fd = open_locked(aside, is_written=True, dir_fd=aside_fd, place=place, mode=mode)
    with open(file_fd, "wb") as file:
        try:
            os.ftruncate(file_fd, 0)
            yield file
            file.flush()
            os.fchmod(file_fd, mode)
            os.fsync(file_fd)
            os.rename(aside, name, src_dir_fd=aside_fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(aside, dir_fd=aside_fd)
            raise


def _link(source_fd: int, name: str, fd: int) -> None:
    """Link a file under the same name in another directory, where it replaces a file of that name."""
    with suppress(FileExistsError):
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
        return
    aside = random_name(hidden_name(name))
    os.link(name, aside, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
    try:
        os.rename(aside, name, src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        # The rename removes this name, unless both were already names of the same file.
        with suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=fd)
