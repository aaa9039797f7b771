"""An image's root filesystem in one piece, as writers of disk images need it: nodes in memory, data in one file.

The layers are read once. Names and metadata go to a `MemoryTree`; the data of each file goes to a spool, a nameless
file, as it streams by. What later layers hide stays in the spool and is not used.

Most bytes of an image are in large files. If the format lets data stand anywhere, theirs goes straight to blocks of the
disk image instead, and is written once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from operator import attrgetter

from ociexport.errors import InvalidImageError, quoted_path
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses, count_xattr, is_foreign_xattr
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree
from ociexport.layers.paths import ImagePath
from ociexport.layers.selection import PathSelection
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments, located_parts
from ociexport.rootfs.chosen_image import ImageResult, choose_image
from ociexport.rootfs.outputs.spool_writer import SpoolWriter
from ociexport.spec.config import Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.collector import collection_paused
from ociexport.system.file_ranges import read_whole
from ociexport.system.progress.protocol import SILENT, Progress

# Files begin at a multiple of this in the spool if they are not smaller: file systems that share blocks between files
# share only whole blocks.
BLOCK_BYTES = 4096
# A file stays in the blocks of a disk image where it is first written if its last block wastes at most this part of its
# size. The end of any other file is better kept with its metadata.
_MAX_WASTED_PART = 16
# Files are read and copied in pieces of this size.
_BUFFER_BYTES = 1024 * 1024
# Memory for a node, apart from its entry: measured, rounded up.
NODE_BYTES = 400
# Memory for an extent: measured, rounded up.
_EXTENT_BYTES = 200
# The mode of every link on Linux.
_SYMLINK_MODE = 0o777
# The name of entries whose path the tree has; it is not empty, since `weight_of` takes such an entry for none.
_NO_NAME = b"."
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Extent(NamedTuple):
    """A run of a file's data; what no extent covers is a hole.

    Args:
        offset: in the file.
        size: in bytes, not 0.
        spool_offset: in the spool.
    """

    offset: int
    size: int
    spool_offset: int


class PlacedExtent(Extent):
    """All data of a file, in the blocks of the disk image where it stays; ``spool_offset`` is in the disk image."""

    __slots__ = ()


_OFFSET_OF = attrgetter("offset")


class FlatNode:
    """A file, directory, link or device; several names may refer to the same file.

    Attributes:
        number: its place in `FlatImage.nodes`; the root is 0.
        entry: its metadata. `name` is not used. `xattrs` lacks those that belong to another machine, and `mtime_ns` is
            never above SOURCE_DATE_EPOCH; both hold for all writers.
        links: how many names it has; for a directory, 2 and one for each directory in it, as stat(2) tells.
        extents: a file's data, in order; None for anything but a file.
        children: what is in a directory, sorted by the bytes of the names; None for anything but a directory.
        parent: the directory of its first name; the root is its own.
    """

    __slots__ = ("children", "entry", "extents", "links", "number", "parent")

    def __init__(self, number: int, entry: Entry, parent: FlatNode | None) -> None:
        self.number = number
        self.entry = entry
        self.links = 1
        self.extents: Sequence[Extent] | None = None
        self.children: list[tuple[bytes, FlatNode]] | None = None
        self.parent: FlatNode = self if parent is None else parent

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.children is not None

    @property
    def placed(self) -> PlacedExtent | None:
        """Its data, if that is in the disk image already."""
        first = self.extents[0] if self.extents else None
        return first if isinstance(first, PlacedExtent) else None

    @property
    def path(self) -> bytes:
        """The path of its first name; a dot for the root."""
        names = []
        node = self
        while node.parent is not node:
            names.append(next(name for name, child in node.parent.children or () if child is node))
            node = node.parent
        return b"/".join(reversed(names)) or b"."


@contextmanager
def naming(node: FlatNode) -> Iterator[None]:
    """Add the path of a node to an error about it."""
    try:
        yield
    except InvalidImageError as error:
        error.add_place(quoted_path(node.path))
        raise


@dataclass(frozen=True, slots=True)
class FlatImage(ImageResult):
    """A flattened root filesystem.

    Args:
        nodes: all files, directories, links and devices, each once: the root, then by the bytes of the first path's
            names, a directory before what is in it.
        spool_fd: the data that extents point into; closed with the image.
        image_fd: the same for a `PlacedExtent`; without meaning if there is none.
    """

    nodes: Sequence[FlatNode]
    spool_fd: int
    image_fd: int = -1

    @property
    def root(self) -> FlatNode:
        """The root directory."""
        return self.nodes[0]

    def read(self, node: FlatNode, offset: int, size: int) -> bytes:
        """Return ``size`` bytes of a file from ``offset``, holes as zeros; fewer only at the file's end."""
        size = max(0, min(size, node.entry.size - offset))
        if node.extents and (first := node.extents[0]).size == node.entry.size:  # nearly every file
            fd = self.image_fd if isinstance(first, PlacedExtent) else self.spool_fd
            return read_whole(fd, size, first.spool_offset + offset)
        parts: list[bytes] = []
        position, end = offset, offset + size
        extents = node.extents or ()
        # A file may have a million extents, and be read in as many pieces.
        for number in range(max(0, bisect_right(extents, offset, key=_OFFSET_OF) - 1), len(extents)):
            extent = extents[number]
            begin, stop = max(extent.offset, position), min(extent.offset + extent.size, end)
            if extent.offset >= end:
                break
            if begin >= stop:
                continue
            parts.append(bytes(begin - position))
            parts.append(read_whole(self.spool_fd, stop - begin, extent.spool_offset + begin - extent.offset))
            position = stop
        parts.append(bytes(end - position))
        return b"".join(parts) if len(parts) > 2 else (parts[1] if parts[1:] and not parts[0] else parts[0])

    def chunks(self, node: FlatNode, chunk_bytes: int = _BUFFER_BYTES) -> Iterator[bytes]:
        """Yield a file's content in chunks of ``chunk_bytes``, the last one shorter; holes are zeros."""
        for offset in range(0, node.entry.size, chunk_bytes):
            yield self.read(node, offset, chunk_bytes)


@contextmanager
def flat_image(
    source: ImageSource,
    spool_fd: int,
    *,
    platform: Platform,
    limits: Limits,
    image_fd: int | None = None,
    selection: PathSelection | None = None,
    keep_dirlinks: bool = False,
    max_mtime_ns: int | None = None,
    verify_layers: Callable[[tuple[Layer, ...]], None] | None = None,
    progress: Progress = SILENT,
) -> Iterator[FlatImage]:
    """Give the flattened root filesystem of ``source``; every layer was read once and verified by its diff_id.

    Args:
        source: the image.
        spool_fd: an empty file, open for reading and writing, which takes the data; the caller closes it.
        image_fd: another one, which becomes the disk image: it takes the data of large files, from its second block on.
            None if the format of the disk image can't leave the data there.
        max_mtime_ns: newer times are replaced by this one (SOURCE_DATE_EPOCH).
        verify_layers: called before the first layer is read; what it raises ends everything.

    Raises:
        as `unpack` does.

    Spec: image-spec 1.1 layer.md, "Applying Changesets".
    """
    chosen = choose_image(source, platform, progress)
    if verify_layers is not None:
        verify_layers(chosen.layers)
    losses = Losses()
    budget = NameBudget(limits)
    writer = SpoolWriter(spool_fd, image_fd, BLOCK_BYTES)
    with closing(writer), collection_paused():
        tree = SpoolingTree(budget, writer, keep_dirlinks=keep_dirlinks, limits=limits)
        applier = LayerApplier(tree, limits, losses, selection=selection)
        applier.apply_all(source, chosen.layers, progress, doing="reading")
        writer.finish()
        nodes = _Flattening(tree, budget, losses, max_mtime_ns).nodes
    limits.verify_files(sum(extent.size for node in nodes for extent in node.extents or ()))
    yield FlatImage(
        *chosen,
        applier.entries,
        applier.tar_bytes,
        losses,
        nodes=nodes,
        spool_fd=spool_fd,
        image_fd=-1 if image_fd is None else image_fd,
    )


class SpooledFile(MemoryFile):
    """A file whose data is in the spool.

    Attributes:
        extents: its data, in order.
    """

    __slots__ = ("extents",)

    def __init__(self, entry: Entry, layer: int, place: tuple[int, int]) -> None:
        super().__init__(entry, layer, place)
        self.extents: tuple[Extent, ...] = ()


class SpoolingTree(MemoryTree):
    """A `MemoryTree` that also writes the data of each file to the spool.

    The entries of all but directories are without their paths, since those of 70,000 files take much memory.
    """

    def __init__(self, budget: NameBudget, writer: SpoolWriter, *, keep_dirlinks: bool, limits: Limits) -> None:
        super().__init__(budget, keep_dirlinks=keep_dirlinks, max_depth=limits.max_depth, max_steps=limits.max_steps)
        self._spool = writer.spool
        self._image = writer.image
        self._last: SpooledFile | None = None

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Record a file, and write its data."""
        super().write_file(path, entry, data)
        if entry.size and self._last is not None:
            self._last.extents = self.store(entry, data)

    def store(self, entry: Entry, data: Iterator[memoryview]) -> tuple[Extent, ...]:
        """Write the data of a file, which is not empty, and return where it is."""
        size, file, kind = entry.size, self._spool, Extent
        if self._image is not None and entry.segments is None and -size % BLOCK_BYTES * _MAX_WASTED_PART <= size:
            file, kind = self._image, PlacedExtent
        begin = file.end
        if begin % BLOCK_BYTES and (size >= BLOCK_BYTES or kind is PlacedExtent):
            file.append(_ZEROS[: -begin % BLOCK_BYTES])
            begin = file.end
        if entry.segments is None:
            for chunk in data:
                file.append(chunk)
            # Faster than the constructor, which is a Python function.
            extents: tuple[Extent, ...] = (tuple.__new__(kind, (0, file.end - begin, begin)),)
        else:
            extents = tuple(self._write_segments(entry.segments, data))
        self._take(_EXTENT_BYTES * len(extents))
        return extents

    def _file_for(self, entry: Entry, place: tuple[int, int]) -> MemoryFile:
        self._last = SpooledFile(entry, self._layer, place)
        return self._last

    def _put(self, path: ImagePath, file: MemoryFile) -> None:
        entry = file.entry
        file.entry = Entry._make((entry.type, _NO_NAME, *entry[2:]))
        super()._put(path, file)

    def _write_segments(self, segments: SparseSegments, data: Iterator[memoryview]) -> list[Extent]:
        extents: list[Extent] = []
        for offset, part in located_parts(segments, data):
            if not part:
                continue
            last = extents[-1] if extents else None
            if last is not None and last.offset + last.size == offset:
                extents[-1] = Extent(last.offset, last.size + len(part), last.spool_offset)
            else:
                extents.append(Extent(offset, len(part), self._spool.end))
            self._spool.append(part)
        return extents


class _Flattening:
    """The nodes that remain in a tree, whose own nodes are freed on the way."""

    def __init__(self, tree: SpoolingTree, budget: NameBudget, losses: Losses, max_mtime_ns: int | None) -> None:
        self._budget = budget
        self._losses = losses
        self._max_mtime_ns = max_mtime_ns
        self.nodes: list[FlatNode] = []
        # Files with several names.
        linked: dict[MemoryFile, FlatNode] = {}
        root = self._add_directory(tree.root, None)
        # A directory, the nodes in it that are left, and their names in order.
        waiting = [(root, tree.root.children, iter(sorted(tree.root.children)))]
        while waiting:
            parent, nodes, names = waiting[-1]
            for name in names:
                node = nodes.pop(name)
                flat = linked.get(node) if isinstance(node, MemoryFile) and node.is_linked else None
                if isinstance(node, MemoryDirectory):
                    flat = self._add_directory(node, parent)
                    parent.links += 1
                elif flat is not None:
                    flat.links += 1
                else:
                    flat = self._add_file(node, parent)
                    if node.is_linked:
                        linked[node] = flat
                if parent.children is not None:
                    parent.children.append((name, flat))
                if isinstance(node, MemoryDirectory):
                    waiting.append((flat, node.children, iter(sorted(node.children))))
                    break
            else:
                waiting.pop()

    def _add_directory(self, node: MemoryDirectory, parent: FlatNode | None) -> FlatNode:
        flat = self._add(node.described, parent)
        flat.links, flat.children = 2, []
        return flat

    def _add_file(self, node: MemoryFile, parent: FlatNode) -> FlatNode:
        flat = self._add(node.entry, parent)
        if isinstance(node, SpooledFile):
            flat.extents = node.extents
        return flat

    def _add(self, entry: Entry, parent: FlatNode | None) -> FlatNode:
        self._budget.take(NODE_BYTES)
        flat = FlatNode(len(self.nodes), stored_entry(entry, self._losses, self._max_mtime_ns), parent)
        self.nodes.append(flat)
        return flat


def stored_entry(entry: Entry, losses: Losses, max_mtime_ns: int | None = None) -> Entry:
    """Return an entry as writers store it: without attributes of another machine, which ``losses`` counts."""
    is_link = entry.type is EntryType.SYMLINK
    xattrs = _own_xattrs(entry.xattrs, losses) if entry.xattrs else None
    mtime_ns = entry.mtime_ns if max_mtime_ns is None else min(entry.mtime_ns, max_mtime_ns)
    if is_link or xattrs != entry.xattrs or mtime_ns != entry.mtime_ns:
        return entry._replace(mode=_SYMLINK_MODE if is_link else entry.mode, xattrs=xattrs, mtime_ns=mtime_ns)
    return entry


def _own_xattrs(xattrs: dict[bytes, bytes], losses: Losses) -> dict[bytes, bytes] | None:
    own = {}
    for name, value in sorted(xattrs.items()):
        if is_foreign_xattr(name):
            count_xattr(losses.skipped_xattrs, name)
        else:
            own[name] = value
    return own or None
