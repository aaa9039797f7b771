"""`ociexport lock`: print the digests of the images of a list, one JSON object a line, for ``pull --locked``."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.listed import ListRun, own_platforms, pinned_source
from ociexport.cli.options.lists import add_list_arguments
from ociexport.cli.options.platform import add_platforms_arguments, choice_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.errors import OciexportError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.system.environment import source_date_epoch
from ociexport.system.progress.protocol import Progress
from ociexport.system.threads import starting_threads
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.lists.locked import LockedImage
from ociexport.transfer.lists.locking import lock_image
from ociexport.transfer.sources.names import parse_source_name
from ociexport.transfer.sources.open import SourceOpener

# Each asks a registry for a few small documents and waits for most of the time.
_WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("files", metavar="LIST", nargs="*", help="list of images, see ociexport images; or a URL, or -")
    add_platforms_arguments(parser)
    add_list_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each image, in the order of the list; images that fail are left out, and fail the command."""
    if options.files:
        leave_out_configured(options, "list")
    options.list = [*options.files, *options.list]
    progress = progress_from(options)
    if not options.list:
        raise UsageError("lock: expected LIST, got none", hint="for example ociexport lock images.txt >images.lock")
    opener = SourceOpener(options=registry_options_from(options), progress=progress)
    default = choice_from(options)
    with closing(opener), ListRun(options, progress, opener=opener, platforms=default) as listed:
        return _lock_list(listed, options, default, opener, progress)


def _lock_list(
    listed: ListRun, options: argparse.Namespace, default: PlatformChoice, opener: SourceOpener, progress: Progress
) -> int:
    epoch = source_date_epoch()
    time = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if epoch is not None else None
    for entry in listed.entries:
        parse_source_name(entry.image)

    def lock(entry: ListEntry) -> LockedImage | OciexportError | OSError:
        choice = own_platforms(entry, options) or default
        try:
            return lock_image(pinned_source(entry), choice, opener, progress, time=time)
        except (OciexportError, OSError) as error:
            return error

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="lock") as workers, starting_threads():
        for entry, found in zip(listed.entries, workers.map(lock, listed.entries), strict=True):
            if isinstance(found, LockedImage):
                sys.stdout.write(found.to_line())
                listed.done(entry)
            else:
                listed.fail(entry, found)
    return listed.end()
