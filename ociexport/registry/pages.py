"""The pages of a list: tags and referrers come page by page, each with a link to the next.

Spec: distribution-spec 1.1, "Listing Tags", "Listing Referrers"; RFC 8288, "Link".
"""

from __future__ import annotations

from collections.abc import Mapping

from requests.utils import parse_header_links


def next_query(headers: Mapping[str, str]) -> str | None:
    """Return the query of the next page's URL; None on the last page.

    Only the query of the link is used: the next page belongs to the same list, so the same server is asked. Behind
    gateways registries get their own host, protocol and path wrong, and a hostile registry must not choose where
    credentials are sent.
    """
    for link in parse_header_links(headers.get("Link", "")):
        if "next" in link.get("rel", "").lower().split():
            # Not urlsplit: it refuses hosts that are never asked.
            return link["url"].partition("#")[0].partition("?")[2].strip() or None
    return None
