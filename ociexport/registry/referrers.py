"""What a registry says refers to a manifest: page by page, or from a tag where it has no such API.

Spec: distribution-spec 1.1, "Listing Referrers", "Unavailable Referrers API"; RFC 8288, "Link".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from requests.utils import parse_header_links

from ociexport.errors import LimitExceededError, RegistryError
from ociexport.images.budget import DocumentBudget
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, parse_document

# Registries send a hundred or more referrers a page; nobody has looked at so many by hand or in a machine.
MAX_REFERRER_PAGES = 100
# What registries without the API answer: 404 says the specification, the others were seen.
_NO_API_STATUSES = frozenset({400, 404, 405, 406, 501})


class ReferrersPage(NamedTuple):
    """One page of a list.

    Args:
        received: the index that it is, its digest our own.
        next_query: of the URL of the next page; None on the last one.
    """

    received: ReceivedManifest
    next_query: str | None


def read_referrers(
    digest: Digest,
    fetch_page: Callable[[str], ReferrersPage],
    fetch_tagged: Callable[[], Iterator[ReceivedManifest]],
    budget: DocumentBudget,
) -> Iterator[Descriptor]:
    """Yield descriptors of what refers to ``digest``.

    Args:
        fetch_page: gives the page with this query.
        fetch_tagged: gives what is under the tag that stands in for the API.
        budget: counts what they give.

    Raises:
        RegistryError: the registry does not tell; InvalidImageError: what it tells is no list.
        LimitExceededError: there are pages without end.
    """
    page = _fetch_first(fetch_page)
    if page is None:
        for received in fetch_tagged():
            budget.take(received.raw)
            yield from _entries_of(received)
        return
    for _ in range(MAX_REFERRER_PAGES):
        budget.take(page.received.raw)
        yield from _entries_of(page.received)
        if page.next_query is None:
            return
        page = fetch_page(page.next_query)
    raise LimitExceededError(f"expected at most {MAX_REFERRER_PAGES} pages, got more", where=f"referrers of {digest}")


def _fetch_first(fetch_page: Callable[[str], ReferrersPage]) -> ReferrersPage | None:
    """Return the first page; None where the registry has no such API."""
    try:
        page = fetch_page("")
    except RegistryError as error:
        if error.status not in _NO_API_STATUSES:
            raise
        return None
    # Some servers answer everything with a page for people.
    is_list = mediatypes.without_parameters(page.received.media_type or "") == mediatypes.OCI_INDEX
    return page if is_list else None


def next_query(headers: Mapping[str, str]) -> str | None:
    """Return the query of the next page's URL; None on the last page.

    No more than the query is taken: the answer does not get to say which server is asked, and for what.
    """
    for link in parse_header_links(headers.get("Link", "")):
        if link.get("rel") == "next":
            # Not urlsplit: it refuses hosts that we would not ask anyway.
            return link["url"].partition("#")[0].partition("?")[2] or None
    return None


def _entries_of(received: ReceivedManifest) -> tuple[Descriptor, ...]:
    document = parse_document(received.raw, received.media_type, received.digest)
    return document.manifests if isinstance(document, Index) else ()
