"""VerificationKey: a public key that signatures are checked with."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ociexport.errors import OciexportError, UsageError, quoted
from ociexport.spec.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_MIN_RSA_BITS = 2048
_MAX_KEY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key.

    Args:
        place: where it comes from, for messages.
        key: as the cryptography library represents it.
    """

    place: str
    key: PublicKeyTypes

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> VerificationKey:
        """Return the key in a file: PEM, as ``cosign.pub`` is; ECDSA, RSA or Ed25519.

        Raises:
            UsageError: the file holds no such key.
            OSError: the file can't be read.
        """
        with open(path, "rb") as file:
            return cls.parse(file.read(_MAX_KEY_BYTES), os.fspath(path))

    @classmethod
    def parse(cls, pem: bytes, place: str) -> VerificationKey:
        """Return the key in ``pem``; see `read`."""
        try:
            from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - start-up: few check signatures
            from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 - start-up: as above
            from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 - start-up: as above
        except ImportError as error:
            raise OciexportError(
                "signatures: expected the library cryptography, it is not installed",
                hint="pip install 'ociexport[signatures]'",
            ) from error
        if b"PRIVATE KEY" in pem:
            raise UsageError(
                f"key {quoted(place)}: expected a public key, got a private one",
                hint="use cosign.pub; anyone with the private key can sign",
            )
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            what = "a certificate" if b"CERTIFICATE" in pem else "something else"
            raise UsageError(f"key {quoted(place)}: expected a public key in PEM, got {what}") from error
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
            raise UsageError(f"key {quoted(place)}: expected at least {_MIN_RSA_BITS} bits, got {key.key_size}")
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
            raise UsageError(f"key {quoted(place)}: expected ECDSA, RSA or Ed25519, got another kind")
        return cls(place, key)

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether ``signature`` was made over ``content`` with this key's private half."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - start-up: as in `parse`
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - start-up: as above
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: PLC0415 - start-up: as above

        key = self.key
        with suppress(InvalidSignature):
            if isinstance(key, ec.EllipticCurvePublicKey):
                return _is_ecdsa_signature(key, content, signature)
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
            else:
                key.verify(signature, content)  # type: ignore[union-attr, call-arg] # Ed25519: `parse` accepts no other
            return True
        return False


def _is_ecdsa_signature(key: object, content: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - start-up: as in `VerificationKey.parse`
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - start-up: as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - start-up: as above

    # Older versions of cosign use SHA-256 for every curve, newer ones the hash that fits the curve.
    for algorithm in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        with suppress(InvalidSignature):
            key.verify(signature, content, ec.ECDSA(algorithm))  # type: ignore[attr-defined] # an elliptic curve's
            return True
    return False
