"""The manifests that refer to a manifest: from the referrers API, or from the fallback tag where there is no such API.

Spec: distribution-spec 1.1, "Listing Referrers", "Unavailable Referrers API".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ociexport.errors import InvalidImageError, LimitExceededError, RegistryError
from ociexport.images.budget import DocumentBudget
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, parse_document
from ociexport.spec.named_tuple import NamedTuple

# Registries send a hundred or more referrers a page; an image with ten thousand referrers is not a real one.
MAX_REFERRER_PAGES = 100
# The answers of registries without the API: 404 is the specification's, the others were seen.
_NO_API_STATUSES = frozenset({400, 404, 405, 406, 501})


class ReferrersPage(NamedTuple):
    """One page of a list of referrers.

    Args:
        received: the page, which is an index; we computed its digest.
        next_query: query of the next page's URL; None on the last page.
    """

    received: ReceivedManifest
    next_query: str | None


def read_referrers(
    digest: Digest,
    fetch_page: Callable[[str], ReferrersPage],
    fetch_tagged: Callable[[], Iterator[ReceivedManifest]],
    budget: DocumentBudget,
) -> Iterator[Descriptor]:
    """Yield descriptors of the manifests that refer to ``digest``.

    Args:
        fetch_page: returns the page for a query.
        fetch_tagged: yields the index under the fallback tag, used where there is no API.
        budget: counts the bytes of all pages.

    Raises:
        RegistryError: the registry does not answer the request; InvalidImageError: the answer is not an index.
        LimitExceededError: there are more than `MAX_REFERRER_PAGES` pages.
    """
    page = _fetch_first(fetch_page)
    if page is None:
        for received in fetch_tagged():
            budget.take(received.raw)
            yield from _entries_of(received)
        return
    for _ in range(MAX_REFERRER_PAGES):
        budget.take(page.received.raw)
        yield from _entries_of(page.received, where=f"referrers of {digest}")
        if page.next_query is None:
            return
        page = fetch_page(page.next_query)
    raise LimitExceededError(f"expected at most {MAX_REFERRER_PAGES} pages, got more", where=f"referrers of {digest}")


def _fetch_first(fetch_page: Callable[[str], ReferrersPage]) -> ReferrersPage | None:
    """Return the first page; None where the registry has no referrers API."""
    try:
        page = fetch_page("")
    except RegistryError as error:
        if error.status not in _NO_API_STATUSES:
            raise
        return None
    # Some servers answer every path with an HTML page.
    is_list = mediatypes.without_parameters(page.received.media_type or "") == mediatypes.OCI_INDEX
    return page if is_list else None


def _entries_of(received: ReceivedManifest, where: str | None = None) -> tuple[Descriptor, ...]:
    """Return the entries of an index; another document has none, or with ``where`` is an error."""
    document = parse_document(received.raw, received.media_type, received.digest)
    if isinstance(document, Index):
        return document.manifests
    if where is not None:
        raise InvalidImageError("expected a page of the list, which is an index, got a manifest", where=where)
    return ()
