"""Writes an image's root filesystem as one tar: no whiteouts, each path once, and no tree on disk.

Two passes over the layers. The first applies them to a tree of names, which shows what remains in the end. The second
writes the data of the remaining files as it streams by. So the order is: directories, sorted; then files, layer by
layer, in the order of the layers; then links, devices and further names of files, sorted. The same image gives the same
bytes.

GNU tar needs ``--delay-directory-restore`` to keep the times of directories, since files are written into them later.
No other order avoids that: mke2fs needs each directory before its content, sqfstar complains of a directory that occurs
twice, and the layers determine the order of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses, count_xattr, is_foreign_xattr
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree
from ociexport.layers.selection import PathSelection
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import filled_parts
from ociexport.layers.tar.writer import TarWriter
from ociexport.layers.targets import PickingTarget
from ociexport.rootfs.chosen_image import ImageResult, choose_image
from ociexport.spec.config import ImageConfig
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.progress.protocol import SILENT, Progress

# Memory for an entry of the tar until it is written, apart from its path: measured, rounded up.
_CONTENT_BYTES = 300
# The mode of every link on Linux.
_SYMLINK_MODE = 0o777


@dataclass(frozen=True, slots=True)
class FlattenResult(ImageResult):
    """What was written.

    Args:
        written_entries: number in the tar.
    """

    written_entries: int


def _unchanged(entry: Entry) -> Entry:
    return entry


def no_files(_config: ImageConfig) -> Iterator[tuple[Entry, bytes]]:
    """Return no files to write first."""
    return iter(())


def flatten(
    source: ImageSource,
    write: Callable[[bytes | memoryview], object],
    *,
    platform: Platform,
    limits: Limits,
    selection: PathSelection | None = None,
    keep_dirlinks: bool = False,
    max_mtime_ns: int | None = None,
    change: Callable[[Entry], Entry] = _unchanged,
    prefix: bytes = b"",
    first_files: Callable[[ImageConfig], Iterator[tuple[Entry, bytes]]] = no_files,
    progress: Progress = SILENT,
) -> FlattenResult:
    """Write the root filesystem of ``source`` as one tar; every layer that is read is verified by its diff_id.

    Args:
        source: the image; its layers are read twice, except those above the last one with remaining files.
        write: receives the tar's bytes; after an error they are not a complete tar.
        limits: how large the image may be; they also apply to the tar, in which holes are written as zeros.
        max_mtime_ns: newer times are replaced by this one (SOURCE_DATE_EPOCH).
        change: returns what is written of an entry's metadata.
        prefix: of all names, with a slash at its end.
        first_files: returns files to write before the root filesystem, whose names have no prefix.

    Raises:
        as `unpack` does.

    Spec: image-spec 1.1 layer.md, "Applying Changesets".
    """
    chosen = choose_image(source, platform, progress, times="read twice")
    losses = Losses()
    budget = NameBudget(limits)
    tree = MemoryTree(
        budget,
        keep_dirlinks=keep_dirlinks,
        max_depth=limits.max_depth,
        max_steps=limits.max_steps,
    )
    reader = LayerApplier(tree, limits, losses, selection=selection)
    reader.apply_all(source, chosen.layers, progress, doing="reading")
    contents = _Contents(tree, budget, losses, change, prefix)
    limits.verify_files(contents.total_bytes)
    writer = TarWriter(write, max_mtime_ns=max_mtime_ns)
    for entry, content in first_files(chosen.config):
        writer.write_file(entry, [content])
    for entry in contents.directories:
        writer.write_entry(entry)
    emitter = _FileEmitter(writer, contents.files)
    applier = LayerApplier(emitter, limits, Losses(), selection=selection)
    last_layer = max((place[0] for place in contents.files), default=0)
    applier.apply_all(source, chosen.layers[:last_layer], progress, doing="writing")
    for entry in contents.others:
        writer.write_entry(entry)
    writer.finish()
    written = len(contents.directories) + len(contents.files) + len(contents.others)
    return FlattenResult(*chosen, reader.entries, reader.tar_bytes, losses, written_entries=written)


class _Contents:
    """The entries that remain in a tree of names, in the order in which they are written."""

    def __init__(
        self,
        tree: MemoryTree,
        budget: NameBudget,
        losses: Losses,
        change: Callable[[Entry], Entry],
        prefix: bytes,
    ) -> None:
        self._losses = losses
        self._change = change
        self._prefix = prefix
        self.directories = [self._directory_entry(prefix or b"./", tree.root)]
        self.files: dict[tuple[int, int], Entry] = {}
        self.others: list[Entry] = []
        self.total_bytes = 0
        first_names: dict[int, bytes] = {}
        for path, node in tree.walk():
            budget.take(_CONTENT_BYTES + len(path))
            path = prefix + path  # noqa: PLW2901 - the name in the tar
            if isinstance(node, MemoryDirectory):
                self.directories.append(self._directory_entry(path + b"/", node))
            elif (first := first_names.setdefault(id(node), path)) != path:
                link = node.entry._replace(type=EntryType.HARD_LINK, name=path, link_name=first, size=0, xattrs=None)
                self.others.append(self._change(link))
            else:
                self._add_file(path, node)

    def _add_file(self, path: bytes, node: MemoryFile) -> None:
        entry = self._change(node.entry._replace(name=path, xattrs=self._own_xattrs(node.entry)))
        if entry.type is EntryType.SYMLINK:
            entry = entry._replace(mode=_SYMLINK_MODE)
        if node.place is None:
            # Hard links to these come after them, since all are in the order of their paths.
            self.others.append(entry)
        else:
            self.files[node.place] = entry
            self.total_bytes += entry.size

    def _directory_entry(self, name: bytes, node: MemoryDirectory) -> Entry:
        entry = node.described
        return self._change(entry._replace(name=name, size=0, xattrs=self._own_xattrs(entry)))

    def _own_xattrs(self, entry: Entry) -> dict[bytes, bytes] | None:
        if not entry.xattrs:
            return None
        own = {}
        for name, value in entry.xattrs.items():
            if is_foreign_xattr(name):
                count_xattr(self._losses.skipped_xattrs, name)
            else:
                own[name] = value
        return own


class _FileEmitter(PickingTarget[Entry]):
    """Writes the data of the remaining files as it streams by; all other entries are written before or after."""

    def __init__(self, writer: TarWriter, files: dict[tuple[int, int], Entry]) -> None:
        super().__init__(files)
        self._writer = writer

    def take_file(self, wanted: Entry, entry: Entry, data: Iterator[memoryview]) -> None:
        # The holes of a sparse file are written as zeros, which every tar reader understands.
        chunks = data if entry.segments is None else filled_parts(entry.segments, entry.size, data)
        self._writer.write_file(wanted, chunks)
