"""The pages of a list: tags and referrers come page by page, each with a link to the next.

A list that ended early would look complete. So a link to a next page is followed, or it is an error.

Spec: distribution-spec 1.1, "Listing Tags", "Listing Referrers"; RFC 8288, 3, "Link", and B.2, how to read it.
"""

from __future__ import annotations

import re

from ociexport.errors import RegistryError, quoted
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.web_url import is_web_url, text_of_header
from ociexport.spec.named_tuple import NamedTuple

_SEPARATORS = re.compile(r"[\s,]*")
# Between < and > any character may stand, ; and , too. Some servers leave the brackets out.
_TARGET = re.compile(r'<([^>]*)>|([^\s<>;,"]+)')
# The name, and the value in quotes or without; both the value and, after a ;, the whole parameter may be missing.
_PARAMETER = re.compile(r'\s*;\s*(?:([^\s=;,"<>]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)(?:"|$)|([^\s;,"]*)))?)?')
_END = re.compile(r"\s*(?:,|$)")


class _Link(NamedTuple):
    """A link of a Link header.

    Args:
        relations: in lower case; None without ``rel``.
    """

    target: str
    relations: list[str] | None


def next_query(answer: Answer) -> str | None:
    """Return the query of the next page's URL; None on the last page.

    Only the query of the link is used: the next page belongs to the same list, so the same server is asked. Behind
    gateways registries get their own host, protocol and path wrong, and a hostile registry must not choose where
    credentials are sent.

    Raises:
        RegistryError: there is a next page, or there may be one, and the link to it can't be followed.
    """
    links: list[_Link] = []
    unreadable: str | None = None
    for header in answer.header_values("Link"):
        found, rest = _parse_links(text_of_header(header))
        links += found
        unreadable = unreadable or rest
    target = next((link.target for link in links if "next" in (link.relations or ())), None)
    if target is None and unreadable is not None:
        raise _error(answer, f"expected a Link header of RFC 8288, got {quoted(unreadable.partition('?')[0])}")
    if target is None:
        # A list links to nothing but its pages. Other clients do not look at the relation either.
        target = next((link.target for link in links if link.relations is None), None)
    if target is None:
        return None
    # Not urlsplit: it refuses hosts that are never asked.
    query = target.partition("#")[0].partition("?")[2].strip()
    if not query or not is_web_url(f"https://host/?{query}"):
        raise _error(answer, f"expected a link to the next page with a query, got {quoted(redacted(target))}")
    return query


def _parse_links(header: str) -> tuple[list[_Link], str | None]:
    """Return the links in a Link header, and the rest of it if something there is no link."""
    links: list[_Link] = []
    position = _position_after(_SEPARATORS, header, 0)
    while position < len(header):
        started = position
        target = _TARGET.match(header, position)
        if target is None:
            return links, header[started:]
        position = target.end()
        relations: list[str] | None = None
        while parameter := _PARAMETER.match(header, position):
            position = parameter.end()
            # Of several only the first counts.
            if relations is None and (parameter[1] or "").lower() == "rel":
                value = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3] or ""
                relations = value.strip("'").lower().split()
        links.append(_Link((target[2] if target[1] is None else target[1]).strip(), relations))
        if not _END.match(header, position):
            return links, header[started:]
        position = _position_after(_SEPARATORS, header, position)
    return links, None


def _position_after(pattern: re.Pattern[str], text: str, position: int) -> int:
    matched = pattern.match(text, position)
    return matched.end() if matched else position


def _error(answer: Answer, message: str) -> RegistryError:
    url = redacted(answer.url)
    return RegistryError(
        f"{answer.request.subject}: GET {url}: {message}",
        method="GET",
        url=url,
        hint="the list would end early; report this to the registry's operators",
    )
