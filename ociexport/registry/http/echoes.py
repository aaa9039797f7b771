"""Secrets of a request that a server repeats in its answer are not shown.

Some servers quote the request in their errors: the Authorization header, a token, or a signed URL.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

# A shorter secret is cut only where it is a whole word: it may well be a part of an innocent one.
_MIN_PART_CHARACTERS = 6
# A shorter value in a query is no signature.
_MIN_QUERY_VALUE_CHARACTERS = 12
# The members of a token request's form that are no secrets.
_OPEN_FIELDS = frozenset({"service", "scope", "grant_type", "client_id"})


def secrets_of(authorization: str | None, headers: Mapping[str, str], body: bytes | None, url: str) -> frozenset[str]:
    """Return the secrets that a request contains.

    Args:
        headers: those that the user configured, which may hold secrets.
        body: a form.
        url: its query may contain a signature.
    """
    found: set[str] = set()
    for value in [*([authorization] if authorization else []), *headers.values()]:
        found.update((value, *_in_header(value)))
    form = parse_qsl((body or b"").decode("ascii", "replace"))
    found.update(value for name, value in form if name not in _OPEN_FIELDS)
    query = parse_qsl(urlsplit(url).query)
    long = ((name, value) for name, value in query if len(value) >= _MIN_QUERY_VALUE_CHARACTERS)
    found.update(value for name, value in long if name not in _OPEN_FIELDS)
    return frozenset(found - {""})


def _in_header(value: str) -> Iterator[str]:
    """Yield the credentials in an Authorization header, also user and password of Basic and the password alone."""
    scheme, _, credentials = value.strip().partition(" ")
    yield credentials.strip()
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(credentials).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return
        yield pair
        yield pair.partition(":")[2]


def without_echoes(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with each of the secrets replaced by ``…``, also where it is encoded.

    >>> without_echoes("user me:pass, Basic bWU6cGFzcw==, is locked", {"me:pass"})
    'user …, Basic …, is locked'
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    if not forms:
        return text
    # The longest first: a password may be a part of another form.
    patterns = (_pattern(form) for form in sorted(forms, key=len, reverse=True))
    return re.sub("|".join(patterns), "…", text, flags=re.IGNORECASE)


def _forms(secret: str) -> Iterator[str]:
    raw = secret.encode("utf-8", "surrogateescape")
    encoded = [base64.b64encode(raw).decode("ascii"), base64.urlsafe_b64encode(raw).decode("ascii")]
    plain = [secret, *encoded, *(form.rstrip("=") for form in (secret, *encoded))]
    for form in plain:
        yield form
        yield quote(form, safe="", errors="surrogateescape")
        yield quote_plus(form, errors="surrogateescape")


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _MIN_PART_CHARACTERS else rf"(?<!\w){escaped}(?!\w)"
