"""pull_many(): a list of images, on any `concurrent.futures.Executor`: threads, processes, or other machines.

Everything sent to a worker and back can be pickled: names, options, results, errors. The layout may be on a file system
that the machines share, if it supports locks: workers then share blobs like processes on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, TypeAlias

from ociexport.errors import OciexportError, counted
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.platforms import host_platform
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.threads import starting_threads
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult
from ociexport.transfer.sources.names import parse_source_name
from ociexport.transfer.sources.open import SourceOpener

if TYPE_CHECKING:
    from ociexport.images.diff_id_checks import VerifiedDiffIds
    from ociexport.registry.options import RegistryOptions

# Each fetches several blobs in parallel; more workers would only wait for the machine's network.
DEFAULT_WORKERS = 4

LayoutOf: TypeAlias = str | os.PathLike[str] | Callable[[str], str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class PullOutcome:
    """The outcome for one image of a list: a result or an error.

    Args:
        image: as passed to `pull_many`.
        result: None if the pull failed.
        error: None if it succeeded.
    """

    image: str
    result: PullResult | None
    error: OciexportError | OSError | None


@dataclass(frozen=True, slots=True)
class _Order:
    """One image to pull; holds values only, since it is sent to a worker."""

    image: str
    layout: str
    options: PullOptions
    registry: RegistryOptions | None
    cache: str | None


def pull_many(
    images: Iterable[str],
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
        images: references or other names of sources.
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
    shared = os.fspath(cache) if cache is not None else None
    orders = []
    for image in images:
        parse_source_name(image)
        place = layout(image) if callable(layout) else layout
        orders.append(_Order(image, os.fspath(place), options, registry, shared))
    return _outcomes_of(orders, executor, progress)


def _outcomes_of(orders: list[_Order], executor: Executor | None, progress: Progress) -> Iterator[PullOutcome]:
    with ExitStack() as stack:
        if executor is None and orders:
            workers = ThreadPoolExecutor(DEFAULT_WORKERS, thread_name_prefix="pull")
            stack.callback(workers.shutdown, cancel_futures=True)
            opener = stack.enter_context(closing(SourceOpener(options=orders[0].registry, progress=progress)))
            with starting_threads():
                verified: VerifiedDiffIds = set()
                futures = [workers.submit(_pull_with, order, opener, progress, verified) for order in orders]
        elif executor is not None:
            futures = [executor.submit(_pull_alone, order) for order in orders]
        else:
            return
        stack.callback(_cancel_all, futures)
        for future in as_completed(futures):
            outcome = future.result()
            if executor is not None:
                progress.say(_told(outcome))
            yield outcome


def _cancel_all(futures: list[Future[PullOutcome]]) -> None:
    for future in futures:
        future.cancel()


def _pull_alone(order: _Order) -> PullOutcome:
    """Pull in a worker that may be another process, on another machine."""
    with closing(SourceOpener(options=order.registry)) as opener:
        return _pull_with(order, opener, SILENT)


def _pull_with(
    order: _Order, opener: SourceOpener, progress: Progress, verified: VerifiedDiffIds | None = None
) -> PullOutcome:
    destination = ImageLayout(order.layout, cache=BlobCache(order.cache) if order.cache is not None else None)
    try:
        with closing(opener.open(parse_source_name(order.image))) as source:
            result = copy_image(source, destination, order.options, progress, verified=verified)
    except (OciexportError, OSError) as error:
        return PullOutcome(order.image, None, error)
    return PullOutcome(order.image, result, None)


def _told(outcome: PullOutcome) -> str:
    if outcome.result is None:
        return f"{outcome.image}: {outcome.error}"
    return f"{outcome.result.reference}: {counted(outcome.result.fetched_blobs, 'blob')} fetched"
