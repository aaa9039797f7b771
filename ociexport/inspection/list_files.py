"""list_files() and list_layers(): what is in an image, or in each of its layers, with no tree on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ociexport.errors import NotFoundError, quoted_path
from ociexport.images.source import ImageSource
from ociexport.inspection.access import Access, OriginLayer, Subject, opened
from ociexport.inspection.find_path import find, parse_path
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, Node
from ociexport.layers.partial_tree import PartialTree
from ociexport.layers.record import ChangeKind, ChangeRecorder, LayerChange
from ociexport.layers.tar.reader import Entry, EntryType

# What Linux gives every link.
_SYMLINK_MODE = 0o777
# What a listed file takes of memory, beside its path: measured, rounded up.
_LISTED_BYTES = 200


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One name in an image.

    Args:
        path: any bytes, with a slash in front; it begins as the one that was asked for.
        type: what is there; of a hard link that is a file.
        link_target: of a symbolic link, as it stands.
        layer: number of the layer that it is from, from 1: of a file its content, of a directory what is told of it
            here; 0 for a root that no layer names.
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
        """Return what ``entry`` of ``layer`` is under ``path``."""
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
    """What one layer says, in its own order.

    Args:
        changes: paths as the layer writes them, links not followed; AUFS's bookkeeping is left out.
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
    """Return what is at ``path``: of a directory what is in it, sorted by name; of anything else, itself.

    Every layer that was read is verified. They are read from the top down, as far as is needed: what is in a directory
    is known when all are, unless one hides what is below.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        path: links in it are followed within the root; at its very end, if it leads to a directory.
        recursive: what is in directories within the directory, too.
        itself: the directory or link itself is meant.
        access: how the image is come by.

    Raises:
        NotFoundError: nothing is there; or as `opened` does.
        InvalidImageError: a layer breaks the specification, its digest or a limit.
    """
    wanted = parse_path(path)

    def question(tree: PartialTree) -> tuple[ListedFile, ...]:
        budget, files = NameBudget(subject.access.limits), []
        for file in _list(tree, wanted, recursive=recursive, itself=itself):
            # The path of each has all names above it, which a tree of nodes has once.
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
    """Yield each layer, lowest first, with what it says of ``path`` and what is in it; each is verified first.

    Args:
        path: compared with the names in the layer as they are written: no link is followed.
        number: of the only layer that is read; None for all.

    Raises:
        NotFoundError: there is no such layer; or as `opened` does.
        InvalidImageError: a layer breaks the specification, its digest or a limit.
    """
    wanted = os.path.normpath(b"/" + parse_path(path)).lstrip(b"/")
    is_found = not wanted
    with opened(image, access) as subject:
        for origin in _chosen(subject, number):
            recorder = ChangeRecorder(NameBudget(subject.access.limits))
            applier = LayerApplier(recorder, subject.access.limits, Losses())
            applier.apply_some(subject.source, (origin.layer,), subject.access.progress, doing="reading")
            changes = tuple(change for change in recorder.changes[0] if _concerns(change, wanted))
            is_found = is_found or bool(changes)
            yield ListedLayer(origin, changes)
    if not is_found:
        raise NotFoundError(f"{quoted_path(b'/' + wanted)}: there is no such path in the layers")


def _chosen(subject: Subject, number: int | None) -> tuple[OriginLayer, ...]:
    if number is None:
        return subject.origins
    if not 1 <= number <= len(subject.origins):
        raise NotFoundError(f"layer {number}: expected 1 to {len(subject.origins)}, which the image has")
    return subject.origins[number - 1 : number]


def _concerns(change: LayerChange, wanted: bytes) -> bool:
    """Whether a change is of ``wanted``, of what is in it, or hides what it is in."""
    path = change.path
    if not wanted or path == wanted or path.startswith(wanted + b"/"):
        return True
    hides = change.kind in (ChangeKind.WHITEOUT, ChangeKind.OPAQUE)
    return hides and (not path or wanted.startswith(path + b"/"))


def _list(tree: PartialTree, wanted: bytes, *, recursive: bool, itself: bool) -> Iterator[ListedFile]:
    node = find(tree, wanted, follow=False)
    shown = b"/" + b"/".join(part for part in wanted.split(b"/") if part not in (b"", b"."))
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
    """Return the directory that ``node`` is or, as a link, leads to."""
    if not isinstance(node, MemoryDirectory) and node.is_symlink:
        try:
            node = find(tree, wanted, follow=True)
        except NotFoundError:
            return None  # the link itself can be told
    return node if isinstance(node, MemoryDirectory) else None


def _listed(path: bytes, node: Node) -> ListedFile:
    return ListedFile.of(path, node.described, node.layer)
