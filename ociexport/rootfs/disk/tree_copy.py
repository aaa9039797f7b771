"""Copies a tree into a new one, on which further layers are then applied; and proves that a tree was not changed.

The stamp of a tree is SHA-256 over one record for each path: the path, inode number, mode, owner, size, and the times
of the last change of content and of anything. No system call sets the time of the last change of anything to a chosen
value: who changes a file, or puts another in its place, changes the stamp. A tree that was copied or restored has
another stamp too. Only the system's clock or a direct write to the disk could deceive it.

Spec: inode(7), "Last status change timestamp (ctime)".
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import closing

from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry, EntryType
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, name_in, names_in
from ociexport.rootfs.disk.tree import Rootfs
from ociexport.rootfs.disk.walk import Descent
from ociexport.rootfs.disk.xattrs import read_xattrs
from ociexport.spec.digest import Digest

_DEVICES = {
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
    stat.S_IFIFO: EntryType.FIFO,
}


def stamp_of_tree(root: str) -> Digest:
    """Return the stamp of the tree at ``root``.

    Raises:
        OSError: a directory can't be read.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return stamp_of(fd)
    finally:
        os.close(fd)


def stamp_of(root_fd: int) -> Digest:
    """Return the stamp of an open tree; see `stamp_of_tree`."""
    digest = hashlib.sha256()
    digest.update(_record(b"", os.fstat(root_fd)))
    for path, _, _, status in _walk(root_fd):
        digest.update(_record(path, status))
    return Digest("sha256", digest.hexdigest())


def _record(path: bytes, status: os.stat_result) -> bytes:
    numbers = (
        *(len(path), status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
    return b"%d %d %o %d %d %d %d %d " % numbers + path + b"\n"


def copy_tree(root_fd: int, tree: Rootfs, *, with_owners: bool) -> None:
    """Write a tree into an empty one, as its first layer; file systems that can share the data of files do so.

    Args:
        root_fd: the tree that is copied.
        tree: receives the copy, and is not finished.
        with_owners: whether owners are set; otherwise they are recorded in attributes, which are copied.

    Raises:
        OSError: something can't be read or written.
    """
    tree.begin_layer()
    tree.make_directory(ROOT, _entry_of(b"", os.fstat(root_fd), read_xattrs(root_fd), with_owners=with_owners))
    first_paths: dict[int, ImagePath] = {}
    for raw_path, parent_fd, name, status in _walk(root_fd):
        path, kind = ImagePath(raw_path), stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = first_paths.setdefault(status.st_ino, path)
            if first != path:
                tree.make_hard_link(path, first)
                continue
        if kind == stat.S_IFREG:
            tree.copy_file(path, parent_fd, name)
            continue
        xattrs = _xattrs_of(parent_fd, name, is_directory=kind == stat.S_IFDIR)
        entry = _entry_of(raw_path, status, xattrs, with_owners=with_owners)
        if kind == stat.S_IFDIR:
            tree.make_directory(path, entry)
        elif kind == stat.S_IFLNK:
            tree.make_symlink(path, entry._replace(link_name=os.readlink(name, dir_fd=parent_fd)))
        else:
            tree.make_device(path, entry)


def _xattrs_of(parent_fd: int, name: bytes, *, is_directory: bool) -> dict[bytes, bytes]:
    if not is_directory:
        return read_xattrs(name_in(parent_fd, name))
    fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)
    try:
        return read_xattrs(fd)
    finally:
        os.close(fd)


def _entry_of(path: bytes, status: os.stat_result, xattrs: dict[bytes, bytes], *, with_owners: bool) -> Entry:
    return IMPLIED_DIRECTORY._replace(
        type=_DEVICES.get(stat.S_IFMT(status.st_mode), EntryType.DIRECTORY),
        name=path,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid if with_owners else 0,
        gid=status.st_gid if with_owners else 0,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        xattrs=xattrs or None,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
    )


def _walk(root_fd: int) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """Yield path, parent descriptor, name and status of everything below a directory, sorted, parents first."""
    with closing(Descent(root_fd)) as descent:
        levels: list[tuple[bytes, Iterator[bytes]]] = [(b"", _names(descent.fd))]
        while levels:
            prefix, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
                if levels:
                    descent.leave()
                continue
            path = prefix + name
            status = os.stat(name, dir_fd=descent.fd, follow_symlinks=False)
            yield path, descent.fd, name, status
            if stat.S_ISDIR(status.st_mode):
                descent.enter(name)
                levels.append((path + b"/", _names(descent.fd)))


def _names(fd: int) -> Iterator[bytes]:
    return iter(sorted(map(os.fsencode, names_in(fd))))
