"""Writes a layer in overlayfs's form into a directory: whiteouts are devices 0:0, opaque directories have an attribute.

Root's layers have the attribute in ``trusted.``, which only root of the machine may set; and also in ``user.``, where
the file system has it, since bubblewrap always mounts with the option ``userxattr``. Other users' layers have it only
in ``user.``, and are always mounted with that option (Linux 5.11). Any user may make devices 0:0 since Linux 5.8; where
a file system or a sandbox refuses them, a whiteout is an empty file with an attribute, which Linux 6.7 and later take
for a whiteout.

Spec: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", "User xattr".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ociexport.layers.apply import DeviceRefusedError
from ociexport.layers.losses import Losses
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.rootfs.disk.tree import Rootfs
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.layers.form import LayerForm

TRUSTED, USER = b"trusted.overlay.", b"user.overlay."
# Errors of a file system without attributes of users.
_REFUSALS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})
_CHUNK_BYTES = 1024 * 1024


class DirectoryWriter:
    """Writes one layer.

    Args:
        tree: an empty tree; it is finished.
        form: the layer.
        spool_fd: has the data of its files.
        prefix: of overlayfs's attributes.
        losses: counts the devices that can't be made.
        placeholder_devices: whether empty files replace them.

    Attributes:
        has_marked_whiteouts: whether a whiteout is a file with an attribute.
        lacks_user_marks: whether an opaque directory has no attribute in ``user.``.
    """

    def __init__(
        self,
        tree: Rootfs,
        form: LayerForm,
        spool_fd: int,
        *,
        prefix: bytes,
        losses: Losses,
        placeholder_devices: bool,
    ) -> None:
        self._tree = tree
        self._form = form
        self._spool_fd = spool_fd
        self._prefix = prefix
        self._losses = losses
        self._placeholder_devices = placeholder_devices
        self.has_marked_whiteouts = False
        self.lacks_user_marks = False
        # By number; a device that can't be made has none.
        self._first_paths: dict[int, ImagePath | None] = {}

    def write(self) -> None:
        """Write the layer."""
        self._tree.begin_layer()
        root = self._form.nodes[0]
        self._tree.make_directory(ROOT, root.entry)
        waiting = _children_of(root, b"")
        while waiting:
            path, node = waiting.pop()
            if node.number in self._form.whiteouts:
                self._write_whiteout(path)
            elif node.is_directory:
                self._tree.make_directory(path, node.entry)
                if node.number in self._form.opaque:
                    self._mark_opaque(path)
                waiting += _children_of(node, path + b"/")
            else:
                self._write_file(path, node)
        self._tree.finish()

    def _mark_opaque(self, path: ImagePath) -> None:
        self._tree.mark(path, self._prefix + b"opaque", b"y")
        if self._prefix != USER:
            try:
                self._tree.mark(path, USER + b"opaque", b"y")
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self.lacks_user_marks = True

    def _write_whiteout(self, path: ImagePath) -> None:
        if not self._tree.make_whiteout(path, self._prefix + b"whiteout"):
            # Only in a marked directory are files searched for the attribute.
            self._tree.mark(ImagePath(path.rpartition(b"/")[0]), self._prefix + b"opaque", b"x")
            self.has_marked_whiteouts = True
            self.lacks_user_marks = self._prefix != USER

    def _write_file(self, path: ImagePath, node: FlatNode) -> None:
        if node.number in self._first_paths:
            first = self._first_paths[node.number]
            if first is not None:
                self._tree.make_hard_link(path, first)
            return
        self._first_paths[node.number] = path
        entry = node.entry
        if entry.type is EntryType.FILE:
            self._tree.write_file(path, *self._content_of(node))
        elif entry.type is EntryType.SYMLINK:
            self._tree.make_symlink(path, entry)
        else:
            self._write_device(path, node)

    def _write_device(self, path: ImagePath, node: FlatNode) -> None:
        try:
            self._tree.make_device(path, node.entry)
        except DeviceRefusedError:
            if self._placeholder_devices:
                self._tree.write_file(path, node.entry, iter(()))
                self._losses.placeholders += 1
                return
            self._losses.devices += 1
            self._first_paths[node.number] = None
            if node.number in self._form.over_others:
                self._write_whiteout(path)

    def _content_of(self, node: FlatNode) -> tuple[Entry, Iterator[memoryview]]:
        """Return a file's entry and data; what no extent covers is a hole."""
        entry, extents = node.entry, node.extents or ()
        data = self._data_of(node)
        if sum(extent.size for extent in extents) == entry.size:
            return entry, data
        segments = SparseSegments()
        for extent in extents:
            segments.add(extent.offset, extent.size)
        return entry._replace(segments=segments), data

    def _data_of(self, node: FlatNode) -> Iterator[memoryview]:
        for extent in node.extents or ():
            offset, end = extent.spool_offset, extent.spool_offset + extent.size
            while offset < end:
                chunk = os.pread(self._spool_fd, min(_CHUNK_BYTES, end - offset), offset)
                if not chunk:
                    raise AssertionError("the spool is shorter than its extents")
                yield memoryview(chunk)
                offset += len(chunk)


def _children_of(node: FlatNode, prefix: bytes) -> list[tuple[ImagePath, FlatNode]]:
    return [(ImagePath(prefix + name), child) for name, child in reversed(node.children or ())]
