"""Removes blobs that nothing in a layout references; `prune` removes those of unwanted images by the same steps.

Everything reachable from ``index.json`` is kept: indexes, manifests, configs, layers, and the ``subject`` of a listed
signature or SBOM, which is useless without it. The reverse does not hold: a manifest whose ``subject`` is kept is
itself kept only if ``index.json``, or an index in it, lists it, since a layout has no other list of referrers.

Spec: image-spec 1.1 image-layout.md, "Content".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import nullcontext, suppress

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.bundle import parse_bundle
from ociexport.storage.index import ListedSource
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, OWN_DIRECTORY, PARTIAL_DIRECTORY, blob_name
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.pending import PENDING_FILE, read_pending
from ociexport.storage.layout.ranges import collected_files
from ociexport.verification.findings import Findings
from ociexport.verification.stores import BlobEntry, LayoutStore, layout_blobs, read_roots
from ociexport.verification.walk import Root, Walk

# Names that tools give to blobs they have not completed: the digest with a suffix, perhaps with a dot in front.
_UNFINISHED_NAME = re.compile(r"blobs/(?:sha256/\.?[0-9a-f]{64}|sha512/\.?[0-9a-f]{128})[^/]+")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that was removed, or would be.

    Args:
        path: relative to the layout.
        size: in bytes.
        freed: bytes returned to the disk; 0 if the file has other hard links, in a cache or another layout.
    """

    path: str
    size: int
    freed: int


@dataclass(frozen=True, slots=True)
class GarbageResult:
    """Files that were or would be removed, and the number of blobs kept."""

    dropped: tuple[Dropped, ...]
    kept: int

    @property
    def size(self) -> int:
        """Total size of the removed files."""
        return sum(file.size for file in self.dropped)

    @property
    def freed(self) -> int:
        """Bytes returned to the disk."""
        return sum(file.freed for file in self.dropped)


def collect_garbage(path: str | os.PathLike[str], *, dry_run: bool = False) -> GarbageResult:
    """Remove a layout's blobs that ``index.json`` does not reach, and files that interrupted runs left.

    A concurrent pull by ociexport waits until this is done. Other tools do not know the lock.

    Args:
        dry_run: only list what would be removed. Nothing is written, not even a lock.

    Raises:
        NotFoundError: there is no layout.
        UsageError: a process is writing to it, or one of its directories is a link; nothing was removed.
        InvalidImageError: a document is damaged, so its references are unknown; nothing was removed.
        OSError: a file could not be removed; others may have been.
    """
    layout = ImageLayout(path)
    layout.read_images()
    # Blobs elsewhere may belong to other layouts too.
    layout.directory.verify_directories(OWN_DIRECTORY, PARTIAL_DIRECTORY, BLOBS_DIRECTORY)
    if dry_run:
        layout.verify_is_unused()
    with nullcontext() if dry_run else layout.hold_alone():
        findings = Findings()
        walk = Walk(findings)
        for root in read_roots(LayoutStore(layout), findings):
            walk.follow(root)
        follow_pending(layout, walk)
        verify_all_was_read(layout, walk)
        garbage = find_garbage(layout, walk)
        if not dry_run:
            remove_garbage(layout, garbage)
    return garbage


def follow_pending(layout: ImageLayout, walk: Walk) -> None:
    """Follow the images that wait for blobs of another bundle, too."""
    for pending in read_pending(layout.directory):
        source = ListedSource(layout.path, layout, pending.descriptor)
        walk.follow(Root(source, pending.descriptor, f"{layout.path}: {PENDING_FILE}"))


def verify_all_was_read(layout: ImageLayout, walk: Walk) -> None:
    """Return if each document on the walk was read. A missing one references nothing, a damaged one might anything.

    Raises:
        InvalidImageError: a document is damaged.
    """
    for digest in walk.doubtful:
        raise InvalidImageError(
            f"manifest {digest}: expected a readable document, got a damaged one; nothing was removed",
            where=layout.path,
            hint=f"ociexport verify {layout.path} lists the problems",
        )


def find_garbage(layout: ImageLayout, walk: Walk) -> GarbageResult:
    """Return the files of a layout that ``walk`` did not reach, and those that interrupted runs left."""
    there = {entry.digest for entry in layout_blobs(layout.directory)}
    dropped = (*_unnamed_blobs(layout, walk), *_unfinished_blobs(layout), *_unneeded_ranges(layout, walk))
    return GarbageResult(dropped, len(walk.reached & there))


def remove_garbage(layout: ImageLayout, garbage: GarbageResult) -> None:
    """Remove the files that `find_garbage` found; the caller holds the layout alone since then.

    Raises:
        OSError: a file could not be removed; others may have been.
    """
    for file in garbage.dropped:
        with suppress(FileNotFoundError):
            layout.directory.remove(file.path)


def _unnamed_blobs(layout: ImageLayout, walk: Walk) -> Iterator[Dropped]:
    kept = walk.reached | _recipes_of(layout, walk)
    for entry in layout_blobs(layout.directory):
        if entry.digest not in kept and (entry.digest is not None or _is_unfinished(entry)):
            yield _dropped(entry.path, entry.status)


def _recipes_of(layout: ImageLayout, walk: Walk) -> frozenset[Digest]:
    """Return the recipes of an update, for layers that its images need.

    Raises:
        InvalidImageError: ``bundle.json`` can't be read.
    """
    try:
        raw = LayoutStore(layout).read_file(BUNDLE_FILE)
    except NotFoundError:
        return frozenset()
    recipes = parse_bundle(raw, where=layout.directory.path_of(BUNDLE_FILE)).recipes
    return frozenset(one.recipe.digest for one in recipes if one.layer.digest in walk.blobs)


def _is_unfinished(entry: BlobEntry) -> bool:
    return stat.S_ISREG(entry.status.st_mode) and _UNFINISHED_NAME.fullmatch(entry.path) is not None


def _unfinished_blobs(layout: ImageLayout) -> Iterator[Dropped]:
    for name, status in layout.partial_files():
        if stat.S_ISREG(status.st_mode):
            yield _dropped(name, status)


def _unneeded_ranges(layout: ImageLayout, walk: Walk) -> Iterator[Dropped]:
    """Yield the ranges of cut blobs that no image waits for: volumes that come later would not complete them."""
    for name, digest, status in collected_files(layout.directory):
        is_needed = digest in walk.reached and not layout.directory.has(blob_name(digest))
        if stat.S_ISREG(status.st_mode) and digest is not None and not is_needed:
            yield _dropped(name, status)


def _dropped(path: str, status: os.stat_result) -> Dropped:
    return Dropped(path, status.st_size, status.st_size if status.st_nlink == 1 else 0)
