"""The option ``--verify-key``: whose signature an image must have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.images.source import ImageSource


def add_signature_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the option."""
    parser.add_argument(
        "--verify-key",
        metavar="FILE",
        action="append",
        default=[],
        help="take the image only with a cosign signature by this public key (PEM); of several, by any",
    )


def signature_policy_from(options: argparse.Namespace) -> SignaturePolicy | None:
    """Return which signatures an image must have; None for none.

    Raises:
        UsageError: a file has no public key. OSError: it can't be read.
    """
    if not options.verify_key:
        return None
    from ociexport.images.keys import VerificationKey  # noqa: PLC0415 - start-up: few ask for signatures
    from ociexport.images.signatures import SignaturePolicy  # noqa: PLC0415 - start-up: few ask for signatures

    return SignaturePolicy(tuple(map(VerificationKey.read, options.verify_key)))


def signed_source(source: ImageSource, policy: SignaturePolicy | None) -> ImageSource:
    """Return ``source``, or what takes its image only if it is signed as ``policy`` wants it."""
    if policy is None:
        return source
    from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: as above

    return require_signature(source, policy)
