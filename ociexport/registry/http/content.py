"""RequestContent: the bytes that a request uploads, which can be sent again from the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from ociexport.errors import OciexportError, SizeMismatchError, counted
from ociexport.spec.digest import Chunk

# What one call of the socket gets. Its time limit is the one for a connection, so a slow line must get small pieces.
_PIECE_BYTES = 256 * 1024
# Content that is this short, or of which no more was sent, may be sent again without asking how much has arrived.
_REPEATED_BYTES = _PIECE_BYTES

ContentOpener: TypeAlias = Callable[[], Iterator[Chunk]]


class ContentFailedError(OciexportError):
    """The content could not be read; the cause is the error. It never leaves `registry`."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__("the content of a request could not be read")
        self.failure = failure


class RequestContent:
    """The body of an upload: an iterable with a length, which begins anew each time that it is iterated.

    Args:
        size: how many bytes it has; a request with another number is cut.
        media_type: its Content-Type.
        open_content: returns the chunks from the first one; closed at the end if it can be.
    """

    def __init__(self, size: int, media_type: str, open_content: ContentOpener) -> None:
        self._size = size
        self.media_type = media_type
        self._open = open_content
        self.sent_bytes = 0

    @classmethod
    def of(cls, raw: bytes, media_type: str) -> RequestContent:
        """Return the content of a small document."""
        return cls(len(raw), media_type, lambda: iter([raw]))

    @property
    def may_be_repeated(self) -> bool:
        """Whether little enough was sent to send it again over another connection, without a question before."""
        return self.sent_bytes <= _REPEATED_BYTES

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        """Yield exactly ``size`` bytes in small pieces.

        Raises:
            ContentFailedError: the bytes could not be read, or their number is wrong; the last piece was not sent.
        """
        self.sent_bytes = 0
        held = memoryview(b"")
        try:
            for chunk in self._open():
                for piece in _pieces_of(chunk):
                    if held:
                        yield held
                        self.sent_bytes += len(held)
                    held = piece
                    if self.sent_bytes + len(held) > self._size:
                        raise SizeMismatchError(f"size mismatch: expected {counted(self._size, 'byte')}, got more")
            if self.sent_bytes + len(held) != self._size:
                got = self.sent_bytes + len(held)
                raise SizeMismatchError(f"size mismatch: expected {counted(self._size, 'byte')}, got {got}")
        except (OciexportError, OSError) as error:
            raise ContentFailedError(error) from error
        # The last piece goes only when the reader has verified all of them.
        yield held
        self.sent_bytes += len(held)


def _pieces_of(chunk: Chunk) -> Iterator[memoryview]:
    view = memoryview(chunk)
    for start in range(0, len(view), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]
