"""The option ``--verify-key``: the keys that may have signed an image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ociexport.cli.options.registry import registry_options_from
from ociexport.images.source import ASKS_AND_FETCHES
from ociexport.transfer.sources.open import open_source_early

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.images.source import ImageSource
    from ociexport.system.progress.protocol import Progress


def add_signature_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option to ``parser``."""
    parser.add_argument(
        "--verify-key",
        metavar="FILE",
        action="append",
        default=[],
        help="accept the image only with a cosign signature by this public key (PEM); if repeated, by any of them",
    )


def signature_policy_from(options: argparse.Namespace) -> SignaturePolicy | None:
    """Return the signatures that an image must have, or None if none are required.

    Raises:
        UsageError: a file holds no public key.
        OSError: a file can't be read.
    """
    if not options.verify_key:
        return None
    from ociexport.images.keys import VerificationKey  # noqa: PLC0415 - start-up: few ask for signatures
    from ociexport.images.signatures import SignaturePolicy  # noqa: PLC0415 - start-up: few ask for signatures

    return SignaturePolicy(tuple(map(VerificationKey.read, options.verify_key)))


def open_signed_source(options: argparse.Namespace, progress: Progress, name: str | None = None) -> ImageSource:
    """Return the image that SRC names, which gives its content only with a signature that ``--verify-key`` requires.

    Args:
        name: of another image, in place of SRC.

    Raises:
        as `signature_policy_from` and `open_source`.
    """
    policy = signature_policy_from(options)
    name = options.source if name is None else name
    registry = registry_options_from(options)
    return signed_source(open_source_early(name, options=registry, progress=progress, first=ASKS_AND_FETCHES), policy)


def signed_source(source: ImageSource, policy: SignaturePolicy | None) -> ImageSource:
    """Return ``source``; with a policy, a source that gives the image only if its signature satisfies ``policy``."""
    if policy is None:
        return source
    from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: as above

    return require_signature(source, policy)
