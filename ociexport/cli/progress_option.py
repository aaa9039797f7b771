"""How progress is shown: bars on a terminal, plain lines elsewhere, warnings only with ``--quiet``."""

from __future__ import annotations

import argparse
import os
import sys

from ociexport.progress import BarProgress, PlainProgress, Progress


def progress_from(options: argparse.Namespace) -> Progress:
    """Return what the command tells its progress to."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if options.quiet or not is_terminal:
        return PlainProgress(quiet=options.quiet)
    return BarProgress()
