"""The option ``--verify-key``: whose signature an image must have."""

from __future__ import annotations

import argparse

from ociexport.signatures import SignaturePolicy, VerificationKey


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
    keys = tuple(map(VerificationKey.read, options.verify_key))
    return SignaturePolicy(keys) if keys else None
