"""Writes a cpio archive in the "newc" format, which the kernel takes as an initramfs.

Entries are in the order of their paths, a directory before what is in it. The data of a file with several names is at
its last name: GNU cpio expects it there, and the kernel takes it anywhere. Inode numbers are those of the nodes. Each
name of a link is a link of its own, since the kernel gives no link two names.

Spec: Documentation/driver-api/early-userspace/buffer-format.rst; init/initramfs.c, for what the kernel skips silently.
"""

from __future__ import annotations

from collections.abc import Iterator

from ociexport.errors import InvalidImageError, counted, quoted_path
from ociexport.layers.losses import count_xattr
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.system.parallel_compression import ByteSink, compressed

_MAGIC = b"070701"
_FILE_TYPES = {
    EntryType.FILE: 0o100000,
    EntryType.DIRECTORY: 0o040000,
    EntryType.SYMLINK: 0o120000,
    EntryType.CHARACTER_DEVICE: 0o020000,
    EntryType.BLOCK_DEVICE: 0o060000,
    EntryType.FIFO: 0o010000,
}
# Readers take an entry of this name for the end, so a file of this name is called ./TRAILER!!! in the archive.
_TRAILER = b"TRAILER!!!"
_MAX_NUMBER = 2**32 - 1
# With the byte 0 at its end; the kernel skips a longer name and a longer target.
_PATH_MAX = 4096
_NANOSECONDS = 1_000_000_000
_BUFFER_BYTES = 1024 * 1024


def write_cpio(image: FlatImage, fd: int, options: DiskImageOptions) -> None:
    """Write ``image`` as a cpio archive, compressed as ``options`` ask for; ``fd`` may be a stream.

    Extended attributes and fractions of seconds are left out. Times before 1970 become 1970, those after 2106 the last
    second of the format. Such times and the attributes are counted as losses.

    Raises:
        InvalidImageError: a file has 4 GiB or more, or a path or a link's target is longer than the kernel takes.
    """
    with (
        open(fd, "wb", buffering=_BUFFER_BYTES, closefd=False) as out,
        compressed(out, options.compression, options.level, options.threads) as sink,
    ):
        _Archive(image, sink).write()


class _Archive:
    def __init__(self, image: FlatImage, sink: ByteSink) -> None:
        self._image = image
        self._sink = sink
        # Of each file with several names, how many are not yet written.
        self._names_left = {node.number: node.links for node in image.nodes if node.links > 1 and not node.is_directory}

    def write(self) -> None:
        for path, node in _paths(self._image):
            self._write_node(path, node)
        losses = self._image.losses
        for node in self._image.nodes:
            losses.times += not 0 <= node.entry.mtime_ns // _NANOSECONDS <= _MAX_NUMBER
            for name in node.entry.xattrs or ():
                count_xattr(losses.unstorable_xattrs, name)
        self._sink.write(_header(_TRAILER, (0, 0, 0, 0, 1, 0, 0, 0, 0)))

    def _write_node(self, path: bytes, node: FlatNode) -> None:
        entry = node.entry
        is_link = entry.type is EntryType.SYMLINK
        size = len(entry.link_name) if is_link else entry.size if entry.type is EntryType.FILE else 0
        _verify(path, node, size)
        if node.number in self._names_left:
            self._names_left[node.number] -= 1
            if self._names_left[node.number] and not is_link:
                size = 0
        device = entry.device if entry.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE) else (0, 0)
        numbers = (
            node.number + 1,
            _FILE_TYPES[entry.type] | entry.mode,
            entry.uid,
            entry.gid,
            1 if is_link else node.links,
            min(max(entry.mtime_ns // _NANOSECONDS, 0), _MAX_NUMBER),
            size,
            *device,
        )
        self._sink.write(_header(b"./" + path if path == _TRAILER else path, numbers))
        if is_link:
            self._sink.write(entry.link_name)
        elif size:
            for chunk in self._image.chunks(node):
                self._sink.write(chunk)
        if size % 4:
            self._sink.write(bytes(-size % 4))


def _paths(image: FlatImage) -> Iterator[tuple[bytes, FlatNode]]:
    """Yield each name in the image with its path; a directory comes before what is in it."""
    waiting: list[tuple[bytes, FlatNode]] = [(b".", image.root)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        prefix = b"" if node is image.root else path + b"/"
        waiting += [(prefix + name, child) for name, child in reversed(node.children or ())]


def _header(path: bytes, numbers: tuple[int, int, int, int, int, int, int, int, int]) -> bytes:
    """Return a header with its name.

    Args:
        numbers: inode, mode, uid, gid, number of names, mtime, size, and a device's major and minor.
    """
    # The archive's own device is 0:0; there is no checksum.
    fields = b"%08X%08X%08X%08X%08X%08X%08X0000000000000000%08X%08X" % numbers
    header = b"%s%s%08X00000000%s\0" % (_MAGIC, fields, len(path) + 1, path)
    return header + bytes(-len(header) % 4)


def _verify(path: bytes, node: FlatNode, size: int) -> None:
    if size > _MAX_NUMBER:
        raise _not_storable(path, f"file of {counted(size, 'byte')}: expected less than 4 GiB")
    if len(path) >= _PATH_MAX:
        raise _not_storable(path, f"path of {counted(len(path), 'byte')}: expected at most {_PATH_MAX - 1}")
    if node.entry.type is EntryType.SYMLINK and size > _PATH_MAX:
        raise _not_storable(path, f"link target of {counted(size, 'byte')}: expected at most {_PATH_MAX}")


def _not_storable(path: bytes, what: str) -> InvalidImageError:
    return InvalidImageError(
        f"{what} in a cpio archive", where=quoted_path(path), hint="another format stores it, such as ext4 or tar"
    )
