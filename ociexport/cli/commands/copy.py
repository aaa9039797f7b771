"""`ociexport copy`: copy an image from any source to any destination, by the code of `pull` and `push`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ociexport.cli.commands.pull import pull_from, verify_fits
from ociexport.cli.commands.push import add_push_arguments, add_sending_arguments, push_to
from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.counts import add_memory_argument
from ociexport.cli.options.kept_blobs import add_cache_argument, add_recheck_argument
from ociexport.cli.options.platform import choice_from
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import registry_options_from
from ociexport.cli.options.signatures import signature_policy_from
from ociexport.cli.output.pull import PullReport, tell_plan
from ociexport.errors import UsageError
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy_names import FilePlace, parse_copy_target
from ociexport.transfer.options import PullOptions
from ociexport.transfer.sources.names import SourceName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("images", metavar="SRC", nargs=1, help="image in a registry, or another source of one image")
    parser.add_argument(
        "target",
        metavar="DST",
        help="REGISTRY/NAME[:TAG], a layout ([oci:]DIR[:NAME], s3://BUCKET/PATH[:NAME]), an archive (FILE.tar, "
        "oci-archive:FILE[:NAME], docker-archive:FILE[:REF], - for standard output), or dir:DIR",
    )
    add_push_arguments(parser, goes_anywhere=True)
    add_sending_arguments(parser)
    group = parser.add_argument_group("layouts and archives as destinations")
    group.add_argument("--decompress", action="store_true", help="store layers as plain tars")
    group.add_argument(
        "--deep", action=argparse.BooleanOptionalAction, help="compare each layer's tar with its diff_id"
    )
    add_cache_argument(group)
    add_memory_argument(parser)
    add_recheck_argument(parser)
    # Of `pull` alone.
    parser.set_defaults(legacy=False, digestfile=None, all_images=False, since=[], require=[], rule=None)
    parser.set_defaults(delta=False, allow_recompressed=False, volume_size=None, list=[], locked=[])


def run(options: argparse.Namespace) -> int:
    """Copy the image, and print it as ``name@digest``.

    To a registry all platforms are copied unless the user names some, as `push` does; elsewhere that of this machine,
    as `pull` does.
    """
    place = parse_copy_target(options.target)
    names = [parse_source_name(image) for image in options.images]
    if not isinstance(place, FilePlace):
        leave_out_configured(options, "cache", "decompress", "deep")
        if options.decompress or options.deep or options.cache:
            raise UsageError("--decompress, --deep and --cache: expected a layout or an archive as DST, got a registry")
        return push_to(options, names, place)
    options.out, options.format = place.path, place.kind
    if place.kind == "dir":
        return _copy_to_directory(options, names[0])
    return pull_from(options, names, place.name)


def _copy_to_directory(options: argparse.Namespace, name: SourceName) -> int:
    from ociexport.transfer.copy_to_directory import copy_to_directory, verify_is_new  # noqa: PLC0415 - start-up: few copy to dir:

    verify_fits(options)
    verify_is_new(options.out)
    if options.decompress:
        leave_out_configured(options, "referrers")
    progress = progress_from(options)
    report = PullReport(
        progress, sys.stdout, place=options.target, as_json=options.json, digests=None, command=options.command
    )
    copy_options = PullOptions(
        choice_from(options),
        options.jobs,
        decompress=options.decompress,
        referrers=options.referrers,
        max_memory=options.max_memory,
        signatures=signature_policy_from(options),
        deep=options.deep,
    )
    opener = SourceOpener(options=registry_options_from(options), progress=progress)
    with closing(opener), closing(opener.open(name)) as source:
        cache = BlobCache(options.cache) if options.cache else None
        if options.dry_run:
            from ociexport.transfer.plan import plan_pull  # noqa: PLC0415 - start-up: only a dry run needs it

            place = ImageLayout(options.out)  # nothing is there, as in a directory that is new
            return tell_plan(plan_pull([source], (place, cache), copy_options, progress), options)
        report.add(copy_to_directory(source, options.out, copy_options, progress, cache=cache))
    report.end()
    return OK
