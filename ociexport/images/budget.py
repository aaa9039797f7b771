"""DocumentBudget: how much the documents of one image may be together; each by itself is limited where it is read."""

from __future__ import annotations

from ociexport.errors import LimitExceededError
from ociexport.spec.json_fields import count_json_values

# Manifests and configs are kept in memory until their image is written. A hundred platforms, or the reports of a
# scanner through years, come to a few mebibytes.
MAX_BYTES = 32 * 1024 * 1024
# What was read from them is kept too: some hundred bytes for a value. An honest manifest has a hundred, a config a
# thousand.
MAX_VALUES = 1_000_000
# Each may be a request; of those that are not there too.
MAX_DOCUMENTS = 16 * 1024


class DocumentBudget:
    """Counts the documents that somebody makes us read, and says when it is enough.

    Args:
        where: whose documents they are, as messages call it.
        hint: what the user can do about it.
    """

    def __init__(self, where: str, *, hint: str | None = None) -> None:
        self._where = where
        self._hint = hint
        self._bytes = 0
        self._values = 0
        self._documents = 0

    def take(self, document: bytes) -> None:
        """Count a document, or with ``b""`` one that was asked for and is not there.

        Raises:
            LimitExceededError: there are more, or more bytes or values in all of them, than any honest image has.
        """
        self._values += count_json_values(document)
        if self._values > MAX_VALUES:
            raise self._error(f"expected at most {MAX_VALUES} values in all together, got more")
        self.take_size(len(document))

    def take_size(self, size: int) -> None:
        """Count a document of ``size`` bytes that is yet to be fetched.

        Raises:
            LimitExceededError: as `take` does.
        """
        self._bytes += size
        self._documents += 1
        if self._bytes > MAX_BYTES:
            raise self._error(f"expected at most {MAX_BYTES} bytes in all together, got more")
        if self._documents > MAX_DOCUMENTS:
            raise self._error(f"expected at most {MAX_DOCUMENTS} of them, got more")

    def _error(self, message: str) -> LimitExceededError:
        return LimitExceededError(f"documents: {message}", where=self._where, hint=self._hint)
