"""merge(): bundles, layouts and archives united in one layout; an image is named when all that it needs is there.

1. The images of all bundles are read, and those that wait in the layout since an earlier merge.
2. Their blobs are copied, each verified, from the first bundle that has it whole; those that are there are hashed.
   Of a cut blob, the verified ranges wait in the layout until all of them are there.
   Layers that come as recipes are made from the older layers that are then there.
3. Manifests are written. An image without a gap gets its name; the others are remembered, with what they lack.

A process that is killed leaves whole blobs and no names of incomplete images, so the next run goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, NotFoundError, OciexportError, UsageError, counted, quoted
from ociexport.images.fetch import DEFAULT_JOBS, verify_jobs
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.bundle_volume import verify_one_set
from ociexport.storage.index import name_of, shown_name
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.pending import write_pending
from ociexport.storage.layout.ranges import CollectedRange, gaps_in
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.bundle.contents import open_contents
from ociexport.transfer.bundle.gather import Gathered, gather, would_gather
from ociexport.transfer.bundle.incoming import (
    Incoming,
    each_of_a_set_once,
    in_order,
    is_outdated,
    is_replaced,
    read_bundle_images,
    read_pending_images,
    to_pending,
)
from ociexport.transfer.bundle.ranges import OpenVolume

if TYPE_CHECKING:
    from types import ModuleType

    from ociexport.transfer.bundle.rebuild import Rebuilt


@dataclass(frozen=True, slots=True)
class MissingBlob:
    """A blob or document that an image still needs.

    Args:
        label: what it is in the image.
        size: None for a manifest of unknown size.
        bundles: names of the bundles that should have it; empty for a layer that comes as a recipe.
        reason: why it could not be taken from a bundle that has it, or made; None if none has it.
        is_cut: whether each of ``bundles`` has a range of it, and all are needed.
        is_to_come: whether ``bundles`` are volumes of a set of which others were merged, and none of these is damaged.
    """

    digest: Digest
    label: str
    size: int | None
    bundles: tuple[str, ...]
    reason: str | None
    is_cut: bool = False
    is_to_come: bool = False


@dataclass(frozen=True, slots=True)
class MergedImage:
    """An image of a bundle.

    Args:
        name: as messages show it.
        digest: of its manifest or index.
        bundle: name of the bundle that it came in.
        missing: what it still needs; empty if it is complete, and has its name in the layout.
        is_new: whether the layout did not list it before.
        is_outdated: whether its name belongs to a later image, so that it did not get it.
    """

    name: str
    digest: Digest
    bundle: str
    missing: tuple[MissingBlob, ...]
    is_new: bool
    is_outdated: bool

    @property
    def is_complete(self) -> bool:
        """Whether all that it needs is there."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did.

    Args:
        images: of all bundles, and those that waited.
        unreadable: bundles that could not be read, with the errors.
        added_blobs: how many blobs the layout did not have before.
        added_bytes: how many bytes these have.
        reused_blobs: how many blobs it had, whole.
        volumes_to_come: names of the volumes that are still needed.
    """

    images: tuple[MergedImage, ...]
    unreadable: tuple[tuple[str, OciexportError], ...]
    added_blobs: int
    added_bytes: int
    reused_blobs: int
    volumes_to_come: tuple[str, ...] = ()

    @property
    def waiting(self) -> tuple[MergedImage, ...]:
        """The images that lack something."""
        return tuple(image for image in self.images if image.missing)


def merge(
    far: str | os.PathLike[str],
    bundles: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    jobs: int = DEFAULT_JOBS,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> MergeResult:
    """Unite ``bundles`` in the layout ``far``, in any order; doing it twice changes nothing.

    Args:
        far: directory of a layout, which may be absent or empty.
        bundles: path of a layout or archive, thin or whole, or several; ``-`` is an archive on standard input.
        jobs: how many blobs are copied in parallel.
        dry_run: only find out what would be added and named; nothing is written.

    Raises:
        UsageError: ``far`` is something else than a layout, or is among the bundles; or volumes are of several sets.
        OSError: the disk or file system.
    """
    verify_jobs(jobs)
    layout = ImageLayout(far)
    layout.verify_is_usable()
    paths = [os.fspath(one) for one in ([bundles] if isinstance(bundles, str | os.PathLike) else bundles)]
    with ExitStack() as stack:
        images, volumes, unreadable = _read_all(layout, paths, stack)  # 1
        if dry_run:
            gathered, _ = _gather_and_make(
                images,
                lambda some: would_gather(some, volumes, layout),
                lambda gathered: _rebuilding().would_rebuild(images, layout, gathered.added),
            )
            return _result(each_of_a_set_once(images), gathered, _listed_in(layout), unreadable)
        if not images:
            return MergeResult((), unreadable, 0, 0, 0)
        with layout.begin() as use:
            listed = _listed_in(layout)
            gathered, able = _gather_and_make(  # 2
                images,
                lambda some: gather(some, volumes, layout, jobs, progress),
                lambda _: _rebuilding().rebuild(images, layout, use, progress),
            )
            images = each_of_a_set_once(images)
            _write(layout, each_of_a_set_once(able), gathered, listed)  # 3
        return _result(images, gathered, listed, unreadable)


def _read_all(
    layout: ImageLayout, bundles: Iterable[str], stack: ExitStack
) -> tuple[list[Incoming], list[OpenVolume], tuple[tuple[str, OciexportError], ...]]:
    """Return the images of all readable bundles, and those that wait in the layout; the bundles that are volumes; and
    the errors of the others.
    """
    images: list[Incoming] = []
    volumes: list[OpenVolume] = []
    unreadable: list[tuple[str, OciexportError]] = []
    for path in bundles:
        if os.path.isdir(path) and os.path.isdir(layout.path) and os.path.samefile(path, layout.path):
            raise UsageError(f"{quoted(path)}: expected a bundle from elsewhere, got the layout to merge into")
        try:
            contents = stack.enter_context(closing(open_contents(path)))
            bundle = contents.read_bundle()
            images += read_bundle_images(contents, bundle)
        except OciexportError as error:
            if isinstance(error, InvalidImageError) and path not in error.where:
                error.add_place("standard input" if path == "-" else path)
            unreadable.append((path, error))
        else:
            if bundle is not None and bundle.volume is not None:
                volumes.append(OpenVolume(contents, bundle.volume))
    verify_one_set((volume.place, volume.volume) for volume in volumes)
    given = {(image.name, image.entry.digest) for image in images}
    waiting = [image for image in read_pending_images(layout) if (image.name, image.entry.digest) not in given]
    return in_order([*waiting, *images]), volumes, tuple(unreadable)


def _gather_and_make(
    images: Sequence[Incoming],
    gather_some: Callable[[Sequence[Incoming]], Gathered],
    make: Callable[[Gathered], Rebuilt],
) -> tuple[Gathered, Sequence[Incoming]]:
    """Return what became of all blobs, and the images whose recipes could be used: all others are left alone."""
    whole = [image for image in images if not image.recipes]
    if len(whole) == len(images):
        return gather_some(images), images
    gathered = gather_some(whole)
    rebuilt = make(gathered)
    gathered = gathered.joined_with(gather_some([image.without(rebuilt.made) for image in rebuilt.images]))
    unable = {id(image) for image in images if image.recipes} - {id(image) for image in rebuilt.images}
    gathered = gathered.joined_with(Gathered(rebuilt.failures, rebuilt.made, frozenset()))
    return gathered, [image for image in images if id(image) not in unable]


def _rebuilding() -> ModuleType:
    from ociexport.transfer.bundle import rebuild  # noqa: PLC0415 - start-up: few bundles have recipes

    return rebuild


def _listed_in(layout: ImageLayout) -> frozenset[Descriptor]:
    try:
        return frozenset(descriptor for descriptor, _ in layout.read_images())
    except NotFoundError:
        return frozenset()


def _write(layout: ImageLayout, images: Sequence[Incoming], gathered: Gathered, listed: Collection[Descriptor]) -> None:
    """Write the manifests of all images, and the names of the complete ones; remember the others."""
    complete: list[Incoming] = []
    lacking: list[tuple[Incoming, tuple[MissingBlob, ...]]] = []
    for image in images:
        for document in image.image.documents if image.image is not None else ():
            layout.write_manifest(document)
        missing = _missing_of(image, gathered)
        if not missing:
            complete.append(image)
        elif image.image is not None:
            lacking.append((image, missing))
    called: dict[str, list[Incoming]] = {}
    for image in complete:
        called.setdefault(image.shown, []).append(image)
    waiting = [
        to_pending(image, {blob.digest: blob.bundles for blob in missing})
        for image, missing in lacking
        if not is_replaced(image, called.get(image.shown, ()))
    ]
    write_pending(layout.directory, (), waiting)
    there = _by_name(listed)
    # Of several images with one name, the last one counts.
    for image in {image.shown: image for image in complete}.values():
        if image.entry not in listed and not is_outdated(image, there.get(image.shown)):
            layout.write_name(image.entry, image.name)
    # Forgotten after it is named: a process that is killed in between finds it complete again.
    write_pending(layout.directory, [image.entry for image in images], waiting)


def _by_name(listed: Iterable[Descriptor]) -> dict[str, Descriptor]:
    """Return the entries of an ``index.json`` by their names as messages show them."""
    return {shown_name(entry, name_of(entry)): entry for entry in listed}


def _missing_of(image: Incoming, gathered: Gathered) -> tuple[MissingBlob, ...]:
    documents = [MissingBlob(digest, "manifest", None, image.owners_of(digest), None) for digest in image.absent]
    blobs = [
        MissingBlob(
            digest := blob.descriptor.digest,
            blob.label,
            blob.descriptor.size,
            image.owners_of(digest, gathered.there.get(digest, ())) if digest not in image.recipes else (),
            gathered.missing[digest] or _part_of(blob.descriptor.size, gathered.there.get(digest, ())),
            digest in gathered.there or image.is_cut(digest),
            image.places(digest) and gathered.missing[digest] is None,
        )
        for blob in image.blobs
        if blob.descriptor.digest in gathered.missing
    ]
    return (*documents, *blobs)


def _part_of(size: int, ranges: Sequence[CollectedRange]) -> str | None:
    """Return how much of a cut blob is there."""
    if not ranges:
        return None
    return f"{size - sum(end - begin for begin, end in gaps_in(ranges, 0, size))} of {counted(size, 'byte')} there"


def _result(
    images: Sequence[Incoming],
    gathered: Gathered,
    listed: Collection[Descriptor],
    unreadable: tuple[tuple[str, OciexportError], ...],
) -> MergeResult:
    there = _by_name(listed)
    missing = [_missing_of(image, gathered) for image in images]
    last = {image.shown: image for image, lacks in zip(images, missing, strict=True) if not lacks}
    merged = tuple(
        MergedImage(
            image.shown,
            image.entry.digest,
            image.bundle,
            lacks,
            image.entry not in listed,
            last.get(image.shown, image).entry.digest != image.entry.digest
            or is_outdated(image, there.get(image.shown)),
        )
        for image, lacks in zip(images, missing, strict=True)
    )
    to_come = {
        name
        for image, one in zip(images, merged, strict=True)
        for blob in one.missing
        if image.places(blob.digest)
        for name in blob.bundles
    }
    return MergeResult(
        merged,
        unreadable,
        len(gathered.added),
        sum(gathered.added.values()),
        len(gathered.reused - gathered.added.keys()),
        tuple(sorted(to_come)),
    )
