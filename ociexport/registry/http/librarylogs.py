"""What urllib3 logs of our requests: URLs without their queries, where signatures stand, and without users.

It tells each request to the logger of its module; a program that turns that on writes it to a file that others read.
What it logs for others in the same program stays as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.registry.http.failures import without_secrets

_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")

_here = threading.local()


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
