"""The option for blobs that are copied at the same time: ``--jobs``."""

from __future__ import annotations

import argparse

from ociexport.images.fetch import DEFAULT_JOBS


def add_jobs_argument(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the option to ``parser``; ``verb`` says what the command does with a blob."""
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        default=DEFAULT_JOBS,
        help=f"blobs to {verb} at the same time (default: {DEFAULT_JOBS})",
    )
