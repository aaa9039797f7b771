"""The tags of a repository, page by page.

Spec: distribution-spec 1.1, "Content Discovery", "Listing Tags".
"""

from __future__ import annotations

import sys
from urllib.parse import urlencode

from ociexport.errors import InvalidImageError, OciexportError, RegistryError, RegistryNotFoundError, printable
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer
from ociexport.registry.pages import next_query
from ociexport.registry.session import RegistrySession
from ociexport.spec.json_fields import parse_json_object

# The most that distribution and ECR send in one page; some registries send a hundred by default.
_TAGS_PER_PAGE = 1000
# A registry that ignores the page size sends all tags at once; 16 MiB are half a million tags of 30 characters.
_MAX_PAGE_BYTES = 16 * 1024 * 1024
# Memory for the tags of all pages and the links between them. The largest known repositories have some hundred
# thousand tags, which take a quarter of this.
_MAX_LIST_BYTES = 80 * 1024 * 1024
# Memory of a dictionary entry, without its text: measured, rounded up.
_ITEM_BYTES = 80
_MAX_PAGES = 20_000
# Registries that filter tags after paging send empty pages, but not many in a row.
_MAX_PAGES_OF_NOTHING_NEW = 10
# Threshold for difflib's ratio: "3.2O" is near "3.20", "3.19" is not.
_NEAR = 0.75
_FIRST_QUERY = urlencode({"n": _TAGS_PER_PAGE})
# The answers of registries that refuse our page size. 404 is also the answer for a repository that does not exist.
_OTHER_SIZE_STATUSES = frozenset({400, 404, 422})
# The answers of registries that do not list tags; the repository itself may exist.
_NO_LIST_STATUSES = frozenset({405, 501})
_NO_LIST_CODES = frozenset({"UNSUPPORTED", "PAGE_NOT_FOUND"})


def list_tags(session: RegistrySession, repository: str, name: str) -> tuple[str, ...]:
    """Return all tags of a repository, in the registry's order, each once.

    Args:
        session: with the registry itself, not with a mirror: a mirror knows only the tags that were pulled through it.
        repository: its name on the server.
        name: its name in messages.

    Raises:
        RegistryNotFoundError: there is no such repository.
        RegistryError: the registry does not list tags, or its list does not end.
    """
    return _TagList(session, repository, name).read()


def nearest_tag(session: RegistrySession, repository: str, tag: str) -> str | None:
    """Return the existing tag closest in spelling to ``tag``, which does not exist; None where no tag is close.

    Only the first page is read. Errors are ignored: the missing tag is the error that the user needs to see.
    """
    try:
        tags = _TagList(session, repository, repository).read_page()
    except OciexportError:
        return None
    others = [printable(other) for other in tags if other != tag]
    from difflib import get_close_matches  # noqa: PLC0415 - start-up: only a mistyped tag needs it

    near = get_close_matches(tag, others, n=1, cutoff=_NEAR)
    return near[0] if near else None


class _TagList:
    """Reads the pages of one list of tags."""

    def __init__(self, session: RegistrySession, repository: str, name: str) -> None:
        self._session = session
        self._repository = repository
        self._subject = f"tags of {name}"
        self._tags: dict[str, None] = {}
        self._queries: set[str] = set()
        self._taken_bytes = 0
        self._nothing_new = 0
        self._takes_page_size = True

    def read_page(self) -> tuple[str, ...]:
        """Return the tags on the first page; the request is not retried, since it only serves a hint."""
        return self._read_page(self._ask(_FIRST_QUERY, retries=False))

    def read(self) -> tuple[str, ...]:
        """Return the tags on all pages."""
        query: str | None = _FIRST_QUERY
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
        following = next_query(answer)
        if following is None and is_new and len(page) == _TAGS_PER_PAGE:
            # Some registries send a full page without a link to the next.
            size = {"n": _TAGS_PER_PAGE} if self._takes_page_size else {}
            following = urlencode({**size, "last": page[-1]})
        if following is None:
            return None
        self._nothing_new = 0 if is_new else self._nothing_new + 1
        if following in self._queries or self._nothing_new == _MAX_PAGES_OF_NOTHING_NEW:
            raise self._error("expected a last page, got a link to pages already read", answer)
        if len(self._queries) == _MAX_PAGES:
            raise self._error(f"expected at most {_MAX_PAGES} pages, got more", answer)
        return following

    def _take(self, answer: Answer, text: str) -> None:
        """Count the memory of a text that is kept; raises RegistryError where the total is too large."""
        self._taken_bytes += _ITEM_BYTES + sys.getsizeof(text)
        if self._taken_bytes > _MAX_LIST_BYTES:
            raise self._error(f"expected at most {_MAX_LIST_BYTES} bytes of memory for all tags, got more", answer)

    def _ask(self, query: str, *, retries: bool = True) -> Answer:
        try:
            return self._ask_in_its_size(query, retries=retries)
        except RegistryError as error:
            if error.status in _NO_LIST_STATUSES or _NO_LIST_CODES & set(error.codes):
                error.hint = "this registry does not seem to list tags; an image can still be pulled by its tag"
            elif isinstance(error, RegistryNotFoundError) and not error.codes:
                error.hint = "check the spelling; the registry may also not support listing tags"
            raise

    def _ask_in_its_size(self, query: str, *, retries: bool) -> Answer:
        """Return the page for ``query``; from a registry that refuses our page size, the first page in its own."""
        try:
            return self._get(query, retries=retries)
        except RegistryError as error:
            if query != _FIRST_QUERY or error.status not in _OTHER_SIZE_STATUSES:
                raise
        self._takes_page_size = False
        return self._get("", retries=retries)

    def _get(self, query: str, *, retries: bool) -> Answer:
        path = f"/tags/list?{query}" if query else "/tags/list"
        return self._session.get(
            self._repository, path, subject=self._subject, retries=retries, document_bytes=_MAX_PAGE_BYTES + 1
        )

    def _read_page(self, answer: Answer) -> tuple[str, ...]:
        raw = answer.read_up_to(_MAX_PAGE_BYTES + 1)
        if len(raw) > _MAX_PAGE_BYTES:
            raise self._error(f"expected at most {_MAX_PAGE_BYTES} bytes in a page, got more", answer)
        try:
            document = parse_json_object(undo_for_document(raw, answer), where="")
            # Some registries leave out a list that is empty; any other document has no repository's name either.
            if not {"name", "tags"} & set(document.keys):
                raise document.error("tags", "missing")
            return document.texts("tags")
        except InvalidImageError as error:
            raise self._error(f"expected a list of tags, got another document ({error})", answer) from error

    def _error(self, message: str, answer: Answer) -> RegistryError:
        url = redacted(answer.url)
        return RegistryError(f"{self._subject}: GET {url}: {message}", method="GET", url=url)
