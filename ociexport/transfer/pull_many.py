"""pull_many(): a list of images, on any `concurrent.futures.Executor`: threads, processes, or other machines.

Everything sent to a worker and back can be pickled: names, options, results, errors. The layout may be on a file system
that the machines share, if it supports locks: workers then share blobs like processes on one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from ociexport.errors import OciexportError, counted
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.platforms import host_platform
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.threads import starting_threads
from ociexport.transfer.copy import copy_image
from ociexport.transfer.layouts import open_layout
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult
from ociexport.transfer.sources.names import RegistryName, SourceName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener, verify_digest
from ociexport.transfer.submitted import Submitted

if TYPE_CHECKING:
    from ociexport.images.diff_id_checks import VerifiedDiffIds
    from ociexport.registry.options import RegistryOptions
    from ociexport.storage.layout.namer import HandedOver
    from ociexport.storage.s3.layout import S3Layout
    from ociexport.transfer.namers import Namers

# Each fetches several blobs in parallel; more workers would only wait for the machine's network.
DEFAULT_WORKERS = 4
# How many images an executor has at a time: enough for a cluster, and few enough that their results take no memory.
_SUBMITTED = 1000
# Names of complete images wait at most this long for others, so that ``index.json`` is written once for all of them;
# longer if writing it takes longer than a twentieth of that.
_NAMING_SECONDS = 0.2
_NAMING_SHARE = 20
# And no more than these wait, since their results take memory.
_MAX_WAITING = 1000
# What a worker has handed over arrives within this time, also if no more images are wanted.
_LAST_SECONDS = 2.0

LayoutOf: TypeAlias = str | os.PathLike[str] | Callable[[str], str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class PullOutcome:
    """The outcome for one image of a list: a result or an error.

    Args:
        image: as passed to `pull_many`.
        result: None if the pull failed.
        error: None if it succeeded.
        position: of the image in the list, from 0.
    """

    image: str
    result: PullResult | None
    error: OciexportError | OSError | None
    position: int = 0


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One image to pull.

    Args:
        image: a reference or another name of a source.
        platform: the platforms to take of it; None for those of the whole list.
        digest: of the published index or manifest; None for what the name leads to now. With a digest, a registry is
            not asked for the tag.
    """

    image: str
    platform: Platform | PlatformChoice | None = None
    digest: Digest | None = None

    def source_name(self) -> SourceName:
        """Return the name of the source to open.

        Raises:
            InvalidReferenceError, UsageError: ``image`` does not parse.
        """
        name = parse_source_name(self.image)
        if self.digest is not None and isinstance(name, RegistryName):
            return RegistryName(name.reference.with_digest(self.digest))
        return name


@dataclass(frozen=True, slots=True)
class _Order:
    """One image to pull; holds values only, since it is sent to a worker."""

    request: PullRequest
    layout: str
    options: PullOptions
    registry: RegistryOptions | None
    cache: str | None
    position: int


def pull_many(
    images: Iterable[str | PullRequest],
    layout: LayoutOf,
    *,
    executor: Executor | None = None,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    registry: RegistryOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
    deep: bool | None = None,
) -> Iterator[PullOutcome]:
    """Pull ``images`` into one layout or several, and yield the outcome of each as soon as it is known.

    A failed image does not stop the others. When the caller stops iterating, pulls that have not begun are cancelled.

    Args:
        images: references or other names of sources, or requests with a platform or digest of their own.
        layout: directory of the layout for all images, or a function from an image to its layout's directory.
        executor: its workers pull; the caller shuts it down. None for internal threads, which share connections and
            logins.
        platform: the platform to take, or several; None for that of the calling machine.
        jobs: how many blobs of one image are fetched in parallel.
        registry: how registries are reached. It is sent to the workers with its credentials, if it has any; each worker
            reads credential files on its own machine.
        cache: directory with blobs that the layouts share.
        progress: gets one line for each image; with internal threads, all other messages too.
        deep: whether each layer's tar is compared with its diff_id while the layer arrives.

    Raises:
        InvalidReferenceError, UsageError: before any request: a name does not parse, or ``jobs`` is out of range.
        any error that ``executor`` itself raises.
    """
    options = PullOptions(platform or host_platform(), jobs, deep=deep)
    return pull_requests(images, layout, options, executor=executor, registry=registry, cache=cache, progress=progress)


def pull_requests(
    images: Iterable[str | PullRequest],
    layout: LayoutOf,
    options: PullOptions,
    *,
    executor: Executor | None = None,
    registry: RegistryOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
    opener: SourceOpener | None = None,
    names_together: bool = False,
) -> Iterator[PullOutcome]:
    """Do the same as `pull_many`, with all options of a pull.

    Args:
        options: those of every image, whose own platform takes precedence.
        opener: opens the sources for internal threads, and stays open; None for a new one.
        names_together: whether this process names the images that an executor's workers store, many with one change of
            ``index.json``. It does so only while it iterates, so the caller must go on to the end, or close the
            iterator. Otherwise each worker names its own.

    Raises:
        as `pull_many` does.
    """
    shared = os.fspath(cache) if cache is not None else None
    orders = []
    for position, image in enumerate(images):
        request = PullRequest(image) if isinstance(image, str) else image
        request.source_name()
        place = layout(request.image) if callable(layout) else layout
        own = options if request.platform is None else replace(options, platform=request.platform)
        orders.append(_Order(request, os.fspath(place), own, registry, shared, position))
    if not orders:
        return iter(())
    if executor is not None:
        return _outcomes_elsewhere(orders, executor, progress, names_together)
    return _outcomes_here(orders, opener, progress)


def _outcomes_elsewhere(
    orders: list[_Order], executor: Executor, progress: Progress, names_together: bool
) -> Iterator[PullOutcome]:
    """Pull on the workers of ``executor``; this process names the images that they have stored, if it can and may."""
    from ociexport.transfer.namers import Namers  # noqa: PLC0415 - start-up: few lists are pulled so

    with closing(Namers((order.layout for order in orders), is_allowed=names_together)) as namers:

        def outcome_of(reply: _Reply) -> PullOutcome:
            if reply.handed is not None:
                namers.take_over(reply.layout, reply.handed, reply.outcome.position)
            elif reply.outcome.result is not None and reply.user is not None:
                namers.begin(reply.layout, reply.user)
            return reply.outcome

        running = Submitted(
            orders,
            _SUBMITTED,
            lambda order: executor.submit(_pull_alone, order, namers.mark_of(order.layout)),
            outcome_of,
        )
        try:
            for told in _named_together(running, namers, _NAMING_SECONDS if names_together else 0.0):
                error = namers.errors.pop(told.position, None)
                outcome = told if error is None else replace(told, result=None, error=error)
                progress.say(_told(outcome))
                yield outcome
        finally:
            namers.retire()
            running.cancel(_LAST_SECONDS if namers.is_used else 0.0)


def _outcomes_here(orders: list[_Order], opener: SourceOpener | None, progress: Progress) -> Iterator[PullOutcome]:
    """Pull on threads of this process; the names of images that are complete are written together."""
    with ExitStack() as stack:
        if opener is None:
            opener = stack.enter_context(closing(SourceOpener(options=orders[0].registry, progress=progress)))
        layouts = _Layouts(orders, stack, progress)
        workers = ThreadPoolExecutor(DEFAULT_WORKERS, thread_name_prefix="pull")
        # Shut down before the names are written, since its threads may still be completing an image.
        stack.callback(workers.shutdown, cancel_futures=True)
        verified: VerifiedDiffIds = set()
        with starting_threads():
            running = Submitted(
                orders,
                DEFAULT_WORKERS * 2,
                lambda order: workers.submit(_pull_with, order, layouts[order], opener, progress, verified),
                lambda outcome: outcome,
            )
        try:
            yield from _named_together(running, layouts, _NAMING_SECONDS)
        except GeneratorExit:
            raise  # the caller has enough: what has begun is completed
        except BaseException:
            # Interrupted: the threads end with the connections that they wait for.
            opener.close()
            raise


class _Layouts:
    """The layouts of a list, each opened once, and until the end of the list in a batch of its own."""

    def __init__(self, orders: list[_Order], stack: ExitStack, progress: Progress) -> None:
        self._known: dict[str, ImageLayout | S3Layout] = {}
        for order in orders:
            if order.layout not in self._known:
                layout = open_layout(order.layout, order.cache, order.registry, progress, recheck=order.options.recheck)
                self._known[order.layout] = layout
                stack.callback(layout.close)
                stack.enter_context(layout.batch())

    def __getitem__(self, order: _Order) -> ImageLayout | S3Layout:
        return self._known[order.layout]

    def commit_names(self) -> None:
        for layout in self._known.values():
            layout.commit_names()


def _named_together(
    running: Submitted[Any, Any, PullOutcome], layouts: _Layouts | Namers, least_seconds: float
) -> Iterator[PullOutcome]:
    """Yield each outcome after its image's name was written, and write the names of many images at once."""
    waiting: list[PullOutcome] = []
    pause, due = 0.0, 0.0  # the first one is told at once: who takes no more should not have waited for others
    failure: Exception | None = None  # the executor's own: what has ended before is told
    while failure is None and (running.is_any_left or waiting):
        if running.is_any_left:
            try:
                outcome = running.next_within(None if not waiting else max(0.0, due - time.monotonic()))
            except Exception as error:  # of any class; raised below
                outcome, failure = None, error
            if outcome is not None:
                if not waiting:
                    due = time.monotonic() + pause
                waiting.append(outcome)
                if running.is_any_left and time.monotonic() < due and len(waiting) < _MAX_WAITING:
                    continue
        began = time.monotonic()
        layouts.commit_names()
        pause = max(least_seconds, (time.monotonic() - began) * _NAMING_SHARE)
        yield from waiting
        waiting = []
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a worker returns; it can be pickled.

    Args:
        layout: as ordered.
        handed: what is left to the process that began the run; None if the worker did all.
        user: of the worker; None if the layout has no namer.
    """

    outcome: PullOutcome
    layout: str
    handed: HandedOver | None = None
    user: int | None = None


def _pull_alone(order: _Order, mark: str) -> _Reply:
    """Pull in a worker that may be another process, on another machine.

    Args:
        mark: of the layout in this run, by which the worker finds out whether its names are written elsewhere.
    """
    layout = open_layout(order.layout, order.cache, order.registry, SILENT, recheck=order.options.recheck)
    with closing(layout), closing(SourceOpener(options=order.registry)) as opener:
        if not isinstance(layout, ImageLayout):
            return _Reply(_pull_with(order, layout, opener, SILENT), order.layout)
        layout.use_listing_of(_layout_of_run(order.layout, mark))
        try:
            with layout.batch():
                outcome = _pull_with(order, layout, opener, SILENT)
                handed = layout.hand_over(mark)
        except (OciexportError, OSError) as error:  # the name could not be written here
            outcome, handed = PullOutcome(order.request.image, None, error, order.position), None
        return _Reply(outcome, order.layout, handed, os.geteuid())


@lru_cache(maxsize=1)
def _layout_of_run(place: str, mark: str) -> ImageLayout:
    """Return the layout that remembers what was listed when the run with this mark began."""
    return ImageLayout(place)


def _pull_with(
    order: _Order,
    destination: ImageLayout | S3Layout,
    opener: SourceOpener,
    progress: Progress,
    verified: VerifiedDiffIds | None = None,
) -> PullOutcome:
    request = order.request
    try:
        name = request.source_name()
        with closing(opener.open(name)) as source:
            if request.digest is not None and not isinstance(name, RegistryName):
                verify_digest(source, request.digest)
            result = copy_image(source, destination, order.options, progress, verified=verified)
    except (OciexportError, OSError) as error:
        return PullOutcome(request.image, None, error, order.position)
    return PullOutcome(request.image, result, None, order.position)


def _told(outcome: PullOutcome) -> str:
    if outcome.result is None:
        return f"{outcome.image}: {outcome.error}"
    return f"{outcome.result.reference}: {counted(outcome.result.fetched_blobs, 'blob')} fetched"
