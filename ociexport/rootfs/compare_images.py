"""Compares two images path by path, from the indexes that their layouts keep; a layer without an index is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from ociexport.images.resolve import read_layers, resolve_manifest
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, Node
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import filled_parts
from ociexport.layers.targets import PickingTarget
from ociexport.rootfs.changes import Change
from ociexport.rootfs.kept_contents import RecordedTree, apply_layers
from ociexport.spec.descriptor import Platform
from ociexport.system.progress.protocol import SILENT, Progress


def compare_images(
    changed: ImageSource,
    base: ImageSource,
    *,
    platform: Platform,
    limits: Limits,
    owners: bool = True,
    progress: Progress = SILENT,
) -> list[Change]:
    """Return the differences between two images, sorted by path: what ``changed`` has otherwise than ``base``.

    As for a tree on disk, nothing is listed below a path that only one of both has, and times of directories are not
    compared. Both trees are in memory.

    Args:
        platform: of both images.
        owners: whether owners are compared.

    Raises:
        as `unpack` does.
    """
    images = [_Image(source, platform, limits, progress) for source in (changed, base)]
    comparison = _Comparison(*(image.tree for image in images), owners=owners)
    comparison.compare()
    limits.verify_files(comparison.doubtful_bytes)
    changes = comparison.changes
    one, other = (image.filled(files) for image, files in zip(images, comparison.doubtful, strict=True))
    for path in one:
        if one[path] != other[path]:
            known = changes.get(path, Change(path, "M"))
            changes[path] = Change(path, "M", ("content", *known.what))
    return [changes[path] for path in sorted(changes)]


class _Image:
    """One of two images, and its tree."""

    def __init__(self, source: ImageSource, platform: Platform, limits: Limits, progress: Progress) -> None:
        self._source = source
        self._limits = limits
        self._progress = progress
        _, self._layers = read_layers(source, resolve_manifest(source, platform), platform, progress)
        self.tree = RecordedTree(NameBudget(limits), max_depth=limits.max_depth, max_steps=limits.max_steps)
        apply_layers(self.tree, source, self._layers, limits, progress)

    def filled(self, files: Mapping[tuple[int, int], list[bytes]]) -> Mapping[bytes, bytes]:
        """Return the digests of files with their holes filled, which takes one more reading of the layers."""
        if not files:
            return {}
        filler = _Filler(files)
        LayerApplier(filler, self._limits, Losses()).apply_all(self._source, self._layers, self._progress)
        return filler.digests


class _Comparison:
    """Compares two trees.

    Attributes:
        changes: by path.
        doubtful: files of the same size whose holes differ, so that their digests tell nothing; for each image, the
            paths by the places of the files.
        doubtful_bytes: the size of these files.
    """

    def __init__(self, changed: RecordedTree, base: RecordedTree, *, owners: bool) -> None:
        self._changed = changed
        self._base = base
        self._owners = owners
        self.changes: dict[bytes, Change] = {}
        self.doubtful_bytes = 0
        self.doubtful: tuple[dict[tuple[int, int], list[bytes]], ...] = ({}, {})
        # With hard links, the files of both images must match one to one.
        self._partners: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def compare(self) -> None:
        waiting: list[tuple[bytes, Node, Node]] = [(b"", self._changed.root, self._base.root)]
        while waiting:
            path, changed, base = waiting.pop()
            if changed.described.type is not base.described.type:
                self.changes[path] = Change(path, "T")
                continue
            if what := tuple(self._differences(path, changed, base)):
                self.changes[path or b"."] = Change(path or b".", "M", what)
            if isinstance(changed, MemoryDirectory) and isinstance(base, MemoryDirectory):
                prefix = path + b"/" if path else b""
                for name in changed.children.keys() - base.children.keys():
                    self.changes[prefix + name] = Change(prefix + name, "A")
                for name in base.children.keys() - changed.children.keys():
                    self.changes[prefix + name] = Change(prefix + name, "D")
                both = sorted(changed.children.keys() & base.children.keys(), reverse=True)
                waiting += [(prefix + name, changed.children[name], base.children[name]) for name in both]

    def _differences(self, path: bytes, changed: Node, base: Node) -> Iterator[str]:
        one, other = changed.described, base.described
        kind = one.type
        if isinstance(changed, MemoryFile) and isinstance(base, MemoryFile) and kind is EntryType.FILE:
            if self._is_other_content(path, changed, base):
                yield "content"
        elif kind is EntryType.SYMLINK and one.link_name != other.link_name:
            yield "target"
        if one.device != other.device:
            yield "device"
        yield from _metadata_differences(one, other, owners=self._owners)
        if isinstance(changed, MemoryFile) and isinstance(base, MemoryFile):
            forth, back = self._partners
            if forth.setdefault(id(changed), id(base)) != id(base) or back.setdefault(id(base), id(changed)) != id(
                changed
            ):
                yield "links"

    def _is_other_content(self, path: bytes, changed: MemoryFile, base: MemoryFile) -> bool:
        if changed.entry.size != base.entry.size:
            return True
        if changed.place is None or base.place is None:
            raise AssertionError("a file has a place")
        one, other = self._changed.contents.get(changed.place), self._base.contents.get(base.place)
        if one is None or other is None:  # without any content
            return one is not other
        if one.segments == other.segments:
            return one.digest != other.digest
        self.doubtful_bytes += changed.entry.size + base.entry.size
        for files, place in zip(self.doubtful, (changed.place, base.place), strict=True):
            files.setdefault(place, []).append(path)
        return False


def _metadata_differences(one: Entry, other: Entry, *, owners: bool) -> Iterator[str]:
    if one.type is not EntryType.SYMLINK and one.mode != other.mode:
        yield "mode"
    if owners and (one.uid, one.gid) != (other.uid, other.gid):
        yield "owner"
    if (one.xattrs or {}) != (other.xattrs or {}):
        yield "xattrs"
    if one.type is not EntryType.DIRECTORY and one.mtime_ns != other.mtime_ns:
        yield "mtime"


class _Filler(PickingTarget[list[bytes]]):
    """Hashes selected files with their holes filled.

    Attributes:
        digests: by the files' paths.
    """

    def __init__(self, wanted: Mapping[tuple[int, int], list[bytes]]) -> None:
        super().__init__(wanted)
        self.digests: dict[bytes, bytes] = {}

    def take_file(self, wanted: list[bytes], entry: Entry, data: Iterator[memoryview]) -> None:
        hasher = hashlib.sha256()
        for chunk in data if entry.segments is None else filled_parts(entry.segments, entry.size, data):
            hasher.update(chunk)
        self.digests.update(dict.fromkeys(wanted, hasher.digest()))
