"""The bytes of one blob; after a broken connection they continue over a new one."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

from ociexport.errors import LimitExceededError, RegistryError, SizeMismatchError, TransferError, counted, quoted
from ociexport.registry.http.encodings import Body, content_encoding, without_encoding
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.transport import Transport
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import number_in

# A connection that brought this many bytes before it broke was useful: the count of retries starts again.
_PROGRESS_BYTES = 1024 * 1024
_SKIPPED_AT_ONCE_BYTES = 256 * 1024
# The limit for a body that is read only to count its bytes. Registries that declare no size are old; their layers are
# far smaller.
_MAX_COUNTED_BYTES = 64 * 1024**3

# How servers and proxies answer a Range that they do not support.
_REFUSED_RANGE_STATUSES = frozenset({400, 403, 405, 501})

# Numbers of 19 digits cover every file size, and stay below Python's limit for the length of a number.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")

# Opens the blob from one offset to another, or to its end for None. The answer is a 206 with the part, a 200 with the
# whole blob, or a 416.
OpenFrom: TypeAlias = Callable[[int, int | None], Answer]


class RemoteBlob(NamedTuple):
    """A blob, and how to request its bytes.

    Args:
        open_from: opens the blob at an offset.
        size: of the whole blob.
        transport: waits between retries, and counts the connections.
        subject: the blob, as messages name it.
    """

    open_from: OpenFrom
    size: int
    transport: Transport
    subject: str


class BlobStream:
    """A blob's bytes as stored, in order; after a broken connection, a new one continues at the same position.

    The caller verifies the bytes. Only one thread at a time may use a stream.

    Args:
        offset: of the first byte that `read` returns.
        end: where the part to read ends; None for the whole rest. If the server ignores the range, the stream
            continues to the end of the blob, unless ``is_strict``.
        is_strict: whether an answer other than the requested part is an error.
    """

    def __init__(self, blob: RemoteBlob, offset: int, *, end: int | None = None, is_strict: bool = False) -> None:
        self._blob = blob
        self._position = offset
        self._end = end
        self._is_strict = is_strict
        self._failures = 0
        self._last_failure_at = offset
        self._skip_bytes = 0
        self._is_part = False
        # Whether the server answered a request for a part with the whole blob: it does not support ranges.
        self.refuses_parts = False
        self._length: int | None = None
        self._body = self._open()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end.

        Raises:
            TransferError: the connection broke, and all retries failed.
            RegistryError: the server answered a retry with an error or another part.
            SizeMismatchError: the server declares another size for the blob.
        """
        if size < 0:
            size = max(self._blob.size - self._position, 0) + 1
        if self._end is not None:
            # If the server sends more of the blob than requested, the excess is not read.
            size = min(size, self._end - self._position)
        while True:
            try:
                if self._skip_bytes:
                    self._skip()
                    continue
                chunk = self._body.read(size)
                if not chunk and size:
                    self._verify_ended()
            except TransferError as error:
                self._continue_after(error)
                continue
            self._position += len(chunk)
            return chunk

    def close(self) -> None:
        """Close the connection, or give it back if the body was read to its end."""
        self._body.close()

    @property
    def position(self) -> int:
        """Offset of the next byte in the blob."""
        return self._position

    @property
    def end(self) -> int:
        """Where the stream ends: at the end of the part, or of the blob if the server does not support ranges."""
        return self._blob.size if self._end is None else self._end

    def _open(self) -> Body:
        """Return a body that, after `_skip_bytes` bytes to skip, continues at the position."""
        answer = self._ask()
        try:
            if self._is_strict and answer.status != 206:
                raise RegistryError(f"{self._blob.subject}: expected a part, got status {answer.status}", method="GET")
            if answer.status == 206:
                self._verify_range(answer)
            if answer.status != 206:
                self._end = None
            self._is_part = answer.status == 206
            self.refuses_parts = not self._is_part and self._position > 0
            self._skip_bytes = 0 if self._is_part else self._position
            return self._decoded(answer)
        except BaseException:
            answer.close()
            raise

    def _ask(self) -> Answer:
        """Return an answer with the requested part, or with the whole blob if the server does not provide the part.

        The server may declare that the blob is shorter, refuse all ranges, answer with another range, or with a range
        of the encoded bytes.
        """
        is_part = bool(range_headers(self._position, self._end))
        try:
            answer = self._blob.open_from(self._position, self._end)
        except RegistryError as error:
            if self._is_strict or not is_part or error.status not in _REFUSED_RANGE_STATUSES:
                raise
            return self._blob.open_from(0, None)
        is_the_part = answer.status == 206 and self._first_byte(answer) == self._position
        if answer.status not in (206, 416) or (is_the_part and not content_encoding(answer)):
            return answer
        answer.close()
        if self._is_strict:
            raise RegistryError(f"{self._blob.subject}: expected a part, got another or none", method="GET")
        return self._blob.open_from(0, None)

    def _skip(self) -> None:
        """Read and drop bytes that the caller already has; skipping ends early if the body is shorter."""
        skipped = self._body.read(min(self._skip_bytes, _SKIPPED_AT_ONCE_BYTES))
        self._skip_bytes = self._skip_bytes - len(skipped) if skipped else 0

    def _continue_after(self, error: TransferError) -> None:
        """Open the blob again at the position where the connection broke, or raise ``error``."""
        self._body.close()
        if self._position - self._last_failure_at >= _PROGRESS_BYTES:
            self._failures = 0
        self._last_failure_at = self._position
        self._failures += 1
        if not self._blob.transport.wait_for_retry(self._failures, error, self._blob.subject):
            raise error
        self._body = self._open()

    def _verify_ended(self) -> None:
        """Return if the body is complete.

        A body without a declared length may have been cut, and a part may be shorter than requested.
        """
        if self._position < self.end and (self._length is None or self._is_part):
            raise TransferError(
                f"{self._blob.subject}: expected {counted(self._blob.size, 'byte')}, got {self._position}", method="GET"
            )

    def _decoded(self, answer: Answer) -> Body:
        """Return the body with the blob's bytes as stored.

        Some storages declare a Content-Encoding of gzip for layers that are stored as gzip; then the length is the
        blob's own. A body that a proxy has compressed has another length.
        """
        self._length = answer.content_length
        if answer.status == 206 or self._length == self._blob.size or not content_encoding(answer):
            return answer
        self._length = None
        return without_encoding(answer)

    def _verify_range(self, answer: Answer) -> None:
        """Return if a 206 starts at the requested position and agrees on the blob's size.

        Otherwise wrong bytes would be hashed as if they belonged at the position.

        Spec: RFC 9110 15.3.7.1.
        """
        size = self._blob.size
        text = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None or self._first_byte(answer) != self._position:
            raise RegistryError(
                f"{self._blob.subject}: Content-Range: expected bytes {self._position}-{size - 1}/{size}, "
                f"got {quoted(text) if text else 'none'}",
                method="GET",
                status=206,
            )
        if match[3] not in ("*", str(size)):
            raise SizeMismatchError(
                f"size mismatch: expected {counted(size, 'byte')}, got a part of {match[3]}", where=self._blob.subject
            )

    @staticmethod
    def _first_byte(answer: Answer) -> int | None:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        return number_in(match[1]) if match is not None else None


def range_headers(position: int, end: int | None) -> dict[str, str]:
    """Return the header that requests a part; empty for the whole blob.

    Spec: RFC 9110 14.1.2; the header names the last byte, which is the one before ``end``.
    """
    if position == 0 and end is None:
        return {}
    return {"Range": f"bytes={position}-" + (str(end - 1) if end is not None else "")}


def whole_size(answer: Answer) -> int:
    """Return the size of the blob whose first byte or whole content is in ``answer``; the caller closes the answer.

    If the headers do not declare the size, the body is read to its end.

    Raises:
        TransferError: the connection broke before the end of the body.
        LimitExceededError: the body is larger than the limit.
    """
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status == 206 and match is not None and (whole := number_in(match[3])) is not None:
        return whole
    if answer.status == 200 and answer.content_length is not None:
        # A storage that declares Content-Encoding gzip for stored gzip layers gives their stored length. A proxy that
        # compresses gives no length.
        return answer.content_length
    size = 0
    body = without_encoding(answer) if answer.status == 200 else BytesIO()
    while chunk := body.read(_SKIPPED_AT_ONCE_BYTES):
        size += len(chunk)
        if size > _MAX_COUNTED_BYTES:
            raise LimitExceededError(
                f"expected at most {_MAX_COUNTED_BYTES} bytes, got more", where=answer.request.subject
            )
    return size
