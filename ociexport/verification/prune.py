"""Removes images from a layout that are not wanted any more, and what only they need.

1. The rule chooses the images to keep. Signatures, SBOMs and attestations of a kept image are kept with it.
2. Everything that the kept entries reach stays, as in `garbage`; the plan is the other names and the other blobs.
3. ``index.json`` is replaced first, by one without the other names, and then the blobs are removed. So the layout is
   valid at each moment, and after an interruption the next run removes the blobs that are left.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext

from ociexport.errors import printable
from ociexport.images.source import ImageName
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.index import ListedSource, shown_name
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, OWN_DIRECTORY, PARTIAL_DIRECTORY
from ociexport.storage.layout.layout import ImageLayout
from ociexport.verification.findings import Findings
from ociexport.verification.garbage import (
    GarbageResult,
    find_garbage,
    follow_pending,
    remove_garbage,
    verify_all_was_read,
)
from ociexport.verification.keep import Keep, verify_keeps_any
from ociexport.verification.listed import Companions, ListedEntry, follow_with_companions
from ociexport.verification.walk import Root, Walk


@dataclass(frozen=True, slots=True)
class PrunedName:
    """An entry of ``index.json``: its full name or tag, or ``@`` and its digest."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What was or would be removed.

    Args:
        dropped: entries of ``index.json``, in its order.
        kept: the other entries.
        garbage: the files.
        notes: what the user should know about the choice.
    """

    dropped: tuple[PrunedName, ...]
    kept: tuple[PrunedName, ...]
    garbage: GarbageResult
    notes: tuple[str, ...]


def prune(path: str | os.PathLike[str], keep: Keep, *, is_confirmed: bool) -> PruneResult:
    """Return the plan of what ``keep`` leaves out; if confirmed, remove it.

    A concurrent pull by ociexport waits until this is done. Other tools do not know the lock.

    Args:
        is_confirmed: False to write nothing, not even a lock.

    Raises:
        NotFoundError: there is no layout.
        UsageError: a process is writing to it, one of its directories is a link, or no image would be kept; nothing
            was removed.
        InvalidImageError: a document of a kept image is damaged, so its references are unknown; nothing was removed.
        OSError: a file could not be removed; others may have been.
    """
    layout = ImageLayout(path)
    layout.read_images()
    layout.directory.verify_directories(OWN_DIRECTORY, PARTIAL_DIRECTORY, BLOBS_DIRECTORY)
    if not is_confirmed:
        layout.verify_is_unused()
    with layout.hold_alone() if is_confirmed else nullcontext():
        before = layout.read_index_bytes() or b""
        entries = _entries_of(layout)
        chosen = keep.choose(entries)
        verify_keeps_any(chosen, entries, layout.path)
        kept, walk = _follow_kept(chosen.kept, chosen.dropped, entries)
        follow_pending(layout, walk)
        verify_all_was_read(layout, walk)
        garbage = find_garbage(layout, walk)
        removed = {position for position, entry in enumerate(entries) if id(entry) not in kept}
        if is_confirmed:
            if removed:
                layout.unlist(removed, before)
            remove_garbage(layout, garbage)
    return PruneResult(
        dropped=tuple(_pruned(entry) for position, entry in enumerate(entries) if position in removed),
        kept=tuple(_pruned(entry) for position, entry in enumerate(entries) if position not in removed),
        garbage=garbage,
        notes=chosen.notes,
    )


def _entries_of(layout: ImageLayout) -> list[ListedEntry]:
    images = layout.read_images()
    entries = []
    for descriptor, name in images:
        source = ListedSource(layout.path, layout, descriptor, images)
        entries.append(ListedEntry(Root(source, descriptor, printable(shown_name(descriptor, name))), name))
    return entries


def _follow_kept(
    chosen: Sequence[ListedEntry], dropped: Sequence[ListedEntry] | None, entries: Sequence[ListedEntry]
) -> tuple[set[int], Walk]:
    """Return the ids of all entries to keep, and the walk over everything that they reach.

    Args:
        dropped: the images to remove; what is about neither these nor the chosen ones is kept. None to remove all
            that is not about the chosen ones.
    """
    companions = Companions(entries)
    walk = Walk(Findings())
    # A damaged entry without a name may be the signature of a kept image; to follow it shows the damage.
    unsure = [entry for entry in entries if entry.is_damaged and entry.name == ImageName(None, None)]
    kept = follow_with_companions(walk, [*chosen, *unsure], companions)
    if dropped is not None:
        about_dropped = follow_with_companions(Walk(Findings()), dropped, companions)
        known = {id(entry) for entry in (*kept, *about_dropped)}
        others = [entry for entry in entries if id(entry) not in known]
        kept = (*kept, *follow_with_companions(walk, others, companions))
    return set(map(id, kept)), walk


def _pruned(entry: ListedEntry) -> PrunedName:
    return PrunedName(entry.shown_name, entry.descriptor.digest)
