"""The options of thin archives and layouts: ``--since`` and ``--for``."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.lists import verify_reads_input_once
from ociexport.cli.options.platform import named_choice_from, platform_from
from ociexport.cli.options.registry import registry_options_from
from ociexport.cli.options.volumes import add_volume_argument
from ociexport.cli.parser import one_of
from ociexport.errors import UsageError, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.spec.descriptor import Platform
from ociexport.system.progress.protocol import Progress

if TYPE_CHECKING:
    from ociexport.images.holdings import Holdings
    from ociexport.images.source import BlobOpener
    from ociexport.spec.digest import Digest
    from ociexport.storage.bundle_recipes import BundleRecipe
    from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions
    from ociexport.transfer.bundle.select import ThinOptions
    from ociexport.transfer.sources.open import SourceOpener
    from ociexport.verification.bundles import FarSide
    from ociexport.verification.recipes import RecipeProver

_REQUIREMENTS = ("signature", "sbom", "referrers")
_RULES = ("docker", "registry", "layout")
# What HAVE may be, for the help of each option that takes one.
HAVE = (
    "layout, archive, earlier update, receipt, bundle.json, manifest, output of docker image inspect, lines of digests "
    "or diff_ids (- for standard input), or image reference"
)


def add_thin_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    group = parser.add_argument_group("updates")
    group.add_argument(
        "--since",
        metavar="HAVE",
        action="append",
        default=[],
        help=f"leave out the layers that the far side has; HAVE tells which: a {HAVE}; may be repeated",
    )
    group.add_argument(
        "--require",
        metavar="KIND",
        action="append",
        default=[],
        help="fail before anything is written unless the image has it, and copy it as --referrers does: signature, "
        "sbom or referrers (any of them); may be repeated",
    )
    group.add_argument(
        "--all-images",
        action="store_true",
        help="take everything that a layout or an archive lists: all images, and the signatures beside them",
    )
    group.add_argument(
        "--for",
        dest="rule",
        choices=_RULES,
        help="with --since, who reads the update: docker, which needs every layer above the first new one (default for "
        "an archive), or a registry or a layout, which go by digest (default for a layout, and with --delta)",
    )
    group.add_argument(
        "--delta",
        action="store_true",
        help="with --since, bring a layer as a recipe that makes it from an older layer, if that is smaller; the far "
        "side needs ociexport merge to read such an update, and it is one archive or layout, not volumes",
    )
    group.add_argument(
        "--allow-recompressed",
        action="store_true",
        help="with --delta, make a layer whose compression can't be repeated as a plain tar: the digests of its "
        "manifest and index change, docker's image ID stays",
    )
    add_volume_argument(group)


def required_from(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what must be beside each image.

    Raises:
        UsageError: a word is unknown.
    """
    words = tuple(dict.fromkeys(word for text in options.require for word in text.split(",")))
    for word in words:
        if word not in _REQUIREMENTS:
            raise UsageError(f"--require: expected {one_of(_REQUIREMENTS)}, got {quoted(word)}")
    return words


def thin_options_from(
    options: argparse.Namespace,
    opener: SourceOpener,
    choice: PlatformChoice | Platform,
    progress: Progress,
    *,
    is_archive: bool,
) -> ThinOptions | None:
    """Return what the far side has; None without ``--since`` and ``--volume-size``.

    Raises:
        UsageError: ``--for`` without ``--since``, or a HAVE that does not tell what is there.
        NotFoundError, RegistryError, InvalidImageError: a HAVE can't be read.
    """
    if not options.since:
        leave_out_configured(options, "rule", "delta", "allow_recompressed")
        for name in ("delta", "allow_recompressed"):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option}: expected --since with it", hint="see ociexport pull --help")
        if options.rule is not None:
            raise UsageError("--for: expected --since with it", hint="see ociexport pull --help")
        if options.volume_size is None:
            return None
    verify_reads_input_once([*options.images, *options.list, *options.since])
    from ociexport.system.environment import source_date_epoch  # noqa: PLC0415 - start-up: few pulls are thin
    from ociexport.transfer.bundle.have_volumes import read_haves  # noqa: PLC0415 - start-up: as above
    from ociexport.transfer.bundle.select import ThinOptions  # noqa: PLC0415 - start-up: as above

    delta = _delta_options_from(options, opener, choice)
    since = read_haves(options.since, opener.open, choice, progress)
    rule = options.rule or ("docker" if is_archive and delta is None else "layout")
    return ThinOptions(since, rule, source_date_epoch(), delta)


def _delta_options_from(
    options: argparse.Namespace, opener: SourceOpener, choice: PlatformChoice | Platform
) -> DeltaOptions | None:
    if options.volume_size is not None:
        leave_out_configured(options, "delta")
        if options.delta:
            raise UsageError(
                "--delta: expected no --volume-size with it",
                hint="an update of recipes is one archive; without --delta, whole layers travel in volumes",
            )
    if not options.delta:
        leave_out_configured(options, "allow_recompressed")
        if options.allow_recompressed:
            raise UsageError("--allow-recompressed: expected --delta with it", hint="see ociexport pull --help")
        return None
    if options.allow_recompressed and options.referrers:
        raise UsageError(
            "--allow-recompressed: expected no --referrers with it",
            hint="signatures and other referrers name the manifest as published",
        )
    from ociexport.transfer.bundle.delta.bases import HaveBytes  # noqa: PLC0415 - start-up: few pulls are thin
    from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions  # noqa: PLC0415 - start-up: as above

    return DeltaOptions(HaveBytes(options.since, opener.open, choice), options.allow_recompressed)


def far_side_from(options: argparse.Namespace, progress: Progress) -> FarSide | None:
    """Return what tells what the far side has, as ``--against`` asks; None without that option.

    Raises:
        UsageError: standard input is named twice.
    """
    if not options.against:
        return None
    verify_reads_input_once([options.source, *options.against])

    def read_all(to_prove: Collection[Digest]) -> tuple[Holdings, ...]:
        from ociexport.transfer.bundle.have_volumes import read_haves  # noqa: PLC0415 - start-up: as above
        from ociexport.transfer.sources.open import SourceOpener  # noqa: PLC0415 - start-up: as above

        choice = named_choice_from(options) or platform_from(argparse.Namespace(platform=None))
        with closing(SourceOpener(options=registry_options_from(options), progress=progress)) as opener:
            return read_haves(options.against, opener.open, choice, progress, to_prove=to_prove)

    return read_all


def recipe_prover_from(options: argparse.Namespace, progress: Progress) -> RecipeProver | None:
    """Return what makes the layers of recipes from what ``--against`` names, for ``--deep``; None without both."""
    if not options.against or not options.deep:
        return None

    def prove(recipes: Sequence[BundleRecipe], bundle: BlobOpener) -> Mapping[Digest, str]:
        from ociexport.transfer.bundle.delta.bases import HaveBytes  # noqa: PLC0415 - start-up: as above
        from ociexport.transfer.bundle.delta.prove import prove_recipes  # noqa: PLC0415 - start-up: as above
        from ociexport.transfer.sources.open import SourceOpener  # noqa: PLC0415 - start-up: as above

        choice = named_choice_from(options) or platform_from(argparse.Namespace(platform=None))
        with closing(SourceOpener(options=registry_options_from(options), progress=progress)) as opener:
            return prove_recipes(recipes, bundle, HaveBytes(options.against, opener.open, choice), progress)

    return prove
