"""`ociexport unpack --list LIST`: several images, each into a directory of its own; or all their layers."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from ociexport.cli.listed import (
    ListRun,
    directory_names,
    name_in_layout,
    own_platforms,
    pinned_source,
    verify_no_options_of_one_image,
)
from ociexport.cli.options.executor import executor_from
from ociexport.cli.options.platform import platform_from
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import registry_options_from
from ociexport.cli.options.signatures import signature_policy_from
from ociexport.cli.output.unpack import print_result
from ociexport.errors import UsageError
from ociexport.rootfs.outputs.formats import TREE
from ociexport.rootfs.unpack import UnpackOptions, UnpackResult
from ociexport.rootfs.unpack_many import UnpackOutcome, UnpackRequest, directory_taken_error, unpack_many
from ociexport.transfer.lists.entries import ListEntry


def unpack_list(options: argparse.Namespace, unpack_options: UnpackOptions) -> int:
    """Unpack the images of a list, and return the exit code of the worst; see `verify_list_options`."""
    layers = "directories" if options.layers_dir is not None else "erofs" if options.erofs_layers is not None else None
    into = options.layers_dir or options.erofs_layers or options.into
    progress = progress_from(options)
    signatures = signature_policy_from(options)
    if options.executor is not None and signatures is not None:
        raise UsageError("--executor: expected no --verify-key beside it, which stays on this machine")
    with ListRun(options, progress, is_in_place=options.source is not None) as run:
        requests, entries = _requests_of_all(run, options, own_directories=layers is None)
        waiting = Counter(map(id, entries))
        with executor_from(options) as executor:
            outcomes = unpack_many(
                requests,
                into,
                executor=executor,
                layers=layers,
                platform=platform_from(options),
                options=unpack_options,
                registry=registry_options_from(options),
                signatures=signatures,
                progress=progress,
            )
            for outcome in outcomes:
                entry = entries[outcome.position]
                waiting[id(entry)] -= 1
                if outcome.error is not None:
                    run.fail(entry, outcome.error)
                    continue
                _print(options, outcome)
                if not waiting[id(entry)]:
                    run.done(entry)
        return run.end()


def _requests_of_all(
    run: ListRun, options: argparse.Namespace, *, own_directories: bool
) -> tuple[list[UnpackRequest], list[ListEntry]]:
    """Return the requests of all images, and the entry of each; images that can't have one are failed."""
    requests: list[UnpackRequest] = []
    entries: list[ListEntry] = []
    taken: dict[str | None, str] = {}
    for entry in run.entries:
        try:
            own = _requests_of(entry, options)
            first = next((taken[one.directory] for one in own if one.directory in taken), None)
            if first is not None and own_directories:
                raise directory_taken_error(entry.image, first)
        except UsageError as error:
            run.fail(entry, error)
            continue
        taken |= {one.directory: entry.image for one in own}
        requests += own
        entries += [entry] * len(own)
    return requests, entries


def verify_list_options(options: argparse.Namespace) -> None:
    """Return if all options have a meaning for a list.

    Raises:
        UsageError: one has not.
    """
    is_layered = options.layers_dir is not None or options.erofs_layers is not None
    if options.rootfs is not None:
        raise UsageError("--into: expected no second directory beside it, got one")
    verify_no_options_of_one_image(options)
    if is_layered and options.into is not None:
        raise UsageError("--into: expected no directory of layers beside it, got one")
    if options.layers_dir is not None and options.erofs_layers is not None:
        raise UsageError("--layers-dir: expected no --erofs-layers beside it, got both")


def _requests_of(entry: ListEntry, options: argparse.Namespace) -> list[UnpackRequest]:
    """Return a request for each platform that the list asks for.

    Raises:
        UsageError: it asks for all.
    """
    choice = own_platforms(entry, options)
    if choice is not None and choice.takes_all:
        raise UsageError(
            f"{entry.image}: expected one platform for a tree, the list asks for all", hint="--platform takes one"
        )
    image = pinned_source(entry) if options.source is None else f"{options.source}:{name_in_layout(entry)}"
    (name,) = directory_names([entry])
    ending = "" if options.format == TREE else f".{options.format}"
    platforms = choice.platforms if choice is not None else ()
    if len(platforms) < 2:
        return [UnpackRequest(image, f"{name}{ending}", platforms[0] if platforms else None)]
    return [UnpackRequest(image, f"{name}+{str(one).replace('/', '+')}{ending}", one) for one in platforms]


def _print(options: argparse.Namespace, outcome: UnpackOutcome) -> None:
    if isinstance(outcome.result, UnpackResult):
        own = argparse.Namespace(**{**vars(options), "rootfs": outcome.path, "target": outcome.path})
        print_result(own, outcome.image, outcome.result, same_as=outcome.same_as)
    elif outcome.result is not None:
        from ociexport.cli.unpack_layers import print_layers  # noqa: PLC0415 - start-up: trees do without

        print_layers(options, outcome.image, outcome.result)
    sys.stdout.flush()
