"""The options that set limits, the same for every command that decompresses layers."""

from __future__ import annotations

import argparse

from ociexport.cli.options.counts import count_from
from ociexport.layers.limits import Limits


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    group = parser.add_argument_group("limits")
    defaults = Limits()
    for flag, default, what in (
        ("--max-size", defaults.max_bytes, "uncompressed bytes of all layers together"),
        ("--max-files", defaults.max_entries, "tar entries of all layers together"),
        ("--max-ratio", defaults.max_ratio, "ratio of uncompressed to compressed bytes of a large layer"),
        ("--max-depth", defaults.max_depth, "depth of nested directories"),
        ("--max-path", defaults.max_path_bytes, "bytes of one path"),
        (
            "--max-memory",
            defaults.max_name_bytes,
            "bytes of memory for names: of directories, or of all files if no tree is written to disk",
        ),
        ("--max-header", defaults.max_extended_header_bytes, "bytes of one extended tar header"),
        ("--max-metadata", defaults.max_metadata_bytes, "bytes of attributes and long names in all layers together"),
    ):
        group.add_argument(flag, metavar="N", type=count_from(1), default=default, help=f"{what} (default: {default})")


def limits_from(options: argparse.Namespace) -> Limits:
    """Return the limits that the options set."""
    return Limits(
        max_bytes=options.max_size,
        max_entries=options.max_files,
        max_ratio=options.max_ratio,
        max_depth=options.max_depth,
        max_path_bytes=options.max_path,
        max_extended_header_bytes=options.max_header,
        max_metadata_bytes=options.max_metadata,
        max_name_bytes=options.max_memory,
    )
