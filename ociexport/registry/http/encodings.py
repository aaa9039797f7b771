"""Undoing a Content-Encoding that the request did not allow.

Digests are of the bytes as stored, and each request asks for ``identity``. Some proxies compress bodies nevertheless.
They use gzip, which is undone here; any other encoding is refused.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from ociexport.errors import RegistryError, TransferError, quoted
from ociexport.registry.http.messages import Answer

_GZIP_NAMES = frozenset({"gzip", "x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"
# How zlib is told to expect gzip's header and trailer.
_GZIP_WINDOW_BITS = 31
_READ_BYTES = 64 * 1024
# One byte more than a document may have: a document of this size is too large.
_MAX_DOCUMENT_BYTES = 4 * 1024 * 1024 + 1


class Body(Protocol):
    """The body of an answer."""

    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


def content_encoding(answer: Answer) -> str:
    """Return the body's encoding; empty for ``identity`` or no header."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def without_encoding(answer: Answer) -> Body:
    """Return the body of ``answer`` without its encoding.

    Raises:
        RegistryError: the encoding is not gzip.
    """
    encoding = content_encoding(answer)
    if not encoding:
        return answer
    if encoding in _GZIP_NAMES:
        return _Gunzipped(answer)
    raise _unknown(answer, encoding)


def undo_for_document(raw: bytes, answer: Answer) -> bytes:
    """Return a JSON document from its ``raw`` body, which may be encoded; some servers declare an encoding wrongly.

    Raises:
        RegistryError: the encoding is not gzip, or the body is damaged.
    """
    encoding = content_encoding(answer)
    if not encoding or raw.lstrip().startswith(b"{"):
        return raw
    if encoding not in _GZIP_NAMES or not raw.startswith(_GZIP_MAGIC):
        raise _unknown(answer, encoding)
    try:
        return zlib.decompressobj(_GZIP_WINDOW_BITS).decompress(raw, _MAX_DOCUMENT_BYTES)
    except zlib.error as error:
        raise _damaged(answer, error) from error


class _Gunzipped:
    """A body that is decompressed while it is read; one read decompresses no more than it returns."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)

    def read(self, size: int) -> bytes:
        while size:
            encoded = self._inflater.unconsumed_tail or self._answer.read(_READ_BYTES)
            try:
                plain = self._inflater.decompress(encoded, size)
            except zlib.error as error:
                raise _damaged(self._answer, error) from error
            if plain or self._inflater.eof:
                return plain
            if not encoded:
                raise TransferError(f"{self._answer.request.subject}: the encoded body ended early")
        return b""

    def close(self) -> None:
        self._answer.close()


def _unknown(answer: Answer, encoding: str) -> RegistryError:
    return RegistryError(
        f"{answer.request.subject}: Content-Encoding: expected identity, as requested, got {quoted(encoding)}",
        method=answer.request.method,
        status=answer.status,
        hint="a proxy on the way compresses bodies that it should pass on unchanged",
    )


def _damaged(answer: Answer, error: zlib.error) -> RegistryError:
    return RegistryError(
        f"{answer.request.subject}: Content-Encoding: expected gzip, as declared, got other data ({error})",
        method=answer.request.method,
        status=answer.status,
    )
