"""What goes over the wire, a line for each request, for who wants to see it (``--verbose``).

No line holds a secret: of URLs the user and the query are cut, of headers there is only the range that was asked for.
"""

from __future__ import annotations

import time

from ociexport.registry.http.failures import reason_of, redacted, status_line
from ociexport.system.progress.protocol import Progress, format_bytes


class LoggedRequest:
    """One request that is being sent; its line is told when all of the answer that anybody wanted was read.

    Args:
        byte_range: the Range that it asks for; None for all.
        progress: is told the line.
    """

    def __init__(self, method: str, url: str, byte_range: str | None, progress: Progress) -> None:
        self._what = f"{method} {redacted(url)}" + (f" ({byte_range})" if byte_range else "")
        self._progress = progress
        self._began = time.monotonic()
        self._is_told = False

    def answered(self, status: int) -> None:
        """Take note that the headers are there."""
        self._answer = f"{status_line(status)} in {self._milliseconds()}"

    def failed(self, error: BaseException) -> None:
        """Tell that there was no answer."""
        self._progress.say(f"{self._what}: {reason_of(error)}, after {self._milliseconds()}")

    def ended(self, read_bytes: int, broken_by: BaseException | None = None) -> None:
        """Tell what came, once: ``read_bytes`` of the body were read, and then perhaps the connection broke."""
        if not self._is_told:
            self._is_told = True
            body = f", {format_bytes(read_bytes)} in {self._milliseconds()}" if read_bytes else ""
            end = f", then {reason_of(broken_by)}" if broken_by is not None else ""
            self._progress.say(f"{self._what}: {self._answer}{body}{end}")

    def _milliseconds(self) -> str:
        return f"{(time.monotonic() - self._began) * 1000:.0f} ms"
