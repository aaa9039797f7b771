"""unpack_many(): a list of images, on any `concurrent.futures.Executor`: threads, processes, or other machines.

An image that the list has under several names is unpacked once, under its first name; the other names become links to
that tree. So its place does not depend on which worker is first, and the same list gives the same bytes on any number
of workers. Which names are the same image is found out before workers begin to unpack; without workers, image by image.

Everything sent to a worker and back can be pickled: names, options, results, errors.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing, suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ociexport.errors import OciexportError, UsageError, quoted
from ociexport.images.resolve import resolve_manifest
from ociexport.images.source import ImageSource, ReceivedManifest
from ociexport.images.wrapping_source import WrappingSource
from ociexport.rootfs.outputs.formats import TREE
from ociexport.rootfs.unpack import UnpackOptions, UnpackResult, signed, unpack
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.platforms import host_platform
from ociexport.system.partial_names import STAGED_MARK
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.names import LayoutName, RegistryName, parse_source_name
from ociexport.transfer.sources.open import open_source

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions
    from ociexport.rootfs.outputs.layers.unpack import LayersResult

# How many images an executor has at a time: enough for a cluster, and few enough that their results take no memory.
_SUBMITTED = 1000

_Given = TypeVar("_Given")
_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class UnpackRequest:
    """One image to unpack.

    Args:
        image: a reference or another name of a source.
        directory: name of its directory among the others; None for one made from ``image``.
        platform: to choose from an index; None for that of the whole list.
    """

    image: str
    directory: str | None = None
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class UnpackOutcome:
    """The outcome for one image of a list: a result or an error.

    Args:
        image: as passed to `unpack_many`.
        path: of its tree, or the directory of all layers.
        result: None if it failed.
        error: None if it succeeded.
        same_as: path of the tree that ``path`` is a link to; None for a tree of its own.
        position: of the image in the list, from 0.
    """

    image: str
    path: str
    result: UnpackResult | LayersResult | None
    error: OciexportError | OSError | None
    same_as: str | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class _Order:
    """One image to unpack; holds values only, since it is sent to a worker."""

    image: str
    path: str
    platform: Platform
    options: UnpackOptions
    registry: RegistryOptions | None
    signatures: SignaturePolicy | None
    layers: str | None
    position: int
    digest: Digest | None = None

    def outcome(
        self,
        result: UnpackResult | LayersResult | None = None,
        error: OciexportError | OSError | None = None,
        same_as: str | None = None,
    ) -> UnpackOutcome:
        return UnpackOutcome(self.image, self.path, result, error, same_as, self.position)


def unpack_many(
    images: Iterable[str | UnpackRequest],
    into: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    layers: str | None = None,
    platform: Platform | None = None,
    options: UnpackOptions | None = None,
    registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
    progress: Progress = SILENT,
) -> Iterator[UnpackOutcome]:
    """Unpack ``images``, each into a directory of its own, and yield the outcome of each as soon as it is known.

    A failed image does not stop the others. When the caller stops iterating, images that have not begun are left.

    Args:
        images: references or other names of sources, or requests with a platform or a directory of their own.
        into: the directory that contains the others; made if it is missing.
        executor: its workers unpack; the caller shuts it down. None to unpack one after the other here.
        layers: ``directories`` or ``erofs`` to unpack the layers of all images into ``into``, see `unpack_layers`.
        platform: to choose from an index; None for that of the calling machine.
        options: how each tree is made.
        registry: how registries are reached. It is sent to the workers with its credentials, if it has any.
        signatures: which signatures each image must have; its keys can't be sent to other processes.
        progress: gets a line for each image that was unpacked; without an executor, all other messages too.

    Raises:
        InvalidReferenceError, UsageError: before any request: a name does not parse, or two images have one directory.
        OSError: ``into`` can't be made.
        any error that ``executor`` itself raises.
    """
    options, parent = options or UnpackOptions(), os.path.abspath(into)
    orders: list[_Order] = []
    taken: dict[str, str] = {}
    for position, given in enumerate(images):
        request = UnpackRequest(given) if isinstance(given, str) else given
        parse_source_name(request.image)
        own = request.platform or platform or host_platform()
        path = parent
        if layers is None:
            path = os.path.join(parent, request.directory or directory_name(request.image))
            if path in taken:
                raise directory_taken_error(request.image, taken[path])
            taken[path] = request.image
        orders.append(_Order(request.image, path, own, options, registry, signatures, layers, position))
    os.makedirs(parent, exist_ok=True)
    return _outcomes(orders, executor, progress)


def directory_taken_error(image: str, first: str) -> UsageError:
    """Return the error of an image whose directory is that of ``first``."""
    return UsageError(
        f"{image}: expected a directory of its own, {first} has it", hint="unpack it by itself, into another directory"
    )


def directory_name(image: str) -> str:
    """Return the name of an image's directory: its reference with ``+`` for the characters between its parts.

    An image of a layout has the name that the layout gives it.
    """
    name = parse_source_name(image)
    text = image
    if isinstance(name, RegistryName):
        text = str(name.reference)
    elif isinstance(name, LayoutName) and name.image is not None:
        text = name.image
    return text.replace("/", "+").replace(":", "+").replace("@", "+").lstrip(".") or "+"


def _outcomes(orders: list[_Order], executor: Executor | None, progress: Progress) -> Iterator[UnpackOutcome]:
    for outcome in _all_outcomes(orders, executor, progress):
        if outcome.error is None:
            progress.say(_told(outcome))
        yield outcome


def _all_outcomes(orders: list[_Order], executor: Executor | None, progress: Progress) -> Iterator[UnpackOutcome]:
    if orders and orders[0].layers is not None:
        yield from _results(orders, executor, _unpack, progress)  # each layer is made once in any case
        return
    if executor is None:
        yield from _one_after_the_other(orders, progress)
        return
    groups: dict[Digest, list[_Order]] = {}
    resolved = list(_results(orders, executor, _resolve, progress))
    for order, digest in sorted(resolved, key=lambda one: one[0].position):
        if isinstance(digest, Digest):
            groups.setdefault(digest, []).append(replace(order, digest=digest))
        else:
            yield order.outcome(error=digest)
    while groups:
        left: dict[Digest, list[_Order]] = {}
        for outcome in _results([group[0] for group in groups.values()], executor, _unpack, progress):
            yield outcome
            group = next(group for group in groups.values() if group[0].position == outcome.position)
            expected = group[0].digest
            if isinstance(outcome.result, UnpackResult) and outcome.result.manifest_digest == expected:
                yield from (_link(order, outcome) for order in group[1:])
            elif group[1:] and expected is not None:
                left[expected] = group[1:]  # perhaps another name leads to it still
        groups = left


def _one_after_the_other(orders: list[_Order], progress: Progress) -> Iterator[UnpackOutcome]:
    made: dict[Digest, UnpackOutcome] = {}
    for order in orders:
        outcome = _unpack(order, progress, made)
        if isinstance(outcome.result, UnpackResult):
            made.setdefault(outcome.result.manifest_digest, outcome)
        yield outcome


def _results(
    given: Sequence[_Given],
    executor: Executor | None,
    do: Callable[[_Given, Progress], _Done],
    progress: Progress,
) -> Iterator[_Done]:
    """Yield what ``do`` returns for each, in the order in which they end."""
    if executor is None:
        yield from (do(one, progress) for one in given)
        return
    waiting = iter(given)
    running: set[Future[_Done]] = {executor.submit(do, one, SILENT) for one in islice(waiting, _SUBMITTED)}
    try:
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {executor.submit(do, one, SILENT) for one in islice(waiting, len(ended))}
            yield from (future.result() for future in ended)
    finally:
        for future in running:
            future.cancel()


def _resolve(order: _Order, progress: Progress) -> tuple[_Order, Digest | OciexportError | OSError]:
    """Return the digest of the manifest that the image's name leads to, or the error."""
    try:
        with closing(_opened(order, progress)) as source:
            return order, resolve_manifest(source, order.platform).manifest.digest
    except (OciexportError, OSError) as error:
        return order, error


def _unpack(order: _Order, progress: Progress, made: Mapping[Digest, UnpackOutcome] | None = None) -> UnpackOutcome:
    """Return the outcome for an image, which becomes a link if it is one of those that are ``made``."""
    try:
        with closing(_ReadOnce(_opened(order, progress))) as source:
            if order.layers is not None:
                return order.outcome(_unpack_layers(order, source, progress))
            if made and (first := made.get(resolve_manifest(source, order.platform).manifest.digest)) is not None:
                return _link(order, first)
            with _Aside(order.path, replace=order.options.replace or order.options.format != TREE):
                result = unpack(source, order.path, platform=order.platform, options=order.options, progress=progress)
            return order.outcome(result)
    except (OciexportError, OSError) as error:
        return order.outcome(error=error)


def _unpack_layers(order: _Order, source: ImageSource, progress: Progress) -> LayersResult:
    from ociexport.rootfs.outputs.layers.erofs_files import EROFS_FILES  # noqa: PLC0415 - start-up: trees do without
    from ociexport.rootfs.outputs.layers.kinds import DIRECTORIES  # noqa: PLC0415 - start-up: as above
    from ociexport.rootfs.outputs.layers.unpack import unpack_layers  # noqa: PLC0415 - start-up: as above

    kind = EROFS_FILES if order.layers == "erofs" else DIRECTORIES
    options, platform = order.options, order.platform
    return unpack_layers(source, order.path, kind=kind, platform=platform, options=options, progress=progress)


def _opened(order: _Order, progress: Progress) -> ImageSource:
    return signed(open_source(order.image, options=order.registry, progress=progress), order.signatures)


class _ReadOnce(WrappingSource):
    """A source whose documents are requested once: registries count requests, and a tag may move between two."""

    def __init__(self, wrapped: ImageSource) -> None:
        super().__init__(wrapped)
        self._known: dict[Digest | None, ReceivedManifest] = {}

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        digest = descriptor.digest if descriptor is not None else None
        if digest not in self._known:
            self._known[digest] = self.wrapped.fetch_manifest(descriptor)
        return self._known[digest]


class _Aside:
    """Keeps a link that an earlier run made from being taken for the tree that it leads to."""

    def __init__(self, path: str, *, replace: bool) -> None:
        self._path = path
        self._target = _own_link(path) if replace else None

    def __enter__(self) -> None:
        if self._target is not None:
            os.unlink(self._path)

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is not None and self._target is not None:
            with suppress(OSError):
                os.symlink(self._target, self._path)


def _own_link(path: str) -> str | None:
    """Return what a link to another directory beside it leads to; None for anything else."""
    try:
        target = os.readlink(path)
    except OSError:
        return None
    return target if "/" not in target and target not in ("", ".", "..") else None


def _link(order: _Order, first: UnpackOutcome) -> UnpackOutcome:
    """Make the path of an image a link to the tree of the same image."""
    try:
        there = _own_link(order.path)
        is_replaced = order.options.format != TREE and os.path.isfile(order.path)  # as a disk image replaces it
        if os.path.lexists(order.path) and there is None and not is_replaced:
            if not order.options.replace or os.path.islink(order.path) or not os.path.isdir(order.path):
                raise UsageError(f"{quoted(order.path)}: expected no file there, got one")
            return _unpack(order, SILENT)
        aside = f"{order.path}{STAGED_MARK}{secrets.token_hex(4)}"
        os.symlink(os.path.basename(first.path), aside)
        os.rename(aside, order.path)
    except (OciexportError, OSError) as error:
        return order.outcome(error=error)
    return order.outcome(first.result, same_as=first.path)


def _told(outcome: UnpackOutcome) -> str:
    if outcome.same_as is not None:
        return f"{outcome.image}: the same image as in {outcome.same_as}, {outcome.path} is a link to it"
    return f"{outcome.image}: unpacked to {outcome.path}"
