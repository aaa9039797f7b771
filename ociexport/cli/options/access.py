"""The options of the commands that look into an image without unpacking it: ls, cat and which-layer."""

from __future__ import annotations

import argparse

from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.options.signatures import add_signature_arguments, signature_policy_from
from ociexport.inspection.access import Access


def add_source_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the image to look into."""
    parser.add_argument("source", metavar="SRC", help="image reference, layout or archive; - is standard input")


def add_looking_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about how the image is chosen, fetched and limited."""
    add_platform_argument(parser)
    add_limit_arguments(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def access_from(options: argparse.Namespace) -> Access:
    """Return the value of the options that `add_looking_arguments` adds."""
    return Access(
        platform=platform_from(options),
        progress=progress_from(options),
        registry=registry_options_from(options),
        signatures=signature_policy_from(options),
        limits=limits_from(options),
    )
