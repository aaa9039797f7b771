"""Digests, and streams whose digest is verified at their end."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ociexport.errors import (
    DigestMismatchError,
    InvalidDigestError,
    SizeMismatchError,
    counted,
    describe_content,
    quoted,
)
from ociexport.spec.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# The beginning of the bytes is kept, so that an error can name their format.
_MAX_HEAD_BYTES = 512

Chunk: TypeAlias = bytes | bytearray | memoryview
# Bytes that are read, hashed and written at once. Larger chunks gain nothing; smaller ones pass the interpreter's lock
# more often.
CHUNK_BYTES = 1024 * 1024

# Registered algorithms and the digits of their encoded part (image-spec descriptor.md, "Registered algorithms").
_ENCODED_DIGITS = {"sha256": 64, "sha512": 128}
# One string for all digests, of which there may be very many.
_ALGORITHMS = {name: name for name in _ENCODED_DIGITS}
_ALPHABET = "0123456789abcdef"


class Hasher(Protocol):
    """An incremental hash, as `hashlib` has it."""

    def update(self, data: Chunk, /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> Hasher: ...


class ByteStream(Protocol):
    """A readable, closable stream of bytes: an open file, a response body, a member of an archive."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class BlobCheck(Protocol):
    """A further check of a blob's bytes, made while a `Verifier` counts and hashes them."""

    def begin(self) -> None:
        """Discard the bytes taken so far: the blob is read again from its first byte."""

    def update(self, chunk: Chunk, /) -> None:
        """Take the next bytes, which must not be changed afterwards."""

    def verify(self) -> None:
        """Return if all bytes of the blob, whose digest is right, pass the check."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of some bytes: a registered algorithm and its hexadecimal value.

    A value that exists is valid, so it is safe as part of a path.

    Spec: image-spec 1.1 descriptor.md, "Digests".
    """

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        digits = _ENCODED_DIGITS.get(self.algorithm)
        if digits is None:
            raise InvalidDigestError(f"digest algorithm: expected sha256 or sha512, got {quoted(self.algorithm)}")
        if len(self.encoded) != digits or self.encoded.strip(_ALPHABET):
            raise InvalidDigestError(
                f"digest: expected {counted(digits, 'lower-case hexadecimal digit')} after '{self.algorithm}:', "
                f"got {quoted(self.encoded)}"
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return ``text`` (``algorithm:encoded``) parsed as a digest.

        Raises:
            InvalidDigestError: unknown algorithm, wrong alphabet or length.
        """
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise InvalidDigestError(f"digest: expected 'algorithm:hexadecimal', got {quoted(text)}")
        return cls(_ALGORITHMS.get(algorithm, algorithm), encoded)

    @classmethod
    def of(cls, content: Chunk, algorithm: str = "sha256") -> Digest:
        """Return the digest of ``content``."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def new_hasher(self) -> Hasher:
        """Return an empty hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    @property
    def short(self) -> str:
        """The first twelve digits, as docker shows a layer in its progress."""
        return self.encoded[:12]


class Verifier:
    """Counts and hashes the chunks of one blob, and verifies at the end that size and digest are right.

    Args:
        digest: the expected digest.
        size: the expected number of bytes; None where only the digest is known.
        subject: the name of the bytes in messages, such as ``blob sha256:…``; empty where the caller adds a name.
        check: begun here, and verified after the digest; None for no further check.
    """

    def __init__(self, digest: Digest, size: int | None, *, subject: str, check: BlobCheck | None = None) -> None:
        self._digest = digest
        self._size = size
        self._subject = subject
        self._check = check
        if check is not None:
            check.begin()
        self._hasher = digest.new_hasher()
        self._head = b""
        self.seen_bytes = 0

    def update(self, chunk: Chunk) -> None:
        """Count and hash the next bytes.

        Raises:
            SizeMismatchError: there are more than declared; raised at once, so that an endless body is not read on.
        """
        self.seen_bytes += len(chunk)
        if not self._head:
            self._head = bytes(chunk[:_MAX_HEAD_BYTES])
        if self._size is not None and self.seen_bytes > self._size:
            raise SizeMismatchError(
                f"size mismatch: expected {counted(self._size, 'byte')}, got more "
                f"({self.seen_bytes} so far){self._kind()}",
                where=self._subject,
            )
        if self._check is not None:
            self._check.update(chunk)
        self._hasher.update(chunk)

    def verify(self) -> None:
        """Return if the bytes seen have the expected size and digest, and pass the further check.

        Raises:
            SizeMismatchError: there were fewer bytes than declared.
            DigestMismatchError: they have another digest.
            what the further check raises: they are the right bytes and do not pass it.
        """
        if self._size is not None and self.seen_bytes != self._size:
            raise SizeMismatchError(
                f"size mismatch: expected {counted(self._size, 'byte')}, got {self.seen_bytes}{self._kind()}",
                where=self._subject,
            )
        got = self._hasher.hexdigest()
        if got != self._digest.encoded:
            raise DigestMismatchError(
                f"digest mismatch: expected {self._digest}, got {self._digest.algorithm}:{got}{self._kind()}",
                where=self._subject,
            )
        if self._check is not None:
            self._check.verify()

    def _kind(self) -> str:
        """Return the format of the bytes if they are a web page: of a login, a proxy, a captive portal."""
        if not self._head.lstrip().startswith(b"<"):
            return ""
        return f" ({describe_content(self._head)})"


class VerifyingReader:
    """A stream whose digest and size are verified at its end.

    The bytes are unverified until `read` has returned ``b""``. Reading up to there goes past the declared size, so a
    body that is too long is detected.

    Args:
        stream: the bytes as stored; closed with the reader.
        digest: the expected digest of those bytes.
        size: their expected number; None where only the digest is known.
        subject: the name of the bytes in messages.
    """

    def __init__(self, stream: ByteStream, digest: Digest, size: int | None, *, subject: str) -> None:
        self._stream = stream
        self._verifier = Verifier(digest, size, subject=subject)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the verified end.

        Raises:
            SizeMismatchError, DigestMismatchError: the stream does not have the declared size or digest.
        """
        chunk = self._stream.read(size)
        if chunk:
            self._verifier.update(chunk)
        elif size != 0:
            self._verifier.verify()
        return chunk

    def close(self) -> None:
        """Close the underlying stream; bytes that were not read are not verified."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
