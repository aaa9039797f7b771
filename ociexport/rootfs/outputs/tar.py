"""An image's root filesystem as one tar: no whiteouts, nothing twice, and no tree on disk.

Two passes over the layers. The first applies them to a tree of names, which says what is left in the end; the second
writes the data of just that, as it comes by. So the order is: directories, sorted; then files, layer by layer, in the
layers' own order; then links, devices and further names of files, sorted. The same image gives the same bytes. GNU tar
wants ``--delay-directory-restore`` for the times of directories that others are written into after them; no order
spares it that: mke2fs wants each directory before what is in it, sqfstar complains of each that comes twice, and data
comes as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ociexport.errors import LimitExceededError
from ociexport.images.resolve import read_layers, resolve_manifest
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
from ociexport.spec.config import ImageConfig, Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import SILENT, Progress

# What an entry of the tar takes of memory until it is written, beside its path: measured, rounded up.
_CONTENT_BYTES = 300
# What Linux gives every link.
_SYMLINK_MODE = 0o777


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """What was written.

    Args:
        manifest_digest: of the platform's manifest.
        config: of the image.
        layers: with their diff_ids, lowest first.
        entries: in the tar.
        losses: what was left out.
    """

    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[Layer, ...]
    entries: int
    losses: Losses


def flatten(
    source: ImageSource,
    write: Callable[[bytes | memoryview], object],
    *,
    platform: Platform,
    limits: Limits,
    selection: PathSelection | None = None,
    keep_dirlinks: bool = False,
    max_mtime_ns: int | None = None,
    progress: Progress = SILENT,
) -> FlattenResult:
    """Write the root filesystem of ``source`` as one tar; every layer is proven by its diff_id, in both passes.

    Args:
        source: the image; its layers are read twice, those without surviving files once.
        write: takes the tar's bytes; what was written before an error is no whole tar.
        limits: how large the image may be; they hold for the tar as well, in which holes are written out.
        max_mtime_ns: newer times are written as this one (SOURCE_DATE_EPOCH).

    Raises:
        as `unpack` does.

    Spec: image-spec 1.1 layer.md, "Applying Changesets".
    """
    manifest = resolve_manifest(source, platform).manifest
    config, layers = read_layers(source, manifest)
    progress.say(f"{source.display_name}: platform {config.platform}, {len(layers)} layers, read twice")
    losses = Losses()
    budget = NameBudget(limits)
    tree = MemoryTree(
        budget,
        keep_dirlinks=keep_dirlinks,
        max_depth=limits.max_depth,
        max_steps=limits.max_steps,
    )
    LayerApplier(tree, limits, losses, selection=selection).apply_all(source, layers, progress)
    contents = _Contents(tree, budget, losses)
    if contents.total_bytes > limits.max_bytes:
        raise LimitExceededError(
            f"files: expected at most {limits.max_bytes} bytes in all, got {contents.total_bytes}",
            hint="if you trust the image, raise --max-size",
        )
    writer = TarWriter(write, max_mtime_ns=max_mtime_ns)
    for entry in contents.directories:
        writer.write_entry(entry)
    emitter = _FileEmitter(writer, contents.files)
    applier = LayerApplier(emitter, limits, Losses(), selection=selection)
    last_layer = max((place[0] for place in contents.files), default=0)
    applier.apply_all(source, layers[:last_layer], progress)
    for entry in contents.others:
        writer.write_entry(entry)
    writer.finish()
    entries = len(contents.directories) + len(contents.files) + len(contents.others)
    return FlattenResult(manifest.digest, config, layers, entries, losses)


class _Contents:
    """What is left in a tree of names, in the order in which it is written."""

    def __init__(self, tree: MemoryTree, budget: NameBudget, losses: Losses) -> None:
        self._losses = losses
        self.directories = [self._directory_entry(b"./", tree.root)]
        self.files: dict[tuple[int, int], Entry] = {}
        self.others: list[Entry] = []
        self.total_bytes = 0
        first_names: dict[int, bytes] = {}
        for path, node in tree.walk():
            budget.take(_CONTENT_BYTES + len(path))
            if isinstance(node, MemoryDirectory):
                self.directories.append(self._directory_entry(path + b"/", node))
            elif (first := first_names.setdefault(id(node), path)) != path:
                link = node.entry._replace(type=EntryType.HARD_LINK, name=path, link_name=first, size=0, xattrs=None)
                self.others.append(link)
            else:
                self._add_file(path, node)

    def _add_file(self, path: bytes, node: MemoryFile) -> None:
        entry = node.entry._replace(name=path, xattrs=self._own_xattrs(node.entry))
        if entry.type is EntryType.SYMLINK:
            entry = entry._replace(mode=_SYMLINK_MODE)
        if node.place is None:
            # Links to links and devices come after them: both are in the order of their paths.
            self.others.append(entry)
        else:
            self.files[node.place] = entry
            self.total_bytes += entry.size

    def _directory_entry(self, name: bytes, node: MemoryDirectory) -> Entry:
        entry = node.described
        return entry._replace(name=name, size=0, xattrs=self._own_xattrs(entry))

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
    """Writes the files that are left when they come by; the rest is written before or after."""

    def __init__(self, writer: TarWriter, files: dict[tuple[int, int], Entry]) -> None:
        super().__init__(files)
        self._writer = writer

    def take_file(self, wanted: Entry, entry: Entry, data: Iterator[memoryview]) -> None:
        # Of a sparse file the holes too, as zeros: every reader of tars understands that.
        chunks = data if entry.segments is None else filled_parts(entry.segments, entry.size, data)
        self._writer.write_file(wanted, chunks)
