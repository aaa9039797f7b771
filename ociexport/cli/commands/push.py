"""`ociexport push`: send images to a registry, each blob once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.jobs import add_jobs_argument
from ociexport.cli.options.json import add_json_argument
from ociexport.cli.options.lists import add_list_arguments
from ociexport.cli.options.platform import add_several_platforms_arguments
from ociexport.cli.options.progress import add_progress_arguments
from ociexport.cli.options.registry import add_registry_arguments
from ociexport.cli.options.signatures import add_signature_arguments
from ociexport.cli.output.push import PushReport, tell_push_plan
from ociexport.cli.pushing import pushing, write_mapping
from ociexport.errors import OciexportError, UsageError, locating, quoted
from ociexport.transfer.push_list import images_of, images_to_push
from ociexport.transfer.push_mapping import PROGRAMS
from ociexport.transfer.push_names import PushTarget, parse_target
from ociexport.transfer.sources.names import SourceName, parse_source_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "images",
        metavar="SRC",
        nargs="*",
        help="layout or archive, with all its images or one; dir:DIR; or an image in another registry. Beside --list, "
        "a layout or an archive that the images are taken from by their names",
    )
    parser.add_argument(
        "target",
        metavar="REGISTRY[/PREFIX]",
        help="where to push; images keep their registry and path below PREFIX. REGISTRY/NAME:TAG names one image",
    )
    parser.add_argument(
        "--map",
        metavar="PATTERN=PATH",
        action="append",
        default=[],
        help="push names that match as PATH below PREFIX, such as docker.io/library/*=mirror/hub/*; may be repeated, "
        "or be a file of such lines",
    )
    parser.add_argument(
        "--mapping", metavar="DIR", help="write DIR/mapping.txt, with a line SRC=DST@digest for each image"
    )
    parser.add_argument(
        "--config-for",
        metavar="PROGRAM",
        action="append",
        default=[],
        choices=PROGRAMS,
        help="also write what makes the old names work into the DIR of --mapping, for podman (registries.conf), "
        "containerd (certs.d) or k3s (registries.yaml); may be repeated",
    )
    add_sending_arguments(parser)
    add_push_arguments(parser)
    add_list_arguments(parser)


def add_push_arguments(parser: argparse.ArgumentParser, *, goes_anywhere: bool = False) -> None:
    """Add the options that ``copy`` shares with `pull`.

    Args:
        goes_anywhere: whether the destination may be something else than a registry.
    """
    default, is_default = ("all, with the published index", " (default)")
    if goes_anywhere:
        default, is_default = f"to a registry {default}; elsewhere this machine's", " (default to a registry)"
    add_several_platforms_arguments(
        parser,
        f"platforms to {'copy' if goes_anywhere else 'push'}; may be repeated (default: {default})",
        f"{'copy' if goes_anywhere else 'push'} every platform and attestation, keeping the published index "
        f"unchanged{is_default}",
    )
    parser.add_argument("--sparse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--referrers",
        action="store_true",
        help="also push artifacts that refer to the image: signatures, SBOMs, attestations",
    )
    add_jobs_argument(parser, "send")
    parser.add_argument(
        "--dry-run", action="store_true", help="list which blobs are there, which to mount and which to send"
    )
    add_json_argument(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def add_sending_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about registries as destinations, which ``copy`` has too."""
    parser.add_argument("--move-tags", action="store_true", help="move tags that exist with another digest")
    group = parser.add_argument_group("source registries, if other than the destination")
    group.add_argument("--src-creds", metavar="USER:PASSWORD", help="user and password for source registries")
    group.add_argument("--src-plain-http", action="store_true", help="use http for source registries")
    group.add_argument("--src-insecure", action="store_true", help="accept any TLS certificate of source registries")


def run(options: argparse.Namespace) -> int:
    """Push the images, and print each as ``name@digest``.

    All names are settled before the first request, and all tags are checked before anything is sent. A failed image is
    reported and the others are still pushed; the exit code is that of the first failure. For a list, see `push_list`.
    """
    target = parse_target(options.target)
    if options.list:
        from ociexport.cli.listed_push import push_list  # noqa: PLC0415 - start-up: few pushes have a list

        return push_list(options, target)
    if not options.images:
        raise UsageError(
            "push: expected SRC and REGISTRY[/PREFIX], got one of them",
            hint="for example ociexport push ./layout registry.example:5000/mirror",
        )
    names = [parse_source_name(image) for image in options.images]
    return push_to(options, names, target)


def push_to(options: argparse.Namespace, names: Sequence[SourceName], target: PushTarget) -> int:
    """Push the images that ``names`` name to ``target``; see `run`."""
    with pushing(options, target) as push:
        listed = [image for name in names for image in images_of(name, push.open_source, push.elsewhere)]
        named = images_to_push(listed, target, push.rules)
        images = list({id(image): image for image in named}.values())
        if len(images) > 1 or options.dry_run:  # the push of a single image checks its tag before it sends anything
            push.run.verify_tags(images)
        if options.dry_run:
            tell_push_plan(options.command, [push.run.plan(image) for image in images], as_json=options.json)
            return OK
        report = PushReport(options.command, push.progress, as_json=options.json)
        for image in images:
            if len(images) == 1:
                report.add(push.run.push(image))
                break
            try:
                with locating(f"image {quoted(image.shown)}"):
                    report.add(push.run.push(image))
            except OciexportError as error:
                report.add_failure(image.full_name, error)
        write_mapping(options, push, report.results)
    report.end()
    return report.code
