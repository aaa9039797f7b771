"""What changed between two layouts or archives: images that came, went, or have other content under their name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.verification.report import Report, ReportedImage, make_report


class Change(Enum):
    """What happened to a name. The values are stable, since scripts compare them."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of an earlier layout, archive or bundle: enough to tell what changed since.

    A new kind of OLD needs only a function that returns this; see `read_snapshot`.

    Args:
        place: its name as typed.
        images: for each name, the digests of its images; several if platforms are listed one by one. An image without
            a name is called ``@`` and its digest.
        platforms: for each name, the digest of each platform's manifest.
        about: for each name, the digests of the signatures and SBOMs; None if that is not known.
        blobs: the sizes of the blobs that it holds, and of those that it lacks because the far side has them.
    """

    place: str
    images: Mapping[str, frozenset[Digest]]
    platforms: Mapping[str, Mapping[str, Digest]]
    about: Mapping[str, frozenset[Digest]] | None
    blobs: Mapping[Digest, int]


@dataclass(frozen=True, slots=True)
class ChangedName:
    """What happened to one name.

    Args:
        old: digests of its images before; empty if it is new.
        new: digests of its images now; empty if it was removed.
        platforms: for each platform that changed, how.
        has_other_about: whether there are other signatures, SBOMs or attestations than before.
        new_bytes: what its images need and OLD does not hold.
    """

    name: str
    change: Change
    old: frozenset[Digest]
    new: frozenset[Digest]
    platforms: Mapping[str, Change]
    has_other_about: bool
    new_bytes: int


@dataclass(frozen=True)
class Changes:
    """What changed since an earlier layout or archive.

    Args:
        since: the earlier one's name as typed.
        names: in the order of the report, and then the removed ones.
        new_bytes: bytes of blobs that images need now and OLD does not hold.
        gone_bytes: bytes of blobs that OLD holds and that are not stored now.
    """

    since: str
    names: tuple[ChangedName, ...]
    new_bytes: int
    gone_bytes: int

    def count(self, change: Change) -> int:
        """Return how many names changed in this way."""
        return sum(one.change is change for one in self.names)

    def of(self, image: ReportedImage) -> Change:
        """Return what happened to an image: the first of `Change` that happened to one of its names.

        Signatures that only a ``bundle.json`` names are not compared, and so are unchanged.
        """
        return self._by_image.get(image.digest, Change.UNCHANGED)

    @cached_property
    def _by_image(self) -> dict[Digest, Change]:
        order = list(Change)
        found: dict[Digest, Change] = {}
        for one in self.names:
            for digest in one.new:
                found[digest] = min(found.get(digest, one.change), one.change, key=order.index)
        return found


def read_snapshot(source: str, progress: Progress = SILENT) -> Snapshot:
    """Return the snapshot of the layout, archive or ``bundle.json`` called ``source``. Raises as `make_report`."""
    return snapshot_of(make_report(source, progress))


def snapshot_of(report: Report) -> Snapshot:
    """Return what a later report is compared with."""
    images: dict[str, frozenset[Digest]] = {}
    platforms: dict[str, dict[str, Digest]] = {}
    about: dict[str, frozenset[Digest]] = {}
    for image in report.images:
        if report.is_told and image.kind == "artifact" and not image.names:
            continue  # a signature, which other reports count with its image
        for name in _names_of(image):
            images[name] = images.get(name, frozenset()) | {image.digest}
            about[name] = about.get(name, frozenset()) | {one.digest for one in image.about}
            known = platforms.setdefault(name, {})
            for part in image.parts:
                if part.platform is not None:
                    known[part.platform] = part.digest
    blobs = {digest: one.size for digest, one in report.expected.items()} | dict(report.stored)
    return Snapshot(report.place, images, platforms, None if report.is_told else about, blobs)


def compare(report: Report, old: Snapshot) -> Changes:
    """Return what changed from ``old`` to ``report``."""
    new = snapshot_of(report)
    needed: dict[str, set[Digest]] = {}
    for image in report.images:
        for name in _names_of(image):
            needed.setdefault(name, set()).update(image.blobs)
    names = []
    for name in dict.fromkeys((*new.images, *old.images)):
        before, now = old.images.get(name, frozenset()), new.images.get(name, frozenset())
        change = _change_of(before, now)
        is_known = old.about is not None and new.about is not None
        has_other_about = is_known and bool(before and now) and _about(old, name) != _about(new, name)
        if change is Change.UNCHANGED and has_other_about:
            change = Change.CHANGED
        names.append(
            ChangedName(
                name=name,
                change=change,
                old=before,
                new=now,
                platforms=_platform_changes(old.platforms.get(name, {}), new.platforms.get(name, {})),
                has_other_about=has_other_about,
                new_bytes=_size_of(report.stored, needed.get(name, set()) - old.blobs.keys()),
            )
        )
    all_needed = {digest for image in report.images for digest in image.blobs}
    return Changes(
        since=old.place,
        names=tuple(names),
        new_bytes=_size_of(report.stored, all_needed - old.blobs.keys()),
        gone_bytes=_size_of(old.blobs, set(old.blobs.keys() - new.blobs.keys())),
    )


def _about(snapshot: Snapshot, name: str) -> frozenset[Digest] | None:
    return snapshot.about.get(name, frozenset()) if snapshot.about is not None else None


def _names_of(image: ReportedImage) -> tuple[str, ...]:
    return image.names or (f"@{image.digest}",)


def _change_of(before: object, now: object) -> Change:
    if before == now:
        return Change.UNCHANGED
    if not before:
        return Change.ADDED
    return Change.CHANGED if now else Change.REMOVED


def _platform_changes(before: Mapping[str, Digest], now: Mapping[str, Digest]) -> dict[str, Change]:
    found = {name: _change_of(before.get(name), now.get(name)) for name in dict.fromkeys((*now, *before))}
    return {name: change for name, change in found.items() if change is not Change.UNCHANGED}


def _size_of(sizes: Mapping[Digest, int], digests: set[Digest]) -> int:
    return sum(sizes[digest] for digest in digests)
