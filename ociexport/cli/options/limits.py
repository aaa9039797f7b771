"""The options that set limits, the same for every command that decompresses layers."""

from __future__ import annotations

import argparse

from ociexport.cli.options.counts import count_from, parse_size
from ociexport.layers.limits import Limits
from ociexport.system.memory import MEMORY_OPTION


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    group = parser.add_argument_group("limits")
    defaults = Limits()
    names = "bytes of memory for names: of directories, or of all files if no tree is written to disk"
    for flag, parse, default, what in (
        ("--max-size", parse_size, defaults.max_bytes, "uncompressed bytes of all layers together"),
        ("--max-files", count_from(1), defaults.max_entries, "tar entries of all layers together"),
        (
            "--max-ratio",
            count_from(1),
            defaults.max_ratio,
            "ratio of uncompressed to compressed bytes of a large layer",
        ),
        ("--max-depth", count_from(1), defaults.max_depth, "depth of nested directories"),
        ("--max-path", parse_size, defaults.max_path_bytes, "bytes of one path"),
        (MEMORY_OPTION, parse_size, defaults.max_name_bytes, f"{names}; also bytes of the window of a zstd layer"),
        ("--max-header", parse_size, defaults.max_extended_header_bytes, "bytes of one extended tar header"),
        (
            "--max-metadata",
            parse_size,
            defaults.max_metadata_bytes,
            "bytes of attributes and long names in all layers together",
        ),
    ):
        group.add_argument(
            flag,
            metavar="SIZE" if parse is parse_size else "N",
            type=parse,
            default=default,
            help=f"{what} (default: {default})",
        )


def limits_from(options: argparse.Namespace) -> Limits:
    """Return the limits that the options set."""
    defaults = Limits()
    # A window must also fit the available memory, unless the user sets another limit.
    max_window_bytes = options.max_memory if options.max_memory != defaults.max_name_bytes else None
    return Limits(
        max_bytes=options.max_size,
        max_entries=options.max_files,
        max_ratio=options.max_ratio,
        max_depth=options.max_depth,
        max_path_bytes=options.max_path,
        max_extended_header_bytes=options.max_header,
        max_metadata_bytes=options.max_metadata,
        max_name_bytes=options.max_memory,
        max_window_bytes=max_window_bytes,
    )
