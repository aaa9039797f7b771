"""The tags of a repository, page by page.

Spec: distribution-spec 1.1, "Content Discovery", "Listing Tags"; RFC 8288 for the Link header.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from urllib.parse import urlencode

import requests

from ociexport.errors import InvalidImageError, OciexportError, RegistryError, RegistryNotFoundError, printable
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer
from ociexport.registry.session import RegistrySession
from ociexport.spec.json_fields import parse_json_object

# distribution and ECR give no more at once; some registries, not asked, give a hundred.
_TAGS_PER_PAGE = 1000
# A registry that ignores the wish gives all at once; 16 MiB are half a million tags of 30 characters.
_MAX_PAGE_BYTES = 16 * 1024 * 1024
# Of memory, for the tags of all pages and the links between them. The largest repositories known have some hundred
# thousand tags, which take a quarter of it; one that never ends is no repository.
_MAX_LIST_BYTES = 80 * 1024 * 1024
# What a text takes of it in a dictionary, beside the text itself: measured, rounded up.
_ITEM_BYTES = 80
_MAX_PAGES = 20_000
# Registries that filter after they have counted send pages with nothing on them, but not many in a row.
_MAX_PAGES_OF_NOTHING_NEW = 10
# Of difflib's ratio: "3.2O" is near "3.20", "3.19" is not.
_NEAR = 0.75
# What registries without such lists answer, where the repository itself may well be there.
_NO_LIST_STATUSES = frozenset({405, 501})
_NO_LIST_CODES = frozenset({"UNSUPPORTED", "PAGE_NOT_FOUND"})


def list_tags(session: RegistrySession, repository: str, name: str) -> tuple[str, ...]:
    """Return all tags of a repository, in the registry's order, each once.

    Args:
        session: with the registry itself and not with a mirror, which has what was asked of it before, and no more.
        repository: as the server calls it.
        name: as messages call it.

    Raises:
        RegistryNotFoundError: there is no such repository.
        RegistryError: it gives no list of tags, or one that does not end.
    """
    return _TagList(session, repository, name).read()


def nearest_tag(session: RegistrySession, repository: str, tag: str) -> str | None:
    """Return the tag that was probably meant by ``tag``, which there is not; None where none is near.

    One page is looked at, and whatever goes wrong with it is not what the user wants to hear of now.
    """
    try:
        tags = _TagList(session, repository, repository).read_page()
    except OciexportError:
        return None
    others = [printable(other) for other in tags if other != tag]
    from difflib import get_close_matches  # noqa: PLC0415 - start-up: only who has mistyped a tag needs it

    near = get_close_matches(tag, others, n=1, cutoff=_NEAR)
    return near[0] if near else None


class _TagList:
    """The pages of one list, as they come in."""

    def __init__(self, session: RegistrySession, repository: str, name: str) -> None:
        self._session = session
        self._repository = repository
        self._subject = f"tags of {name}"
        self._tags: dict[str, None] = {}
        self._queries: set[str] = set()
        self._taken_bytes = 0
        self._nothing_new = 0

    def read_page(self) -> tuple[str, ...]:
        """Return what the first page has; asked for once, since nobody waits for it."""
        path = f"/tags/list?{urlencode({'n': _TAGS_PER_PAGE})}"
        return self._read_page(self._get(path, retries=False))

    def read(self) -> tuple[str, ...]:
        """Return what all pages have."""
        query: str | None = urlencode({"n": _TAGS_PER_PAGE})
        while query is not None:
            query = self._add_page(query)
        return tuple(self._tags)

    def _add_page(self, query: str) -> str | None:
        """Read a page, and return the query of the next one; None at the end."""
        self._queries.add(query)
        known = len(self._tags)
        answer = self._ask(query)
        page = self._read_page(answer)
        self._take(answer, query)
        for tag in page:
            if tag not in self._tags:
                self._take(answer, tag)
                self._tags[tag] = None
        is_new = len(self._tags) > known
        following = _next_query(answer.headers)
        if following is None and is_new and len(page) == _TAGS_PER_PAGE:
            # Some give as many as were asked for and do not say that there are more.
            following = urlencode({"n": _TAGS_PER_PAGE, "last": page[-1]})
        if following is None:
            return None
        self._nothing_new = 0 if is_new else self._nothing_new + 1
        if following in self._queries or self._nothing_new == _MAX_PAGES_OF_NOTHING_NEW:
            raise self._error("expected an end, got a link to pages that were read before", answer)
        if len(self._queries) == _MAX_PAGES:
            raise self._error(f"expected at most {_MAX_PAGES} pages, got more", answer)
        return following

    def _take(self, answer: Answer, text: str) -> None:
        """Count a text that is kept; raises RegistryError where all of them take too much memory."""
        self._taken_bytes += _ITEM_BYTES + sys.getsizeof(text)
        if self._taken_bytes > _MAX_LIST_BYTES:
            raise self._error(f"expected at most {_MAX_LIST_BYTES} bytes of memory for all tags, got more", answer)

    def _ask(self, query: str) -> Answer:
        try:
            return self._get(f"/tags/list?{query}" if query else "/tags/list")
        except RegistryError as error:
            if error.status == 400 and not self._tags and query:
                # It does not take the size of our pages, and so may choose its own.
                return self._get("/tags/list")
            if error.status in _NO_LIST_STATUSES or _NO_LIST_CODES & set(error.codes):
                error.hint = "this registry seems to give no lists of tags; an image is pulled by its tag all the same"
            elif isinstance(error, RegistryNotFoundError) and not error.codes:
                error.hint = "check the spelling; or this registry gives no lists of tags"
            raise

    def _get(self, path: str, *, retries: bool = True) -> Answer:
        return self._session.get(
            self._repository, path, subject=self._subject, retries=retries, document_bytes=_MAX_PAGE_BYTES + 1
        )

    def _read_page(self, answer: Answer) -> tuple[str, ...]:
        raw = answer.read_up_to(_MAX_PAGE_BYTES + 1)
        if len(raw) > _MAX_PAGE_BYTES:
            raise self._error(f"expected at most {_MAX_PAGE_BYTES} bytes in a page, got more", answer)
        try:
            return parse_json_object(undo_for_document(raw, answer), where="").texts("tags")
        except InvalidImageError as error:
            raise self._error(f"expected a list of tags, got another document ({error})", answer) from error

    def _error(self, message: str, answer: Answer) -> RegistryError:
        url = redacted(answer.url)
        return RegistryError(f"{self._subject}: GET {url}: {message}", method="GET", url=url)


def _next_query(headers: Mapping[str, str]) -> str | None:
    """Return the query of the next page; None at the end.

    Of the link only the query counts: the page is of the same list, so it is asked of the same server. Behind gateways
    registries name themselves wrongly, in host, protocol and path alike, and a hostile one does not get to say where
    credentials are sent.
    """
    for link in requests.utils.parse_header_links(headers.get("Link", "")):
        if "next" in link.get("rel", "").lower().split():
            return link["url"].partition("?")[2].partition("#")[0].strip() or None
    return None
