"""What is logged of requests: a line for each with ``--verbose``, and what urllib3 logs by itself.

No line holds a secret: of URLs the user and the query are cut, of headers only the range is shown. urllib3 tells each
request to the logger of its module; a program that turns that on writes it to a file that others read, so the same is
cut from these records. What urllib3 logs for others in the same program stays as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.registry.http.failures import reason_of, redacted, status_line, without_secrets
from ociexport.system.progress.protocol import Progress, format_bytes

_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")
_here = threading.local()


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


@contextmanager
def our_request() -> Iterator[None]:
    """Have what this thread's libraries log meanwhile show no queries."""
    _here.is_ours = True
    try:
        yield
    finally:
        _here.is_ours = False


def _cut(record: logging.LogRecord) -> bool:
    if getattr(_here, "is_ours", False):
        record.msg, record.args = without_secrets(record.getMessage()), None
        # A traceback would show them again, and what a server sent in place of headers.
        record.exc_info = None
    return True


def cut_secrets() -> None:
    """Put this in force, once for all; it changes nothing that is logged outside of `our_request`."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _cut not in logger.filters:
            logger.addFilter(_cut)
