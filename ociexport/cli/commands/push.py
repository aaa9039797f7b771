"""`ociexport push`: send images to a registry, each blob once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing

from ociexport.cli.options.jobs import add_jobs_argument
from ociexport.cli.options.json import add_json_argument
from ociexport.cli.options.platform import add_several_platforms_arguments, named_choice_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, is_insecure, registry_options_from
from ociexport.cli.options.signatures import add_signature_arguments, signature_policy_from
from ociexport.cli.output.push import PushReport, tell_push_plan
from ociexport.errors import OciexportError, UsageError, locating, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import MAX_JOBS
from ociexport.images.source import ImageSource
from ociexport.registry.auth.credentials import parse_user_and_password
from ociexport.registry.client import RegistryClient
from ociexport.registry.options import RegistryOptions
from ociexport.spec.lazy_dataclass import replace
from ociexport.system.files import new_file
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.options import PullOptions
from ociexport.transfer.push import PushResult, PushRun
from ociexport.transfer.push_list import images_to_push
from ociexport.transfer.push_mapping import (
    MAPPING_FILE,
    PROGRAMS,
    MirrorServer,
    Renamed,
    configurations,
    mapping_text,
)
from ociexport.transfer.push_names import PushTarget, parse_rules, parse_target
from ociexport.transfer.sources.names import RegistryName, SourceName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "images",
        metavar="SRC",
        nargs="+",
        help="layout or archive, with all its images or one; dir:DIR; or an image in another registry",
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


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``copy`` shares with `pull`."""
    add_several_platforms_arguments(
        parser,
        "platforms to push; may be repeated (default: all, with the published index)",
        "push every platform and attestation, keeping the published index unchanged (default)",
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
    reported and the others are still pushed; the exit code is that of the first failure.
    """
    target = parse_target(options.target)
    names = [parse_source_name(image) for image in options.images]
    return push_to(options, names, target)


def push_to(options: argparse.Namespace, names: Sequence[SourceName], target: PushTarget) -> int:
    """Push the images that ``names`` name to ``target``; see `run`."""
    if not 1 <= options.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {MAX_JOBS}, got {options.jobs}")
    if options.v1:
        raise UsageError("--v1: expected no registry to push to, got one: that protocol is for pulling")
    push_options = PullOptions(
        named_choice_from(options) or PlatformChoice(),
        options.jobs,
        referrers=options.referrers,
        signatures=signature_policy_from(options),
    )
    if getattr(options, "config_for", None) and options.mapping is None:
        raise UsageError("--config-for: expected --mapping DIR too, got none")
    rules = parse_rules(getattr(options, "map", ()))
    progress = progress_from(options)
    registry = registry_options_from(options)
    with ExitStack() as stack:
        client = stack.enter_context(closing(RegistryClient(registry, progress)))
        there = stack.enter_context(closing(SourceOpener(options=registry, progress=progress)))
        elsewhere_options = source_options(options, registry)
        elsewhere = stack.enter_context(closing(SourceOpener(options=elsewhere_options, progress=progress)))

        def open_source(name: SourceName) -> ImageSource:
            is_there = isinstance(name, RegistryName) and name.reference.registry == target.registry
            return (there if is_there else elsewhere).open(name)

        images = images_to_push(names, target, rules, open_source)
        run = PushRun(client, open_source, push_options, progress, moves_tags=options.move_tags)
        run.verify_tags(images)
        if options.dry_run:
            tell_push_plan(options.command, [run.plan(image) for image in images], as_json=options.json)
            return 0
        report = PushReport(options.command, progress, as_json=options.json)
        for image in images:
            if len(images) == 1:
                report.add(run.push(image))
                break
            try:
                with locating(f"image {quoted(image.shown)}"):
                    report.add(run.push(image))
            except OciexportError as error:
                report.add_failure(image.full_name, error)
        if getattr(options, "mapping", None) is not None:
            _write_mapping(options, run, report.results, progress)
    report.end()
    return report.code


def _write_mapping(
    options: argparse.Namespace, run: PushRun, results: Sequence[PushResult], progress: Progress
) -> None:
    """Write ``mapping.txt`` and the configurations into the directory that the user names."""
    pushed = [Renamed(result.image, result.digest) for result in results]
    files = {MAPPING_FILE: mapping_text(pushed)}
    if pushed:
        image = pushed[0].image
        url = run.api_url(image).removesuffix("/v2")
        server = MirrorServer(image.destination.registry, url, is_insecure(options))
        for program in dict.fromkeys(options.config_for):
            more, left_out = configurations(program, pushed, server)
            files |= more
            for name in left_out:
                progress.warn(f"{name}: the configuration for {program} can't express its new name")
    for name, text in files.items():
        path = os.path.join(options.mapping, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with new_file(path) as file:
            file.write(text.encode())


def source_options(options: argparse.Namespace, registry: RegistryOptions) -> RegistryOptions:
    """Return how registries other than the destination are reached: with nothing that is meant for that one."""
    return replace(
        registry,
        credentials=parse_user_and_password(options.src_creds) if options.src_creds is not None else None,
        headers=(),
        plain_http=options.src_plain_http,
        insecure=options.src_insecure,
    )
