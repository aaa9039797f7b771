"""Which failures are temporary, and how long to wait."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.registry.http.failures import error_of_response
from ociexport.registry.http.retries import backoff_seconds, is_passing_error, is_passing_status, retry_after_seconds

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 599])
def test_passing_statuses(status: int) -> None:
    assert is_passing_status(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 501, 505])
def test_lasting_statuses(status: int) -> None:
    assert not is_passing_status(status)


def _tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
        (_tls_error("WRONG_VERSION_NUMBER"), False),
        (_tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), False),
        (_tls_error("SSLV3_ALERT_BAD_RECORD_MAC"), True),
        (_tls_error("UNEXPECTED_EOF_WHILE_READING"), True),
    ],
)
def test_what_no_wait_mends_is_not_tried_again(error: OSError, passes: bool) -> None:
    assert is_passing_error(RuntimeError("wrapped", error)) is passes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Tue, 24 Nov 2026 12:01:00 GMT", 60.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 12:01:00 -0000", 60.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("Tue, 24 Nov 99999999999 12:01:00 GMT", None),
        ("Tue, 24 Nov 2026 12:01:00 +99999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """RFC 9110 10.2.3."""
    assert retry_after_seconds({"Retry-After": text}, NOON) == seconds


def test_date_is_of_the_servers_clock() -> None:
    """The clock of a sandbox may be years off."""
    headers = {"Retry-After": "Sat, 24 Nov 2001 12:01:00 GMT", "Date": "Sat, 24 Nov 2001 12:00:30 GMT"}
    assert retry_after_seconds(headers, NOON) == 30


@given(st.text(max_size=40))
def test_any_retry_after_is_read_without_an_error(text: str) -> None:
    retry_after_seconds({"Retry-After": text, "Date": text}, NOON)


def test_backoff_doubles_within_bounds() -> None:
    for attempt, middle in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (5000, 30.0)]:
        assert 0.75 * middle <= backoff_seconds(attempt, 1.0) <= 1.25 * middle


@pytest.mark.parametrize("digits", [400, 5000])
def test_quota_for_no_time_that_passes_is_told_without_it(digits: int) -> None:
    headers = {"RateLimit-Limit": f"100;w={'9' * digits}"}
    error = error_of_response(
        subject="blob", method="GET", url="https://registry.test/v2/", status=429, headers=headers, body=b""
    )
    assert str(error) == "blob: GET https://registry.test/v2/: 429 Too Many Requests (limit 100)"
