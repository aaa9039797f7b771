"""A tree's full metadata as a value, for comparing two trees."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """All metadata of one file, directory, link or device.

    Args:
        group: the first path (in order) of its hard link group; its own path if it has one name.
    """

    type: str
    mode: str
    owner: tuple[int, int]
    size: int | None
    mtime_ns: int
    content: str | None
    target: bytes | None
    group: bytes
    xattrs: dict[str, bytes]
    device: tuple[int, int] | None


def describe_tree(root: Path) -> dict[bytes, Record]:
    """Return path → record for everything in ``root``, which itself is ``b"."``."""
    first_names: dict[int, bytes] = {}
    return {
        path: _describe(os.path.join(os.fsencode(root), path), path, first_names)
        for path in sorted(_paths(os.fsencode(root)))
    }


def differences(one: dict[bytes, Record], other: dict[bytes, Record]) -> dict[bytes, list[str]]:
    """Return path → names of the differing fields; a path in only one tree differs in ``existence``."""
    result = {}
    for path in sorted(one.keys() | other.keys()):
        if path not in one or path not in other:
            result[path] = ["existence"]
            continue
        first, second = one[path], other[path]
        found = [name for name in Record.__dataclass_fields__ if getattr(first, name) != getattr(second, name)]
        if found:
            result[path] = found
    return result


def _paths(root: bytes) -> Iterator[bytes]:
    yield b"."
    for directory, directories, files in os.walk(root):
        prefix = os.path.relpath(directory, root)
        for name in directories + files:
            yield os.path.normpath(os.path.join(prefix, name))


def _describe(full: bytes, path: bytes, first_names: dict[int, bytes]) -> Record:
    status = os.lstat(full)
    kind = stat.S_IFMT(status.st_mode)
    is_file = stat.S_ISREG(kind)
    is_device = stat.S_ISCHR(kind) or stat.S_ISBLK(kind)
    return Record(
        type=oct(kind),
        mode=oct(stat.S_IMODE(status.st_mode)),
        owner=(status.st_uid, status.st_gid),
        size=status.st_size if is_file else None,
        mtime_ns=status.st_mtime_ns,
        content=_hash(full) if is_file else None,
        target=os.readlink(full) if stat.S_ISLNK(kind) else None,
        group=path if stat.S_ISDIR(kind) else first_names.setdefault(status.st_ino, path),
        xattrs={name: os.getxattr(full, name, follow_symlinks=False) for name in _xattr_names(full)},
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
    )


def _xattr_names(full: bytes) -> list[str]:
    return sorted(os.listxattr(full, follow_symlinks=False))


def _hash(full: bytes) -> str:
    with open(full, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
