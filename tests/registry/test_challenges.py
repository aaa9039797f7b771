"""Challenges, token requests and tokens."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import AuthenticationError
from ociexport.registry.auth.access import Access
from ociexport.registry.auth.challenges import (
    Challenge,
    TokenRequest,
    parse_challenges,
    parse_token,
    plan_token_requests,
)
from ociexport.registry.options import ANONYMOUS, Credentials

SCOPE = Access("library/app").scope


def _plan(challenge: Challenge, credentials: Credentials) -> TokenRequest:
    (planned,) = plan_token_requests(challenge, credentials, SCOPE, where="registry a")
    return planned


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", ()),
        ("Basic", [("basic", {})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://dockerauth.aliyuncs.com/auth",service="registry.aliyuncs.com:cn-hangzhou:26842"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://dockerauth.aliyuncs.com/auth",
                        "service": "registry.aliyuncs.com:cn-hangzhou:26842",
                    },
                )
            ],
        ),
        (
            r'bearer REALM = "a \"quoted, comma\" \\ x" , Scope=pull',
            [("bearer", {"realm": 'a "quoted, comma" \\ x', "scope": "pull"})],
        ),
        (
            'Negotiate, NTLM TlRMTVNTUAAC==, Basic realm="b", Bearer realm="r",service="s"',
            [
                ("negotiate", {}),
                ("ntlm", {}),
                ("basic", {"realm": "b"}),
                ("bearer", {"realm": "r", "service": "s"}),
            ],
        ),
        ('Bearer realm="r",,service="s",', [("bearer", {"realm": "r", "service": "s"})]),
        ('Bearer realm="r",realm="evil"', [("bearer", {"realm": "r"})]),
        ('Bearer realm="unclosed, Basic realm="b"', [("bearer", {}), ("basic", {"realm": "b"})]),
        ('@@@, Basic realm="b"', [("basic", {"realm": "b"})]),
        ('Bearer realm="r" error="x", Basic realm="b"', [("bearer", {}), ("basic", {"realm": "b"})]),
    ],
)
def test_challenges_are_read_as_the_rfc_has_them(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    """RFC 9110 11.6.1 and its list syntax (5.6.1), empty elements included."""
    assert parse_challenges(header) == tuple(Challenge(scheme, parameters) for scheme, parameters in challenges)


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_any_header_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(st.characters(max_codepoint=255)), min_size=1)
)
def test_quoted_parameters_come_through(parameters: dict[str, str]) -> None:
    """RFC 9110 5.6.4: only quote and backslash are escaped."""
    quoted = ", ".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in parameters.items()
    )
    assert parse_challenges(f'Basic realm="x", Bearer {quoted}')[1] == Challenge("bearer", parameters)


def test_token_request_is_anonymous_without_credentials() -> None:
    challenge = Challenge("bearer", {"realm": "https://auth.example/token?tenant=1", "service": "a:b,c d"})
    planned = _plan(challenge, ANONYMOUS)
    parts = urlsplit(planned.url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "auth.example", "/token")
    assert parse_qs(parts.query) == {"tenant": ["1"], "service": ["a:b,c d"], "scope": ["repository:library/app:pull"]}
    assert (planned.authorization, planned.form) == (None, None)


def test_token_request_bears_name_and_password() -> None:
    challenge = Challenge("bearer", {"realm": "https://auth.example/token"})
    planned = _plan(challenge, Credentials("user", "pä:ss"))
    assert planned.authorization == "Basic dXNlcjpww6Q6c3M="
    assert parse_qs(urlsplit(planned.url).query) == {"account": ["user"], "scope": [SCOPE]}


def test_identity_token_is_exchanged_by_post() -> None:
    """distribution, "OAuth2 Token Authentication"."""
    challenge = Challenge("bearer", {"realm": "https://auth.example/token", "service": "s"})
    planned, instead = plan_token_requests(challenge, Credentials(identity_token="refresh"), SCOPE, where="registry a")
    assert planned.form is not None
    assert parse_qs(planned.form.decode()) == {
        "service": ["s"],
        "scope": [SCOPE],
        "grant_type": ["refresh_token"],
        "client_id": ["ociexport"],
        "refresh_token": ["refresh"],
    }
    # Services without POST accept the token as the password.
    assert (instead.form, instead.authorization) == (None, "Basic PHRva2VuPjpyZWZyZXNo")


@pytest.mark.parametrize(
    ("parameters", "got"),
    [
        ({}, "none"),
        ({"realm": "ftp://x/"}, "'ftp://x/'"),
        ({"realm": "https://"}, "'https://'"),
        ({"realm": "x"}, "'x'"),
        ({"realm": "http://[x/t"}, "'http://[x/t'"),
        ({"realm": "http://a:abc/t"}, "'http://a:abc/t'"),
        ({"realm": "http://a:99999/t"}, "'http://a:99999/t'"),
    ],
)
def test_realm_must_be_a_url(parameters: dict[str, str], got: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        _plan(Challenge("bearer", parameters), ANONYMOUS)
    assert (
        str(caught.value) == f"registry a: bearer challenge: expected a realm that is an http or https URL, got {got}"
    )


@pytest.mark.parametrize(
    ("raw", "value", "lifetime_seconds"),
    [
        (b'{"token": "a"}', "a", 60),
        (b'{"access_token": "b", "expires_in": 300}', "b", 300),
        (b'{"access_token": "b", "token": "a", "expires_in": null}', "a", 60),
        (b'{"token": "", "access_token": "b", "expires_in": -5}', "b", 60),
        (b'{"access_token": "b", "expires_in": 1}', "b", 60),
        (b'{"access_token": "b", "expires_in": 61}', "b", 61),
        (b'{"token": "a", "expires_in": "300"}', "a", 60),
    ],
)
def test_token_goes_by_either_name(raw: bytes, value: str, lifetime_seconds: int) -> None:
    token = parse_token(raw, "https://auth.example/token")
    assert (token.value, token.lifetime_seconds) == (value, lifetime_seconds)


def test_secrets_are_in_no_repr() -> None:
    challenge = Challenge("bearer", {"realm": "https://auth.example/token"})
    credentials = Credentials("user", "secret", "secret", "secret")
    planned = plan_token_requests(challenge, credentials, SCOPE, where="registry a")
    basic = _plan(challenge, Credentials("user", "secret"))
    token = parse_token(b'{"token": "secret"}', "")
    assert "secret" not in f"{credentials!r} {planned!r} {basic!r} {token!r} {basic.url}"
