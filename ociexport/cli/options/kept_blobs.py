"""The options about blobs that are there already: ``--cache`` and ``--recheck``."""

from __future__ import annotations

import argparse


def add_cache_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--cache`` to ``parser``."""
    parser.add_argument("--cache", metavar="DIR", help="share blobs with other layouts through this directory")


def add_recheck_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--recheck`` to ``parser``, in a group of its own."""
    parser.add_argument_group("repeated pulls").add_argument(
        "--recheck",
        action="store_true",
        help="read all blobs that the layout has, also those that an earlier run verified and that did not change",
    )
