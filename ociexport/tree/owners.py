"""The owners that a tree should have, in a file beside it: for whoever makes an ext4 or squashfs of an ordinary user's.

The file is an mtree(5) specification of the whole tree as the image has it: type, mode, uid, gid, time, size, link and
device. ``bsdtar -C ROOTFS -cf - @FILE`` makes a tar of the tree's content with the owners in the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from ociexport.newfile import new_file
from ociexport.tree.applying import LayerTarget
from ociexport.tree.entries import Entry, EntryType
from ociexport.tree.memorytree import MemoryDirectory, MemoryFile, MemoryTree
from ociexport.tree.paths import ImagePath

_TYPES = {
    EntryType.FILE: b"file",
    EntryType.DIRECTORY: b"dir",
    EntryType.SYMLINK: b"link",
    EntryType.CHARACTER_DEVICE: b"char",
    EntryType.BLOCK_DEVICE: b"block",
    EntryType.FIFO: b"fifo",
}
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./,:+@%")
_IMPLIED = Entry(EntryType.DIRECTORY, b"", b"", 0o755, 0, 0, 0, 0, None, None, (0, 0), None)


class RecordingTarget:
    """Passes everything on to a tree on disk, and keeps the names and owners in one in memory.

    Args:
        target: the tree on disk.
        record: the tree in memory.
    """

    def __init__(self, target: LayerTarget, record: MemoryTree) -> None:
        self._target = target
        self._record = record

    def begin_layer(self) -> None:
        self._record.begin_layer()
        self._target.begin_layer()

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        self._record.make_directory(path, entry)
        self._target.make_directory(path, entry)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        # An empty file in a device's place is recorded as the device that it stands for.
        if entry.type is EntryType.FILE:
            self._record.write_file(path, entry, data)
        self._target.write_file(path, entry, data)

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        self._record.make_symlink(path, entry)
        self._target.make_symlink(path, entry)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        self._record.make_hard_link(path, target)
        self._target.make_hard_link(path, target)

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        self._record.make_device(path, entry)
        self._target.make_device(path, entry)

    def hide(self, path: ImagePath) -> None:
        self._record.hide(path)
        self._target.hide(path)

    def hide_children(self, path: ImagePath) -> None:
        self._record.hide_children(path)
        self._target.hide_children(path)


def write_owners(path: str, tree: MemoryTree) -> None:
    """Write the specification of ``tree`` to ``path``, whole or not at all."""
    with new_file(path) as file:
        file.write(b"#mtree\n")
        file.write(_line(b".", tree.root.entry or _IMPLIED))
        for name, node in tree.walk():
            entry = node.entry if isinstance(node, MemoryFile) else _directory_entry(node)
            file.write(_line(b"./" + name, entry))


def _directory_entry(node: MemoryDirectory) -> Entry:
    return node.entry if node.entry is not None else _IMPLIED


def _line(name: bytes, entry: Entry) -> bytes:
    seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
    words = [
        _escaped(name),
        b"type=" + _TYPES[entry.type],
        b"mode=%04o" % entry.mode,
        b"uid=%d" % entry.uid,
        b"gid=%d" % entry.gid,
        b"time=%d.%09d" % (seconds, nanoseconds),
    ]
    if entry.type is EntryType.FILE:
        words.append(b"size=%d" % entry.size)
    elif entry.type is EntryType.SYMLINK:
        words.append(b"link=" + _escaped(entry.link_name))
    elif entry.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE):
        words.append(b"device=native,%d,%d" % entry.device)
    return b" ".join(words) + b"\n"


def _escaped(name: bytes) -> bytes:
    """Return a name in which all that could be taken for something else is a backslash and three octal digits."""
    return b"".join(bytes([byte]) if byte in _PLAIN else b"\\%03o" % byte for byte in name)
