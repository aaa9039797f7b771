"""Computes one digest of a whole tree, equal for equal trees.

The digest is SHA-256 over one record for each path, in the byte order of paths; the root's path is ``.``. A record is a
sequence of fields and ends with a newline. Each field is its length in bytes (decimal), a colon, and its bytes:

1. the path;
2. the type: ``file``, ``directory``, ``symlink``, ``fifo``, ``character device``, ``block device``, ``socket``;
3. the mode in octal, ``-`` for links;
4. ``uid:gid``;
5. for a file its size and the SHA-256 of its content, for a link its target, for a device ``major:minor``, else empty;
6. for a further name of a file with several names in the tree, the first of them, else empty;
7. for each extended attribute, in byte order, its name and its value, except attributes that belong to the machine,
   which `unpack` leaves out;
8. if requested, the time of modification in nanoseconds.

No link is followed and only descriptors are used, so concurrent changes can't lead out of the tree.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing

from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, OPEN_FILE, name_in
from ociexport.rootfs.disk.readable import TreeReadError, made_readable
from ociexport.rootfs.disk.walk import Descent
from ociexport.rootfs.disk.xattrs import read_xattrs
from ociexport.spec.digest import Digest

_TYPES = {
    stat.S_IFREG: b"file",
    stat.S_IFDIR: b"directory",
    stat.S_IFLNK: b"symlink",
    stat.S_IFIFO: b"fifo",
    stat.S_IFCHR: b"character device",
    stat.S_IFBLK: b"block device",
    stat.S_IFSOCK: b"socket",
}


def hash_tree(root: str | os.PathLike[str], *, mtimes: bool = False) -> Digest:
    """Return the digest of the tree at ``root``.

    Args:
        root: a directory; a link to one is followed.
        mtimes: whether times of modification are included.

    Raises:
        TreeReadError: something can't be read. A file or directory of this user's can, whatever its mode.
        OSError: ``root`` can't be opened.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    hasher = _TreeHasher(mtimes=mtimes)
    try:
        return hasher.run(fd)
    except OSError as error:
        raise TreeReadError(root, hasher.path, error) from error
    finally:
        os.close(fd)


class _TreeHasher:
    """Hashes one tree.

    Attributes:
        path: what is being read.
    """

    def __init__(self, *, mtimes: bool) -> None:
        self.path = b"."
        self._mtimes = mtimes
        self._hash = hashlib.sha256()
        # The first path of each file that has several.
        self._first_names: dict[tuple[int, int], bytes] = {}

    def run(self, root_fd: int) -> Digest:
        self._add(b".", os.fstat(root_fd), b"", read_xattrs(root_fd))
        with closing(self._walk(root_fd)) as walked:
            for path, parent_fd, name in walked:
                self._add_path(path, parent_fd, name)
        return Digest("sha256", self._hash.hexdigest())

    def _walk(self, root_fd: int) -> Generator[tuple[bytes, int, bytes], None, None]:
        """Yield path, parent descriptor and name of everything below a directory, in the byte order of paths."""
        with closing(Descent(root_fd, opens_own=True)) as descent:
            levels = [(b"", _sorted_entries(descent.fd))]
            while levels:
                prefix, entries = levels[-1]
                entry = next(entries, None)
                if entry is None:
                    levels.pop()
                    if levels:
                        descent.leave()
                    continue
                name, is_content = entry
                self.path = prefix + name
                if is_content:
                    descent.enter(name)
                    levels.append((self.path + b"/", _sorted_entries(descent.fd)))
                else:
                    yield self.path, descent.fd, name

    def _add_path(self, path: bytes, parent_fd: int, name: bytes) -> None:
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            flags = OPEN_DIRECTORY if stat.S_ISDIR(status.st_mode) else OPEN_FILE
            with made_readable(parent_fd, name, status):
                fd = os.open(name, flags, dir_fd=parent_fd)
                try:
                    self._add(path, status, _content(fd, status), read_xattrs(fd))
                finally:
                    os.close(fd)
            return
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(name, dir_fd=parent_fd)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
        # Files that can't be opened without side effects are reached by a path through /proc.
        self._add(path, status, content, read_xattrs(name_in(parent_fd, name)))

    def _add(self, path: bytes, status: os.stat_result, content: bytes, xattrs: dict[bytes, bytes]) -> None:
        kind = stat.S_IFMT(status.st_mode)
        first_name = b""
        if status.st_nlink > 1 and kind != stat.S_IFDIR:
            first_name = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            if first_name == path:
                # The other names may be outside the tree, for example in a backup that shares its files.
                first_name = b""
        fields = [
            path,
            _TYPES.get(kind, b"other"),
            b"-" if kind == stat.S_IFLNK else b"%o" % stat.S_IMODE(status.st_mode),
            b"%d:%d" % (status.st_uid, status.st_gid),
            content,
            first_name,
            *(part for xattr in xattrs.items() for part in xattr),
        ]
        if self._mtimes:
            fields.append(b"%d" % status.st_mtime_ns)
        self._hash.update(b"".join(b"%d:%s" % (len(field), field) for field in fields) + b"\n")


def _sorted_entries(directory_fd: int) -> Iterator[tuple[bytes, bool]]:
    """Return the names in a directory in order, and each subdirectory's a second time where its content belongs.

    ``a-b`` comes before ``a/b``, so the content of ``a`` is sorted as ``a/``.
    """
    entries = []
    with os.scandir(directory_fd) as scanned:
        for item in scanned:
            name = os.fsencode(item.name)
            entries.append((name, name, False))
            if item.is_dir(follow_symlinks=False):
                entries.append((name + b"/", name, True))
    entries.sort()
    return ((name, is_content) for _, name, is_content in entries)


def _content(fd: int, status: os.stat_result) -> bytes:
    if stat.S_ISDIR(status.st_mode):
        return b""
    with open(fd, "rb", buffering=0, closefd=False) as file:
        digest = hashlib.file_digest(file, "sha256")
    return b"%d:%s" % (status.st_size, digest.hexdigest().encode())
