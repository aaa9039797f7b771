"""`ociexport diff`: list what changed in a root filesystem since it was unpacked, or from one image to another."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing

from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments
from ociexport.cli.options.signatures import add_signature_arguments, open_signed_source
from ociexport.errors import NotFoundError, quoted, quoted_path
from ociexport.rootfs.changes import Change

_DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "rootfs",
        metavar="ROOTFS",
        help="root filesystem made by unpack; or another image: an archive, or a name with a tag or digest",
    )
    parser.add_argument("source", metavar="SRC", help="image that it was unpacked from, or that it is compared with")
    add_platform_argument(parser)
    add_json_argument(parser)
    parser.add_argument("--no-owners", dest="owners", action="store_false", help="do not compare owners")
    add_limit_arguments(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each path that differs from the image SRC; the exit code is 0 without differences, 1 with any.

    ``A`` means added, ``D`` deleted, ``T`` of another type, ``M`` modified; for the last, the differences follow.
    """
    changes = _compare(options)
    if options.json:
        print_json("diff", {"changes": [_to_json(change) for change in changes]})
    else:
        for change in changes:
            what = f"  ({', '.join(change.what)})" if change.what else ""
            sys.stdout.write(f"{change.kind} {quoted_path(change.path)[1:-1]}{what}\n")
    return _DIFFERENT if changes else 0


def _compare(options: argparse.Namespace) -> list[Change]:
    progress, platform, limits = progress_from(options), platform_from(options), limits_from(options)
    is_image = _is_image(options.rootfs)
    if not is_image and not os.path.isdir(options.rootfs):
        raise NotFoundError(
            f"{quoted(options.rootfs)}: expected a directory, got none",
            hint=None if "/" in options.rootfs else "the name of an image needs a tag or digest here",
        )
    with closing(open_signed_source(options, progress)) as source:
        if not is_image:
            from ociexport.rootfs.compare import compare_tree  # noqa: PLC0415 - start-up: images need no disk

            return compare_tree(
                options.rootfs, source, platform=platform, limits=limits, owners=options.owners, progress=progress
            )
        from ociexport.rootfs.compare_images import compare_images  # noqa: PLC0415 - start-up: a tree needs none

        with closing(open_signed_source(options, progress, options.rootfs)) as other:
            return compare_images(
                other, source, platform=platform, limits=limits, owners=options.owners, progress=progress
            )


def _is_image(name: str) -> bool:
    """Whether ROOTFS names an image.

    A directory is always a tree: its content, which a container may have written, must not decide that. A mistyped name
    of a directory must not become that of an image in a registry.
    """
    return not os.path.isdir(name) and (os.path.isfile(name) or ":" in name or "@" in name)


def _to_json(change: Change) -> dict[str, object]:
    path = change.path.decode("utf-8", "backslashreplace")
    return {"path": path, "kind": change.kind, "what": list(change.what)}
