"""list_files() and list_layers(): the files of an image, or of each layer, without a tree on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from ociexport.errors import NotFoundError, quoted_path
from ociexport.images.source import ImageSource
from ociexport.inspection.access import Access, OriginLayer, Subject, identity_of, opened
from ociexport.inspection.find_path import find, parse_path, shown_path
from ociexport.inspection.kept_layers import KeptLayers
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.apply import LayerApplier
from ociexport.layers.file_notes import NotingRecorder
from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, Node
from ociexport.layers.partial_tree import PartialTree
from ociexport.layers.record import ChangeKind, LayerChange
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass

# The mode of every symbolic link on Linux.
_SYMLINK_MODE = 0o777
# Memory of a listed file, without its path: measured, rounded up.
_LISTED_BYTES = 200
# How many changes of layers that occur more than once are kept; beyond that, such layers are read again.
_MAX_KEPT_CHANGES = 10_000


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One name in an image.

    Args:
        path: any bytes, with a leading slash; begins with the requested path.
        type: a hard link counts as a file.
        link_target: of a symbolic link, unresolved.
        layer: number of the layer, from 1, that a file's content or a directory's metadata comes from; 0 for a root
            directory that no layer contains.
    """

    path: bytes
    type: EntryType
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link_target: bytes
    device: tuple[int, int]
    layer: int

    @classmethod
    def of(cls, path: bytes, entry: Entry, layer: int) -> ListedFile:
        """Return ``entry`` of ``layer`` as a file listed under ``path``."""
        return cls(
            path=path,
            type=entry.type,
            mode=entry.mode if entry.type is not EntryType.SYMLINK else _SYMLINK_MODE,
            uid=entry.uid,
            gid=entry.gid,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            link_target=entry.link_name if entry.type is EntryType.SYMLINK else b"",
            device=entry.device,
            layer=layer,
        )


@dataclass(frozen=True, slots=True)
class ListedLayer:
    """The entries of one layer, in the layer's order.

    Args:
        changes: paths as written in the layer, links not followed; without AUFS's bookkeeping files.
    """

    origin: OriginLayer
    changes: tuple[LayerChange, ...]


def list_files(
    image: str | ImageSource,
    path: str | bytes = "/",
    *,
    recursive: bool = False,
    itself: bool = False,
    access: Access | None = None,
) -> tuple[ListedFile, ...]:
    """Return the files in the directory at ``path``, sorted by name, or the one file at ``path``.

    Every layer that was read is verified. Layers are read from the top down, as far as needed: a directory's content
    needs all layers, unless a layer hides the lower ones.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        path: links in it are followed within the root; a link at its end only if it leads to a directory.
        recursive: whether the content of subdirectories is listed too.
        itself: whether the directory or link at ``path`` is listed, not its content.
        access: how the image is found and read.

    Raises:
        NotFoundError: the image has no such path; or as `opened` does.
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
    """
    wanted = parse_path(path)

    def question(tree: PartialTree) -> tuple[ListedFile, ...]:
        budget, files = NameBudget(subject.access.limits), []
        for file in _list(tree, wanted, recursive=recursive, itself=itself):
            # Each listed path repeats all names above it; the tree stores each name once.
            budget.take(_LISTED_BYTES + len(file.path))
            files.append(file)
        return tuple(files)

    with opened(image, access) as subject:
        reader = TopDownReader(subject)
        if not wanted.strip(b"/") and not itself:
            reader.read_all()
        return reader.ask(question)


def list_layers(
    image: str | ImageSource, path: str | bytes = "/", *, number: int | None = None, access: Access | None = None
) -> Iterator[ListedLayer]:
    """Yield each layer, lowest first, with its entries at and below ``path``; each layer is verified first.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        path: compared with the paths as written in the layer; links are not followed.
        number: of the only layer to read; None for all.
        access: how the image is found and read.

    Raises:
        NotFoundError: there is no such layer, or no layer has ``path``; or as `opened` does.
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
    """
    wanted = os.path.normpath(b"/" + parse_path(path)).lstrip(b"/")
    is_found = not wanted
    with opened(image, access) as subject:
        chosen = _chosen(subject, number)
        counts = Counter(identity_of(origin.layer) for origin in chosen)
        # Layers that occur again, as empty ones do.
        kept: dict[tuple[Digest, Digest], tuple[LayerChange, ...]] = {}
        for origin in chosen:
            identity = identity_of(origin.layer)
            if (known := kept.get(identity)) is not None:
                changes = known
            else:
                changes = tuple(change for change in _changes_of(subject, origin) if _concerns(change, wanted))
                if counts[identity] > 1 and sum(map(len, kept.values())) + len(changes) <= _MAX_KEPT_CHANGES:
                    kept[identity] = changes
            is_found = is_found or bool(changes)
            yield ListedLayer(origin, changes)
    if not is_found:
        raise NotFoundError(f"{quoted_path(b'/' + wanted)}: no such path in the layers")


def _changes_of(subject: Subject, origin: OriginLayer) -> list[LayerChange]:
    recorder = NotingRecorder(NameBudget(subject.access.limits))
    applier = LayerApplier(recorder, subject.access.limits, Losses(), locator=recorder)
    KeptLayers(subject).apply((origin.layer,), applier, recorder, doing="reading")
    return recorder.changes[0]


def _chosen(subject: Subject, number: int | None) -> tuple[OriginLayer, ...]:
    if number is None:
        return subject.origins
    if not 1 <= number <= len(subject.origins):
        raise NotFoundError(f"layer {number}: expected a layer of the image, 1 to {len(subject.origins)}")
    return subject.origins[number - 1 : number]


def _concerns(change: LayerChange, wanted: bytes) -> bool:
    """Whether a change is at or below ``wanted``, or hides a directory above it."""
    path = change.path
    if not wanted or path == wanted or path.startswith(wanted + b"/"):
        return True
    hides = change.kind in (ChangeKind.WHITEOUT, ChangeKind.OPAQUE)
    return hides and (not path or wanted.startswith(path + b"/"))


def _list(tree: PartialTree, wanted: bytes, *, recursive: bool, itself: bool) -> Iterator[ListedFile]:
    node = find(tree, wanted, follow=False)
    shown = shown_path(wanted)
    if itself or not (directory := _directory_at(tree, wanted, node)):
        yield _listed(shown, node)
        return
    prefix = shown.rstrip(b"/") + b"/"
    tree.verify_is_whole(directory)
    if not recursive:
        yield from (_listed(prefix + name, directory.children[name]) for name in sorted(directory.children))
        return
    for path, child in tree.walk(directory):
        if isinstance(child, MemoryDirectory):
            tree.verify_is_whole(child)
        yield _listed(prefix + path, child)


def _directory_at(tree: PartialTree, wanted: bytes, node: Node) -> MemoryDirectory | None:
    """Return ``node`` if it is a directory, or the directory that it links to; else None."""
    if not isinstance(node, MemoryDirectory) and node.is_symlink:
        try:
            node = find(tree, wanted, follow=True)
        except NotFoundError:
            return None  # the link itself can be listed
    return node if isinstance(node, MemoryDirectory) else None


def _listed(path: bytes, node: Node) -> ListedFile:
    return ListedFile.of(path, node.described, node.layer)
