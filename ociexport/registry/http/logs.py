"""The log of requests: one line for each with ``--verbose``, and what urllib3 logs by itself.

No line contains a secret: the user and the query of URLs are removed, and no header but Range is shown. urllib3 logs
each request too. A program may write that log to a file that others can read, so secrets are removed from these records
as well. What urllib3 logs for other code in the same program is not changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import urllib3.connection
import urllib3.connectionpool
import urllib3.util.retry

from ociexport.registry.http.failures import reason_of, redacted, status_line, without_secrets
from ociexport.system.progress.protocol import Progress, format_bytes

if TYPE_CHECKING:
    import logging

# `getLogger` would import `logging`, which the command does without: see `late_logging`.
_LOGGERS = (urllib3.connection.log, urllib3.connectionpool.log, urllib3.util.retry.log)
_here = threading.local()


class LoggedRequest:
    """One request in progress; its line is logged when the answer is closed or broken.

    Args:
        byte_range: the value of its Range header; None without one.
        progress: receives the line.
    """

    def __init__(self, method: str, url: str, byte_range: str | None, progress: Progress) -> None:
        self._what = f"{method} {redacted(url)}" + (f" ({byte_range})" if byte_range else "")
        self._progress = progress
        self._began = time.monotonic()
        self._is_logged = False

    def answered(self, status: int) -> None:
        """Record that the headers have arrived."""
        self._answer = f"{status_line(status)} in {self._milliseconds()}"

    def failed(self, error: BaseException) -> None:
        """Log that there was no answer."""
        self._progress.say(f"{self._what}: {reason_of(error)}, after {self._milliseconds()}")

    def ended(self, read_bytes: int, broken_by: BaseException | None = None) -> None:
        """Log the line, once: ``read_bytes`` of the body were read before its end or before ``broken_by``."""
        if not self._is_logged:
            self._is_logged = True
            body = f", {format_bytes(read_bytes)} in {self._milliseconds()}" if read_bytes else ""
            end = f", then {reason_of(broken_by)}" if broken_by is not None else ""
            self._progress.say(f"{self._what}: {self._answer}{body}{end}")

    def _milliseconds(self) -> str:
        return f"{(time.monotonic() - self._began) * 1000:.0f} ms"


@contextmanager
def our_request() -> Iterator[None]:
    """Remove secrets from what libraries log in this thread until the ``with`` block ends."""
    _here.is_ours = True
    try:
        yield
    finally:
        _here.is_ours = False


def _cut(record: logging.LogRecord) -> bool:
    if getattr(_here, "is_ours", False):
        record.msg, record.args = without_secrets(record.getMessage()), None
        # A traceback would show the secrets again, and also a malformed header block.
        record.exc_info = None
    return True


def cut_secrets() -> None:
    """Install the filter on urllib3's loggers, if it is not there yet; it affects only records within `our_request`."""
    for logger in _LOGGERS:
        if _cut not in logger.filters:
            logger.addFilter(_cut)
