"""DocumentBudget: limits the documents of one image in total; the size of each is limited where it is read."""

from __future__ import annotations

from ociexport.errors import LimitExceededError
from ociexport.spec.json_fields import count_json_values

# Manifests and configs stay in memory until their image is written. A hundred platforms, or years of a scanner's
# reports, take a few mebibytes.
MAX_BYTES = 32 * 1024 * 1024
# The parsed values stay in memory too, at a few hundred bytes each. An honest manifest has a hundred values, a config a
# thousand.
MAX_VALUES = 1_000_000
# Each document, missing or not, may cost a request.
MAX_DOCUMENTS = 16 * 1024


class DocumentBudget:
    """Counts the documents read for one image, and raises when they exceed the limits.

    Args:
        where: the image that they belong to, as messages name it.
        hint: what the user can do about it.
    """

    def __init__(self, where: str, *, hint: str | None = None) -> None:
        self._where = where
        self._hint = hint
        self._bytes = 0
        self._values = 0
        self._documents = 0

    def take(self, document: bytes) -> None:
        """Count a document, or with ``b""`` one that was requested and is missing.

        Raises:
            LimitExceededError: the documents, their bytes or their values are more than any honest image has.
        """
        self._values += count_json_values(document)
        if self._values > MAX_VALUES:
            raise self._error(f"expected at most {MAX_VALUES} values in total, got more")
        self.take_size(len(document))

    def take_size(self, size: int) -> None:
        """Count a document of ``size`` bytes that is fetched later.

        Raises:
            LimitExceededError: as `take` does.
        """
        self._bytes += size
        self._documents += 1
        if self._bytes > MAX_BYTES:
            raise self._error(f"expected at most {MAX_BYTES} bytes in total, got more")
        if self._documents > MAX_DOCUMENTS:
            raise self._error(f"expected at most {MAX_DOCUMENTS} of them, got more")

    def _error(self, message: str) -> LimitExceededError:
        return LimitExceededError(f"documents: {message}", where=self._where, hint=self._hint)
