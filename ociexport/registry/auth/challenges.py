"""Plans the requests that answer a challenge; sends nothing itself.

A registry that requires authentication answers 401 with a challenge. A client answers ``Basic`` with user name and
password, and ``Bearer`` with a token that it fetches from the realm named in the challenge.

Spec: RFC 9110 11.6.1; distribution "Docker Registry v2 authentication via central service" and "OAuth2 Token
Authentication".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

from ociexport.errors import AuthenticationError, InvalidImageError, quoted
from ociexport.registry.auth.credentials import encode_user_and_password
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.named_tuple import NamedTuple

# Cloud tokens grow with the number of the user's groups; a longer token would not fit into a header.
MAX_TOKEN_BODY_BYTES = 64 * 1024
# The least lifetime of a token, and that of one without "expires_in": "for compatibility with older clients, a token
# should never be returned with less than 60 seconds to live" (token specification).
MIN_TOKEN_SECONDS = 60
# The OAuth2 form of the token service requires a client_id.
CLIENT_ID = "ociexport"

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?: +|$|(?=,))")
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))[ \t]*(?=,|$)')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SEPARATORS = re.compile(r"[ \t,]*")


class Challenge(NamedTuple):
    """A way to authenticate that a server offers; the scheme and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request for a token.

    Args:
        url: the realm, with the query.
        authorization: header; None for an anonymous token.
        form: body of a POST; None for a GET.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    form: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and its lifetime."""

    value: str = field(repr=False)
    lifetime_seconds: int


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Return the challenges in a WWW-Authenticate header, or in several joined by commas; anything else is skipped.

    >>> parse_challenges('Bearer realm="https://a/t",service="x:y,z", Basic realm="b"')[0].parameters["service"]
    'x:y,z'
    """
    challenges: list[Challenge] = []
    parameters: dict[str, str] = {}
    position = _skip_separators(header, 0)
    while position < len(header):
        if challenges and (match := _PARAMETER.match(header, position)):
            text = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
            parameters.setdefault(match[1].lower(), text)
        elif match := _SCHEME.match(header, position):
            parameters = {}
            challenges.append(Challenge(match[1].lower(), parameters))
            if (token68 := _TOKEN68.match(header, match.end())) and not _PARAMETER.match(header, match.end()):
                match = token68
        else:
            # Invalid syntax: continue after the next comma, since a later challenge may be valid.
            comma = header.find(",", position)
            position = len(header) if comma < 0 else _skip_separators(header, comma)
            continue
        position = _skip_separators(header, match.end())
    return tuple(challenges)


def _skip_separators(header: str, position: int) -> int:
    match = _SEPARATORS.match(header, position)
    return match.end() if match else position


def basic_authorization(credentials: Credentials) -> str:
    """Return the Authorization header for user name and password."""
    return f"Basic {encode_user_and_password(credentials)}"


def plan_token_requests(
    challenge: Challenge, credentials: Credentials, scope: str, *, where: str
) -> tuple[TokenRequest, ...]:
    """Return the requests to send for a token for ``scope``, in this order until one succeeds.

    The request is a GET. For an identity token a POST comes first, then a GET with the identity token as the password,
    for services that do not support POST.

    Args:
        where: the registry, for messages.

    Raises:
        AuthenticationError: the challenge's realm is missing or is not an http or https URL.
    """
    got = challenge.parameters.get("realm", "")
    try:
        # WebUrl normalizes the host, so every parser reads the same one from here on.
        realm, _, _ = str(WebUrl.parse(got)).partition("#")
    except InvalidUrlError as error:
        shown = quoted(redacted(got)) if got else "none"
        raise AuthenticationError(
            f"{where}: bearer challenge: expected a realm that is an http or https URL, got {shown}"
        ) from error
    service = challenge.parameters.get("service")
    fields = [("service", service)] if service else []
    # A challenge separates scopes by spaces. A query has a parameter for each, and a form has all in one.
    query_fields = [*fields, *(("scope", each) for each in scope.split())]
    if scope:
        fields.append(("scope", scope))
    if credentials.identity_token is not None:
        exchange = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": credentials.identity_token}
        post = TokenRequest(realm, form=_encode([*fields, *exchange.items()]).encode("ascii"))
        instead = Credentials(credentials.username or "<token>", credentials.identity_token)
        return post, _plan_get(realm, query_fields, instead)
    return (_plan_get(realm, query_fields, credentials),)


def _plan_get(realm: str, fields: list[tuple[str, str]], credentials: Credentials) -> TokenRequest:
    authorization = None
    if credentials.username is not None:
        fields = [*fields, ("account", credentials.username)]
        authorization = basic_authorization(credentials)
    # The realm's own query stays as it came.
    separator = "?" if "?" not in realm else "" if realm.endswith(("?", "&")) else "&"
    return TokenRequest(f"{realm}{separator}{_encode(fields)}" if fields else realm, authorization)


def _encode(fields: list[tuple[str, str]]) -> str:
    """Return ``fields`` in the form of a query; a byte of a header that is not UTF-8 stays that byte."""
    return urlencode(fields, errors="surrogateescape")


def parse_token(raw: bytes, where: str) -> Token:
    """Return the token in a token service's answer, its member ``token`` or ``access_token``.

    Args:
        where: the token service, for messages.

    Raises:
        AuthenticationError: the answer contains no token, or one that can't stand in a header.
    """
    try:
        item = parse_json_object(raw, where=where)
        value = item.optional_text("token") or item.optional_text("access_token")
    except InvalidImageError as error:
        raise AuthenticationError(str(error)) from error
    if value is None:
        raise AuthenticationError(f"{where}: expected a 'token' or 'access_token', got neither")
    if not value.isascii() or not value.isprintable():
        raise AuthenticationError(f"{where}: token: expected printable ASCII, got something else")
    return Token(value, _lifetime_seconds(item))


def _lifetime_seconds(item: JsonObject) -> int:
    try:
        return max(item.integer("expires_in"), MIN_TOKEN_SECONDS)
    except InvalidImageError:
        # The member is missing or not an integer; the token can still be used.
        return MIN_TOKEN_SECONDS
