"""URLs and errors in messages: no secrets are shown, even if the URL is malformed."""

from __future__ import annotations

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from ociexport.registry.http.failures import error_of_connection, reason_of, redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@a.example/v2/?sig=secret", "https://a.example/v2/?…"),
        ("http://me:secret@[bad", "http://[bad"),
        ("http://me:secret@a:99999/x?sig=secret", "http://a:99999/x"),
        ("http://me:se/secret@a", "http://a"),
        ("http://me:se?secret@a", "http://a"),
        ("http://me:se#secret@a", "http://a"),
        ("http://me:secret@", "http://"),
        ("me:secret@a:1", "a:1"),
        ("http://me:12/secret@a", "http://…@a"),
        ("http://me:12?secret@a", "http://…@a"),
        ("https://a:5000/token?account=me@example.com", "https://a:5000/token?…"),
        ("/path?sig=secret", "/path"),
        ("https://a.example/@scope/name", "https://a.example/@scope/name"),
    ],
)
def test_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


@given(st.text(max_size=20), st.sampled_from(["[bad", "a:99999", "a:b", ""]))
def test_password_of_what_is_no_url_is_never_shown(password: str, host: str) -> None:
    shown = redacted(f"http://me:{password}SECRET{password}@{host}")
    assert "SECRET" not in shown
    assert shown.endswith(host)


def test_library_that_quotes_a_url_quotes_no_secret_of_it() -> None:
    cause = urllib3.exceptions.LocationParseError("http://me:secret@a:99999/?sig=secret")
    error = error_of_connection(cause, subject="it", method="GET", url="http://a")
    assert str(error) == "it: GET http://a: Failed to parse: http://a:99999/?…"


def test_reason_of_which_nothing_is_known_has_no_secret_either() -> None:
    error = urllib3.exceptions.HTTPError("bad url: https://me:secret@a.example/v2/?sig=secret (odd)")
    assert reason_of(error) == "bad url: https://a.example/v2/?… (odd)"
