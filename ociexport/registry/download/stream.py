"""The bytes of one blob, over as many connections as they need."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

from ociexport.errors import LimitExceededError, RegistryError, SizeMismatchError, TransferError, quoted
from ociexport.registry.http.encodings import Body, content_encoding, without_encoding
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.transport import Transport
from ociexport.spec.numerals import number_in

# So many new bytes show that a connection that breaks is of use all the same: its retries are counted anew.
_PROGRESS_BYTES = 1024 * 1024
_SKIPPED_AT_ONCE_BYTES = 256 * 1024
# What is read only to count it; no layer of a time when registries did not say how long they are comes near it.
_MAX_COUNTED_BYTES = 64 * 1024**3

# What servers, and what stands before them, answer to a Range that they know nothing of.
_REFUSED_RANGE_STATUSES = frozenset({400, 403, 405, 501})

# No longer numbers than any file has, and than Python takes.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")

# Opens the blob from a byte on, to before another or to its end: 206 where the server can, else 200 with all of it, or
# 416.
OpenFrom: TypeAlias = Callable[[int, int | None], Answer]


class BlobStream:
    """A blob's bytes as stored, in order; a body that is cut goes on where it ended.

    That they are the right ones is for the caller to verify. Not for use by several threads at once.

    Args:
        open_from: opens the blob from a byte on.
        size: of the whole blob.
        offset: of the first byte that `read` is to return.
        transport: waits between retries.
        subject: how messages call the blob.
        end: of the part to read; None for all. A server that gives all the same gives all, unless ``is_strict``.
        is_strict: nothing but the part will do.
    """

    def __init__(
        self,
        open_from: OpenFrom,
        size: int,
        offset: int,
        transport: Transport,
        subject: str,
        *,
        end: int | None = None,
        is_strict: bool = False,
    ) -> None:
        self._open_from = open_from
        self._size = size
        self._position = offset
        self._end = end
        self._is_strict = is_strict
        self._transport = transport
        self._subject = subject
        self._failures = 0
        self._last_failure_at = offset
        self._skip_bytes = 0
        self._is_part = False
        # Whether the server was asked for a part once and gave all: it knows of no parts.
        self.refuses_parts = False
        self._length: int | None = None
        self._body = self._open()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end.

        Raises:
            TransferError: the connection broke, and so did the retries.
            RegistryError: the server answered a retry with something else.
            SizeMismatchError: the server has another length for the blob.
        """
        if size < 0:
            size = max(self._size - self._position, 0) + 1
        if self._end is not None:
            # A server that sends more of the blob than it was asked for does no harm.
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
        """Close the connection, or give it back where all was read."""
        self._body.close()

    @property
    def position(self) -> int:
        """Of the next byte, from the beginning of the blob."""
        return self._position

    @property
    def end(self) -> int:
        """Of what is read: of the part, or of the blob where the server gives no parts."""
        return self._size if self._end is None else self._end

    def _open(self) -> Body:
        """Return a body whose next byte is the one at the position, after those that are to be skipped."""
        answer = self._ask()
        try:
            if self._is_strict and answer.status != 206:
                raise RegistryError(f"{self._subject}: expected a part, got status {answer.status}", method="GET")
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
        """Return an answer with what is wanted; where the server has none, one with the whole blob.

        It may say that the blob is not that long, refuse ranges as such, answer with one that is not what was asked
        for, or with one of other bytes than those that are stored.
        """
        is_part = bool(range_headers(self._position, self._end))
        try:
            answer = self._open_from(self._position, self._end)
        except RegistryError as error:
            if self._is_strict or not is_part or error.status not in _REFUSED_RANGE_STATUSES:
                raise
            return self._open_from(0, None)
        is_the_part = answer.status == 206 and self._first_byte(answer) == self._position
        if answer.status not in (206, 416) or (is_the_part and not content_encoding(answer)):
            return answer
        answer.close()
        if self._is_strict:
            raise RegistryError(f"{self._subject}: expected a part, got another or none", method="GET")
        return self._open_from(0, None)

    def _skip(self) -> None:
        """Read bytes that the caller has already; there are fewer where the server has another blob now."""
        skipped = self._body.read(min(self._skip_bytes, _SKIPPED_AT_ONCE_BYTES))
        self._skip_bytes = self._skip_bytes - len(skipped) if skipped else 0

    def _continue_after(self, error: TransferError) -> None:
        """Open the blob again where it broke, or raise ``error``."""
        self._body.close()
        if self._position - self._last_failure_at >= _PROGRESS_BYTES:
            self._failures = 0
        self._last_failure_at = self._position
        self._failures += 1
        if not self._transport.wait_for_retry(self._failures, error, self._subject):
            raise error
        self._body = self._open()

    def _verify_ended(self) -> None:
        """Return if the body is complete.

        One with no length may as well have been cut, and a part may be shorter than the one that was asked for.
        """
        if self._position < self.end and (self._length is None or self._is_part):
            raise TransferError(f"{self._subject}: expected {self._size} bytes, got {self._position}", method="GET")

    def _decoded(self, answer: Answer) -> Body:
        """Return the body as the blob is stored.

        Some storages tell of their gzip layers that they are gzip; then the length is the blob's own. What somebody on
        the way has compressed is of another length.
        """
        self._length = answer.content_length
        if answer.status == 206 or self._length == self._size or not content_encoding(answer):
            return answer
        self._length = None
        return without_encoding(answer)

    def _verify_range(self, answer: Answer) -> None:
        """Return if a 206 brings what was asked for.

        Spec: RFC 9110 15.3.7.1; a part with another beginning would be hashed as if it were the right one.
        """
        text = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None or self._first_byte(answer) != self._position:
            raise RegistryError(
                f"{self._subject}: Content-Range: expected bytes {self._position}-{self._size - 1}/{self._size}, "
                f"got {quoted(text) if text else 'none'}",
                method="GET",
                status=206,
            )
        if match[3] not in ("*", str(self._size)):
            raise SizeMismatchError(
                f"size mismatch: expected {self._size} bytes, got a part of {match[3]}", where=self._subject
            )

    @staticmethod
    def _first_byte(answer: Answer) -> int | None:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        return number_in(match[1]) if match is not None else None


def range_headers(position: int, end: int | None) -> dict[str, str]:
    """Return the header that asks for a part; none for all.

    Spec: RFC 9110 14.1.2, whose last byte is the one before ``end``.
    """
    if position == 0 and end is None:
        return {}
    return {"Range": f"bytes={position}-" + (str(end - 1) if end is not None else "")}


def whole_size(answer: Answer) -> int:
    """Return how long the whole is of which ``answer`` brings the first byte, or all; the caller closes it.

    Where it says nothing of that, it is read to its end.

    Raises:
        TransferError: the connection broke on the way there.
        LimitExceededError: it has no end.
    """
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status == 206 and match is not None and (whole := number_in(match[3])) is not None:
        return whole
    if answer.status == 200 and answer.content_length is not None:
        # A storage that calls its layers gzip in Content-Encoding says their own length; a proxy that compresses, none.
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
