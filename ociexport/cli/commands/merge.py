"""`ociexport merge`: unite updates and other layouts or archives in a layout on the far side."""

from __future__ import annotations

import argparse

from ociexport.cli.options.jobs import add_jobs_argument
from ociexport.cli.options.json import add_json_argument
from ociexport.cli.options.lists import verify_reads_input_once
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.output.merge import tell_merge
from ociexport.errors import UsageError
from ociexport.images.fetch import MAX_JOBS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("far", metavar="FAR", help="directory of the layout to add to; may be absent or empty")
    parser.add_argument(
        "bundles", metavar="BUNDLE", nargs="+", help="update, layout or archive, in any order; - for standard input"
    )
    add_jobs_argument(parser, "copy")
    parser.add_argument("--dry-run", action="store_true", help="list what would be added and named, and write nothing")
    add_json_argument(parser)
    add_progress_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print each complete image as ``name@digest``; the exit code is 7 if an image lacks something."""
    from ociexport.transfer.bundle.merge import merge  # noqa: PLC0415 - start-up: --help does without

    if not 1 <= options.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {MAX_JOBS}, got {options.jobs}")
    verify_reads_input_once(options.bundles)
    progress = progress_from(options)
    result = merge(options.far, options.bundles, jobs=options.jobs, dry_run=options.dry_run, progress=progress)
    return tell_merge(result, options, progress)
