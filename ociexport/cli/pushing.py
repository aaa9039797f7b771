"""What a push works with, whether of a command line or of a list: its client, its sources, and its mapping."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ociexport.cli.options.platform import named_choice_from
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import is_insecure, registry_options_from
from ociexport.cli.options.signatures import signature_policy_from
from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import MAX_JOBS
from ociexport.registry.auth.credentials import parse_user_and_password
from ociexport.registry.options import RegistryOptions
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.files import new_file
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.options import PullOptions
from ociexport.transfer.push import PushResult, PushRun, open_push, options_elsewhere
from ociexport.transfer.push_list import SourceFactory
from ociexport.transfer.push_mapping import MAPPING_FILE, MirrorServer, Renamed, configurations, mapping_text
from ociexport.transfer.push_names import MapRule, PushTarget, parse_rules
from ociexport.transfer.sources.open import SourceOpener


class Pushing(NamedTuple):
    """What a push works with, for as long as `pushing` lasts.

    Args:
        run, open_source, elsewhere: as those of `OpenPush`.
        elsewhere_options: how registries other than the destination are reached.
        rules: of ``--map``.
    """

    run: PushRun
    open_source: SourceFactory
    elsewhere: SourceOpener
    elsewhere_options: RegistryOptions
    rules: Sequence[MapRule]
    progress: Progress


@contextmanager
def pushing(options: argparse.Namespace, target: PushTarget) -> Iterator[Pushing]:
    """Give what a push works with, and close its connections in the end.

    Raises:
        UsageError: an option is wrong, or does not fit a push.
    """
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
    elsewhere = source_options(options, registry)
    with open_push(
        target, push_options, progress, registry=registry, elsewhere=elsewhere, moves_tags=options.move_tags
    ) as opened:
        yield Pushing(*opened, elsewhere, rules, progress)


def write_mapping(options: argparse.Namespace, push: Pushing, results: Sequence[PushResult]) -> None:
    """Write ``mapping.txt`` and the configurations into the directory that the user names, if any."""
    if getattr(options, "mapping", None) is None:
        return
    pushed = [Renamed(result.image, result.digest) for result in results]
    files = {MAPPING_FILE: mapping_text(pushed)}
    if pushed:
        image = pushed[0].image
        url = push.run.api_url(image).removesuffix("/v2")
        server = MirrorServer(image.destination.registry, url, is_insecure(options))
        for program in dict.fromkeys(options.config_for):
            more, left_out = configurations(program, pushed, server)
            files |= more
            for name in left_out:
                push.progress.warn(f"{name}: the configuration for {program} can't express its new name")
    for name, text in files.items():
        path = os.path.join(options.mapping, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with new_file(path) as file:
            file.write(text.encode())


def source_options(options: argparse.Namespace, registry: RegistryOptions) -> RegistryOptions:
    """Return how registries other than the destination are reached."""
    return replace(
        options_elsewhere(registry),
        credentials=parse_user_and_password(options.src_creds) if options.src_creds is not None else None,
        plain_http=options.src_plain_http,
        insecure=options.src_insecure,
    )
