"""What nothing in a layout leads to, and its removal.

What ``index.json`` lists is kept, with all that it names: indexes, manifests, configs, layers, and what a listed
signature or SBOM is about (``subject``), for without that it says nothing. It is not so the other way: a manifest about
one that is kept is kept only if ``index.json``, or an index in it, lists it; that is how it is found in a layout.

Spec: image-spec 1.1 image-layout.md, "Content".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from ociexport.errors import InvalidImageError
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, OWN_DIRECTORY, PARTIAL_DIRECTORY
from ociexport.storage.layout.hold import is_held
from ociexport.storage.layout.layout import USERS_FILE, ImageLayout
from ociexport.verification.findings import Findings
from ociexport.verification.stores import BlobEntry, LayoutStore, layout_blobs, read_roots
from ociexport.verification.walk import Walk

# How tools call a blob that they write, before it is complete: the digest, something after it, perhaps a dot before it.
_UNFINISHED_NAME = re.compile(r"blobs/(?:sha256/\.?[0-9a-f]{64}|sha512/\.?[0-9a-f]{128})[^/]+")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that went, or would go.

    Args:
        path: from the layout on.
        size: in bytes.
        freed: how many of them the disk has back; none where the file has other names, in a cache or another layout.
    """

    path: str
    size: int
    freed: int


@dataclass(frozen=True, slots=True)
class GarbageResult:
    """What went, or would go, and how many blobs are kept."""

    dropped: tuple[Dropped, ...]
    kept: int

    @property
    def size(self) -> int:
        """Bytes of what went."""
        return sum(file.size for file in self.dropped)

    @property
    def freed(self) -> int:
        """Bytes that the disk has back."""
        return sum(file.freed for file in self.dropped)


def collect_garbage(path: str | os.PathLike[str], *, dry_run: bool = False) -> GarbageResult:
    """Remove the blobs of a layout that nothing in its ``index.json`` leads to, and what runs that ended early left.

    Nobody pulls into the layout meanwhile: who wants to waits. Other tools than this one do not know of that.

    Args:
        dry_run: whether only to say what would go; nothing is written then, not even a lock.

    Raises:
        NotFoundError: there is no layout.
        UsageError: somebody writes to it, or it leads elsewhere by links; nothing was removed.
        InvalidImageError: a document is damaged, so that nobody knows what it names; nothing was removed.
        OSError: a file could not be removed; others were.
    """
    layout = ImageLayout(path)
    layout.read_images()
    # What is elsewhere may be others' as well.
    layout.directory.verify_directories(OWN_DIRECTORY, PARTIAL_DIRECTORY, BLOBS_DIRECTORY)
    if dry_run and is_held(layout.directory, USERS_FILE):
        raise layout.in_use_error()
    with nullcontext() if dry_run else layout.hold_alone():
        walk = _walk(layout)
        dropped = []
        for file in (*_unnamed_blobs(layout, walk), *_unfinished_blobs(layout)):
            if not dry_run:
                with suppress(FileNotFoundError):
                    layout.directory.remove(file.path)
            dropped.append(file)
        there = {entry.digest for entry in layout_blobs(layout.directory)}
    return GarbageResult(tuple(dropped), len(walk.reached & there))


def _walk(layout: ImageLayout) -> Walk:
    """Follow all that is listed; what is missing names nothing, but what is damaged might name anything.

    Raises:
        InvalidImageError: a document is damaged.
    """
    findings = Findings()
    walk = Walk(findings)
    for root in read_roots(LayoutStore(layout), findings):
        walk.follow(root)
    for digest in walk.doubtful:
        raise InvalidImageError(
            f"manifest {digest}: expected a document that tells what it names, got a damaged one; nothing was removed",
            where=layout.path,
            hint=f"ociexport verify {layout.path} says what is wrong",
        )
    return walk


def _unnamed_blobs(layout: ImageLayout, walk: Walk) -> Iterator[Dropped]:
    kept = walk.reached
    for entry in layout_blobs(layout.directory):
        if entry.digest not in kept and (entry.digest is not None or _is_unfinished(entry)):
            yield _dropped(entry.path, entry.status)


def _is_unfinished(entry: BlobEntry) -> bool:
    return stat.S_ISREG(entry.status.st_mode) and _UNFINISHED_NAME.fullmatch(entry.path) is not None


def _unfinished_blobs(layout: ImageLayout) -> Iterator[Dropped]:
    for name, status in layout.partial_files():
        if stat.S_ISREG(status.st_mode):
            yield _dropped(name, status)


def _dropped(path: str, status: os.stat_result) -> Dropped:
    return Dropped(path, status.st_size, status.st_size if status.st_nlink == 1 else 0)
