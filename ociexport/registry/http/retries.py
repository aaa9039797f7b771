"""Which failures are temporary, and how long to wait before a retry; this module never waits itself."""

from __future__ import annotations

import email.utils
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ociexport.registry.http.failures import causes, is_lasting_proxy_error, is_lasting_tls_error, is_malformed_answer
from ociexport.spec.numerals import number_up_to

if TYPE_CHECKING:
    from datetime import datetime

# A wait doubles with each retry up to here.
_MAX_BACKOFF_SECONDS = 30.0
# Request timeout, and too many requests.
_PASSING_CLIENT_ERRORS = frozenset({408, 429})
# Not implemented, and version not supported: the same request will fail in the same way.
_LASTING_SERVER_ERRORS = frozenset({501, 505})


def is_passing_status(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _PASSING_CLIENT_ERRORS or (status >= 500 and status not in _LASTING_SERVER_ERRORS)


def is_passing_error(error: BaseException) -> bool:
    """Whether a connection that failed with ``error`` may succeed later."""
    if is_malformed_answer(error):
        return False
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError) and is_lasting_tls_error(cause):
            return False
        if is_lasting_proxy_error(cause):
            return False
        if isinstance(cause, socket.gaierror):
            # A name that does not exist stays so; a name service that did not answer may recover.
            return cause.errno != socket.EAI_NONAME
    return True


def backoff_seconds(attempt: int, first_delay_seconds: float) -> float:
    """Return the wait after the failed ``attempt`` (from 1): it doubles each time, with a random factor.

    The random factor keeps clients that failed together from retrying together.
    """
    import random  # noqa: PLC0415 - start-up: few requests are repeated

    delay = min(first_delay_seconds * 2.0 ** min(attempt - 1, 30), _MAX_BACKOFF_SECONDS)
    return float(delay) * random.uniform(0.75, 1.25)  # noqa: S311 - nothing secret


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return how long the server asks us to wait; None if it does not ask.

    A date is compared with the server's own clock, given in its ``Date`` header; this machine's may be years off.

    Spec: RFC 9110 10.2.3: seconds, or a date.
    """
    text = headers.get("Retry-After", "").strip()
    if (seconds := number_up_to(text, 10**9)) is not None:
        return seconds
    until = _parse_date(text)
    if until is None:
        return None
    from datetime import UTC, datetime  # noqa: PLC0415 - start-up: few servers ask to wait

    now = _parse_date(headers.get("Date", "")) or now or datetime.now(UTC)
    return max((until - now).total_seconds(), 0.0)


def _parse_date(text: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError for years and time zones out of range
        return None
    from datetime import UTC  # noqa: PLC0415 - start-up: as above

    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
