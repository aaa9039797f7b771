"""repair(): fetches broken or missing blobs of a layout again, from origins that the user names.

A broken blob stays until its replacement is verified. Concurrent pulls and repairs are safe: blobs are written as a
pull writes them, under the same locks, and an interrupted repair continues where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ociexport.errors import (
    OciexportError,
    UsageError,
    counted,
    escaped,
    quoted,
)
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS, BlobFetch, verify_jobs
from ociexport.images.source import ImageSource
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.layers.limits import Limits
from ociexport.layers.record import OutlineFile
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE, LAYOUT_FILE_CONTENT
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.names import LayoutName, parse_source_name, path_meant_by, source_text
from ociexport.verification.advice import advice_for, has_member
from ociexport.verification.blobs import BlobState
from ociexport.verification.findings import Finding, Kind
from ociexport.verification.options import VerifyOptions
from ociexport.verification.origins import Origin, Origins
from ociexport.verification.targets import OneImage, Subject, WholeLayout
from ociexport.verification.verify import Verification, verify_subject
from ociexport.verification.walk import NamedBlob, Walk

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# Findings that fetching a blob again can resolve.
_MENDABLE = frozenset({Kind.MISSING, Kind.SIZE, Kind.DIGEST, Kind.UNREADABLE})
_CACHE = "the cache"
_SPECIFICATION = "the specification"
# Limit of names in a message; a layer that all images share has as many as there are images.
_MAX_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class RepairedBlob:
    """A blob or file that was repaired.

    Args:
        place: where in the layout, outermost first.
        digest: of the blob or document; None for the ``oci-layout`` file.
        size: in bytes.
        origin: its source.
    """

    place: str
    digest: Digest | None
    size: int
    origin: str

    def __str__(self) -> str:
        """Return the repair as one line."""
        return escaped(f"repaired: {self.place}: {counted(self.size, 'byte')} from {self.origin}")


@dataclass(frozen=True, slots=True)
class UnrepairedBlob:
    """A blob that is still broken, and why each origin failed."""

    place: str
    digest: Digest
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Return the blob and the reasons as one line."""
        return f"{self.place}: not repaired: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class PlannedRepair:
    """The planned repair of a blob.

    Args:
        place: where in the layout, outermost first.
        digest: of the blob or document; None for the ``oci-layout`` file.
        size: in bytes.
        asked: origins to try, in order.
        not_asked: names in ``index.json`` whose registries the user has not allowed.
    """

    place: str
    digest: Digest | None
    size: int
    asked: tuple[str, ...]
    not_asked: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the plan as one line."""
        if not self.asked:
            return escaped(f"would not be repaired: {self.place}: {_no_origin(self.not_asked)}")
        rest = f"; not asked: {', '.join(self.not_asked)}" if self.not_asked else ""
        return escaped(
            f"would be repaired: {self.place}: {counted(self.size, 'byte')} from {', else '.join(self.asked)}{rest}"
        )


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The result of a repair or of its dry run.

    Args:
        repaired: in order.
        unrepaired: blobs that are still broken.
        advice: what the user can do about other problems.
        verification: of the layout after the repair.
        planned: by a dry run. The references of a broken manifest are known only after its repair.
    """

    repaired: tuple[RepairedBlob, ...]
    unrepaired: tuple[UnrepairedBlob, ...]
    advice: tuple[str, ...]
    verification: Verification
    planned: tuple[PlannedRepair, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether no problems are left."""
        return self.verification.is_right


def repair(
    layout: str | os.PathLike[str],
    *,
    origins: Iterable[str | os.PathLike[str] | ImageSource] = (),
    cache: str | os.PathLike[str] | None = None,
    strict: bool = False,
    deep: bool = False,
    limits: Limits | None = None,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    dry_run: bool = False,
    progress: Progress = SILENT,
    registry: RegistryOptions | None = None,
) -> RepairResult:
    """Verify a layout, fetch broken and missing blobs again, and return the problems that are left.

    Blobs come from ``cache``, then from ``origins``. The maker of the layout chose the registries in the full names of
    ``index.json``: one is asked only if ``origins`` has ``registry.example/`` or a longer part of the name that ends
    with a slash. The references of a repaired manifest are checked in turn, until nothing more can be repaired.

    Args:
        layout: its directory, or one image in it.
        origins: references, layouts, archives, or open sources, which stay open; or registries, with a slash at the
            end, that names in ``index.json`` may use.
        cache: directory of blobs that layouts share.
        strict, deep, limits, platform: how to verify; see `verify`.
        jobs: number of blobs fetched at a time.
        dry_run: only list what would be fetched from where. No request is sent and nothing is written.
        progress: receives progress.
        registry: options for reaching registries.

    Raises:
        UsageError: not a layout; nothing was written.
        NotFoundError: the layout or one of ``origins`` does not exist.
        OSError: a disk or file system error; finished repairs stay.
    """
    wishes = VerifyOptions(strict, deep, limits, platform, progress, registry)
    return repair_layout(layout, wishes, origins=origins, cache=cache, jobs=jobs, dry_run=dry_run)


def repair_layout(
    layout: str | os.PathLike[str],
    wishes: VerifyOptions,
    *,
    origins: Iterable[str | os.PathLike[str] | ImageSource],
    cache: str | os.PathLike[str] | None,
    jobs: int = DEFAULT_JOBS,
    dry_run: bool,
) -> RepairResult:
    """Verify a layout, fetch broken and missing blobs again, and return the problems that are left; see `repair`."""
    verify_jobs(jobs)
    name = _parse_layout_name(layout)
    destination = ImageLayout(name.path, cache=BlobCache(cache) if cache is not None else None, recheck=True)
    with ExitStack() as stack:
        outlines = stack.enter_context(closing(OutlineFile()))
        found = stack.enter_context(closing(Origins(origins, registry=wishes.registry, progress=wishes.progress)))
        run = _Repair(destination, found, jobs, wishes.progress)
        lacks_layout_file = name.image is None and run.lacks_layout_file()
        subject: Subject
        if name.image is None:
            subject = stack.enter_context(closing(WholeLayout(name.path)))
            if lacks_layout_file and not dry_run:
                run.mend_layout_file()
        else:
            source = ImageLayout(name.path).open_image(name.image)
            subject = stack.enter_context(closing(OneImage(source, is_owned=True)))
        states: dict[Digest, BlobState] = {}
        verification, walk = verify_subject(subject, wishes, states, outlines)
        while broken := run.begin_round(verification, walk, states):
            if dry_run:
                break
            if not run.is_holding:
                stack.enter_context(destination.begin())
                run.is_holding = True
            mended = run.mend(broken)
            for digest in broken:
                states.pop(digest, None)
            if not mended:
                break
            verification, walk = verify_subject(subject, wishes, states, outlines)
    advice = tuple(advice_for(name.path, verification))
    if dry_run:
        planned = _plan(
            broken,
            has_cache=cache is not None,
            lacks_layout_file=lacks_layout_file,
            asks_urls=wishes.registry is not None and wishes.registry.foreign,
        )
        return RepairResult((), (), advice, verification, tuple(planned))
    return RepairResult(tuple(run.repaired), tuple(run.unrepaired), advice, verification)


def _plan(
    broken: Mapping[Digest, _Broken], *, has_cache: bool, lacks_layout_file: bool, asks_urls: bool
) -> Iterator[PlannedRepair]:
    if lacks_layout_file:
        yield PlannedRepair(LAYOUT_FILE, None, len(LAYOUT_FILE_CONTENT), (_SPECIFICATION,))
    for digest, blob in broken.items():
        asked = [origin.place for origin in blob.origins]
        if asked and asks_urls:  # a registry's source uses them if the registry lacks the blob
            asked += blob.descriptor.urls
        yield PlannedRepair(
            blob.place, digest, blob.descriptor.size, (*([_CACHE] if has_cache else ()), *asked), blob.not_asked
        )


def _parse_layout_name(layout: str | os.PathLike[str]) -> LayoutName:
    name = parse_source_name(source_text(layout))
    if not isinstance(name, LayoutName):
        raise UsageError(
            f"repair: expected a layout, got {quoted(os.fspath(layout))}",
            hint=(path_meant_by(os.fspath(layout)) and f"a path begins with ./: {path_meant_by(os.fspath(layout))}")
            or "write the archive again: ociexport pull SRC --out FILE.tar; "
            "or convert it: ociexport pull ./FILE.tar --out LAYOUT",
        )
    return name


@dataclass(slots=True)
class _Broken:
    """A blob to repair, and its origins."""

    descriptor: Descriptor
    place: str
    origins: list[Origin]
    not_asked: tuple[str, ...]
    reasons: list[str] = field(default_factory=list)


class _Repair:
    """Repairs one layout in rounds; each blob is tried in one round only."""

    def __init__(self, layout: ImageLayout, origins: Origins, jobs: int, progress: Progress) -> None:
        self._layout = layout
        self._origins = origins
        self._jobs = jobs
        self._progress = progress
        self._tried: set[Digest] = set()
        self.is_holding = False
        self.repaired: list[RepairedBlob] = []
        self.unrepaired: list[UnrepairedBlob] = []

    def lacks_layout_file(self) -> bool:
        """Whether the ``oci-layout`` file is missing or damaged in a directory that is otherwise a layout."""
        path = self._layout.path
        return not has_member(path, LAYOUT_FILE, "imageLayoutVersion") and has_member(path, INDEX_FILE, "manifests")

    def mend_layout_file(self) -> None:
        """Write the ``oci-layout`` file."""
        self._layout.directory.write_file(LAYOUT_FILE, LAYOUT_FILE_CONTENT, aside="")
        self.repaired.append(RepairedBlob(LAYOUT_FILE, None, len(LAYOUT_FILE_CONTENT), _SPECIFICATION))

    def begin_round(
        self, verification: Verification, walk: Walk, states: Mapping[Digest, BlobState]
    ) -> dict[Digest, _Broken]:
        """Return the broken blobs that were not tried yet."""
        broken = {}
        for finding in verification.findings:
            digest = finding.digest
            if digest is None or digest in self._tried or digest in broken or not _is_mendable(finding):
                continue
            named = _named(digest, walk, states)
            if named is not None:
                origins = self._origins.of(walk.names[digest])
                if named.descriptor.data is not None:
                    origins.insert(0, Origin("the document that names it", ()))
                not_asked = tuple(map(str, self._origins.not_allowed(walk.names[digest])))
                broken[digest] = _Broken(named.descriptor, finding.place, origins, not_asked)
        self._tried |= broken.keys()
        return broken

    def mend(self, broken: Mapping[Digest, _Broken]) -> bool:
        """Fetch broken blobs, and return whether any was repaired.

        1. Blobs that the cache has, or that another process has repaired, are taken.
        2. For each of the others the next origin is asked, until one has it or none is left.
        """
        before = len(self.repaired)
        waiting = dict(broken)
        for digest, blob in broken.items():
            if self._layout.directory.has_directory(blob_name(digest)):
                waiting[digest].reasons.append("a directory is in its place")
                self._give_up(waiting.pop(digest))
            elif self._layout.has_blob(blob.descriptor):  # 1
                self._add_repaired(waiting.pop(digest), _CACHE)
        while waiting:  # 2
            asked = {digest: origin for digest, blob in waiting.items() if (origin := _next_origin(blob)) is not None}
            for digest in waiting.keys() - asked.keys():
                blob = waiting.pop(digest)
                if not blob.reasons or blob.not_asked:
                    blob.reasons.append(_no_origin(blob.not_asked))
                self._give_up(blob)
            for digest, failure in self._fetch({digest: (waiting[digest], asked[digest]) for digest in asked}).items():
                if failure is None:
                    self._add_repaired(waiting.pop(digest), asked[digest].place)
                else:
                    waiting[digest].reasons.append(str(failure))
        return len(self.repaired) > before

    def _fetch(self, asked: Mapping[Digest, tuple[_Broken, Origin]]) -> dict[Digest, OciexportError | None]:
        """Fetch each blob from its origin; returns the reason of each failure, and None for each success."""
        fetch = BlobFetch(self._layout, self._progress)
        fetch.run_all(
            [
                BlobToFetch(origin, blob.descriptor, origin.place, f"blob {digest.short}", blob.descriptor.data)
                for digest, (blob, origin) in asked.items()
            ],
            self._jobs,
        )
        return {digest: fetch.failures.get(digest) for digest in asked}

    def _add_repaired(self, blob: _Broken, origin: str) -> None:
        self.repaired.append(RepairedBlob(blob.place, blob.descriptor.digest, blob.descriptor.size, origin))

    def _give_up(self, blob: _Broken) -> None:
        self.unrepaired.append(UnrepairedBlob(blob.place, blob.descriptor.digest, tuple(blob.reasons)))


def _no_origin(not_asked: Sequence[str]) -> str:
    """Return why there is no origin, or no further one, and what the user can do."""
    if not not_asked:
        return "no origin to fetch it from: name one with --from SRC"
    shown = ", ".join(not_asked[:_MAX_SHOWN_NAMES]) + (", …" if len(not_asked) > _MAX_SHOWN_NAMES else "")
    registries = list(dict.fromkeys(f"--from {name.partition('/')[0]}/" for name in not_asked))
    consent = " ".join(registries[:_MAX_SHOWN_NAMES])
    return f"index.json names {shown}, which is used only if you allow it: {consent}"


def _next_origin(blob: _Broken) -> Origin | None:
    """Return the next origin, without those that did not answer before."""
    while blob.origins:
        origin = blob.origins.pop(0)
        if origin.failure is None:
            return origin
        blob.reasons.append(str(origin.failure))
    return None


def _is_mendable(finding: Finding) -> bool:
    return finding.is_wrong and finding.kind in _MENDABLE


def _named(digest: Digest, walk: Walk, states: Mapping[Digest, BlobState]) -> NamedBlob | None:
    """Return the reference to a broken blob or document; None if it is intact, or its size unknown."""
    document = walk.missing.get(digest) or walk.broken.get(digest)
    if document is not None:
        return document
    if digest not in walk.blobs or states[digest].kind is None:
        return None
    return next((named for named in walk.blobs[digest] if named.has_size), None)
