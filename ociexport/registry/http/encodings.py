"""Undoing a Content-Encoding that nobody asked for.

Digests are of the bytes as stored, and we ask for ``identity``. A proxy that compresses all the same gives other bytes;
its gzip is undone, since gzip is what they use, and anything else is refused.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from ociexport.errors import RegistryError, TransferError, quoted
from ociexport.registry.http.messages import Answer

_GZIP_NAMES = frozenset({"gzip", "x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"
# zlib's way to say "with gzip's header and trailer".
_GZIP_WINDOW_BITS = 31
_READ_BYTES = 64 * 1024
# One byte more than any document may have, so that one that is too large is seen.
_MAX_DOCUMENT_BYTES = 4 * 1024 * 1024 + 1


class Body(Protocol):
    """What is read of an answer."""

    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


def content_encoding(answer: Answer) -> str:
    """Return how the body is encoded; empty where it is as it should be."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def without_encoding(answer: Answer) -> Body:
    """Return the body of ``answer`` as it was before somebody encoded it.

    Raises:
        RegistryError: the encoding is none that we undo.
    """
    encoding = content_encoding(answer)
    if not encoding:
        return answer
    if encoding in _GZIP_NAMES:
        return _Gunzipped(answer)
    raise _unknown(answer, encoding)


def undo_for_document(raw: bytes, answer: Answer) -> bytes:
    """Return a JSON document whose ``raw`` body may be encoded; some servers only say so, and it is not.

    Raises:
        RegistryError: the encoding is none that we undo, or the body is damaged.
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
    """A body that is decompressed as it is read; never more than was asked for is in memory."""

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
        f"{answer.request.subject}: Content-Encoding: expected identity, as asked for, got {quoted(encoding)}",
        method=answer.request.method,
        status=answer.status,
        hint="a proxy on the way compresses what it should pass on as it is",
    )


def _damaged(answer: Answer, error: zlib.error) -> RegistryError:
    return RegistryError(
        f"{answer.request.subject}: Content-Encoding: expected gzip, as the server says, got something else ({error})",
        method=answer.request.method,
        status=answer.status,
    )
