"""tags: lists of any length, from registries with any paging, and an error for an endless list."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import closing

import pytest

from ociexport.errors import AuthenticationError, RegistryError, RegistryNotFoundError, UsageError
from ociexport.registry.options import Mirror, RegistryOptions
from ociexport.spec.reference import ImageReference
from ociexport.transfer.sources.list_names import list_names
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image
from tests.support.registry_image import open_registry_source

IMAGE = build_image([])
NO_RETRIES = RegistryOptions(retry_times=0)


def serve_tags(registry: FakeRegistry, count: int) -> list[str]:
    """Give ``team/app`` this many tags; returns them in the registry's order."""
    names = [f"v{number:05}" for number in range(count)]
    for name in names:
        IMAGE.serve(registry, "team/app", name)
    return names


def page(tags: object, link: str | None = None) -> Fault:
    """Return an answer with one page of a list."""
    body = json.dumps({"name": "team/app", "tags": tags}).encode()
    return Fault(status=200, body=body, headers={"Link": link} if link else {})


def list_app(registry: FakeRegistry, options: RegistryOptions = NO_RETRIES) -> tuple[str, ...]:
    return list_names(f"{registry.host}/team/app", options=options)


def nearest_tag_of_app(registry: FakeRegistry, tag: str) -> str | None:
    """Return the tag that is named to a user who asked for ``tag``."""
    source = open_registry_source(ImageReference.parse(f"{registry.host}/team/app:{tag}"), options=NO_RETRIES)
    with closing(source), pytest.raises(RegistryNotFoundError) as caught:
        source.fetch_manifest()
    found = re.search(r"(v[0-9]{5})", caught.value.hint or "")
    return found and found[1]


def list_requests(registry: FakeRegistry) -> int:
    return sum(path.endswith("/tags/list") for path in registry.paths("GET"))


@pytest.mark.parametrize(("per_page", "pages"), [(1000, 1), (10, 3), (7, 4), (1, 25)])
def test_all_pages_are_read(registry: FakeRegistry, per_page: int, pages: int) -> None:
    """distribution-spec 1.1, "Listing Tags"; the registry's own order is kept."""
    names = serve_tags(registry, 25)
    registry.tags_per_page = per_page
    assert list_app(registry) == tuple(names)
    assert list_requests(registry) == pages


@pytest.mark.parametrize(
    "link",
    [
        '</v2/team/app/tags/list?last=a&n=2>; rel="next"',
        "<tags/list?last=a&n=2>;rel=next",
        '<?last=a&n=2>; rel="next"',
        '<http://internal.example:8080/v2/team/app/tags/list?last=a&n=2>; rel="next"',
        '</v2/elsewhere/tags/list?last=a&n=2>; title="x"; rel="last next"',
        '</v2/team/app/tags/list?n=2>; rel="first", </v2/team/app/tags/list?last=a&n=2>; rel="NEXT"',
    ],
)
def test_links_of_any_form_lead_to_the_same_server(registry: FakeRegistry, link: str) -> None:
    """RFC 8288: a link may be relative or absolute; behind a gateway an absolute one may name an internal host."""
    registry.misbehave("/tags/list", page(["a"], link), times=1)
    registry.misbehave("/tags/list", page(["b"]), when=lambda request: request.query.get("last") == ["a"])
    assert list_app(registry) == ("a", "b")


def test_full_page_without_a_link_is_asked_beyond(registry: FakeRegistry) -> None:
    """Some registries send a full page without a link."""
    names = serve_tags(registry, 1500)
    registry.misbehave("/tags/list", Fault(headers={"Link": None}))
    assert list_app(registry) == tuple(names)


def test_registry_that_knows_no_pages_is_asked_once(registry: FakeRegistry) -> None:
    names = [f"t{number}" for number in range(3000)]
    registry.misbehave("/tags/list", page(names))
    assert list_app(registry) == tuple(names)
    assert list_requests(registry) == 1


def test_registry_that_ignores_where_a_page_begins_ends(registry: FakeRegistry) -> None:
    names = [f"t{number}" for number in range(1000)]
    registry.misbehave("/tags/list", page(names))
    assert list_app(registry) == tuple(names)
    assert list_requests(registry) == 2


@pytest.mark.parametrize("status", [400, 404, 422])
def test_registry_that_refuses_our_page_size_chooses_its_own(registry: FakeRegistry, status: int) -> None:
    """distribution answers PAGINATION_NUMBER_INVALID to a page size that is too large; others answer 404 or 422."""
    names = serve_tags(registry, 3)
    registry.misbehave("/tags/list", Fault(status=status), when=lambda request: "n" in request.query)
    assert list_app(registry) == tuple(names)
    assert nearest_tag_of_app(registry, "v0002") == names[2]


def test_page_size_that_was_refused_is_not_asked_for_again(registry: FakeRegistry) -> None:
    """This registry sends full pages of our size without links."""
    names = serve_tags(registry, 1500)
    registry.misbehave("/tags/list", Fault(status=422), when=lambda request: "n" in request.query)
    registry.misbehave("/tags/list", Fault(headers={"Link": None}))
    assert list_app(registry) == tuple(names)
    assert list_requests(registry) == 3


def test_refusal_of_a_later_page_is_an_error(registry: FakeRegistry) -> None:
    registry.misbehave("/tags/list", page(["a"], '<?n=5>; rel="next"'), times=1)
    registry.misbehave("/tags/list", Fault(status=422))
    with pytest.raises(RegistryError, match="422"):
        list_app(registry)
    assert list_requests(registry) == 2


def test_empty_pages_in_between_are_passed_over(registry: FakeRegistry) -> None:
    registry.misbehave("/tags/list", page(["a"], '<?p=2>; rel="next"'), times=1)
    registry.misbehave("/tags/list", page([], '<?p=3>; rel="next"'), times=1)
    registry.misbehave("/tags/list", page(["b"]), times=1)
    assert list_app(registry) == ("a", "b")


def test_empty_list_may_be_left_out(registry: FakeRegistry) -> None:
    registry.misbehave("/tags/list", Fault(status=200, body=b'{"name": "team/app"}'))
    assert list_app(registry) == ()


@pytest.mark.parametrize("tags", [[], None])
def test_repository_without_tags_is_an_empty_list(registry: FakeRegistry, tags: object) -> None:
    """distribution sends null after the last tag was deleted: Go's nil slice."""
    registry.misbehave("/tags/list", page(tags))
    assert list_app(registry) == ()


def test_link_back_to_the_first_page_ends(registry: FakeRegistry) -> None:
    registry.misbehave("/tags/list", page(["a"], '<?n=1000>; rel="next"'))
    with pytest.raises(RegistryError) as caught:
        list_app(registry)
    assert str(caught.value) == (
        f"tags of {registry.host}/team/app: GET http://{registry.host}/v2/team/app/tags/list?…: "
        "expected a last page, got a link to pages already read"
    )


def test_ever_new_links_to_the_same_tags_end(registry: FakeRegistry) -> None:
    for number in range(20):
        registry.misbehave("/tags/list", page(["a"], f'<?page={number}>; rel="next"'), times=1)
    with pytest.raises(RegistryError, match="expected a last page, got a link to pages already read"):
        list_app(registry)
    assert list_requests(registry) == 11


def test_unknown_repository_is_not_found(registry: FakeRegistry) -> None:
    with pytest.raises(RegistryNotFoundError) as caught:
        list_app(registry)
    assert str(caught.value) == (
        f"tags of {registry.host}/team/app: GET http://{registry.host}/v2/team/app/tags/list: "
        "404 Not Found: NAME_UNKNOWN: repository name not known to registry"
    )


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(status=405), "this registry does not seem to list tags; an image can still be pulled by its tag"),
        (
            Fault(status=404, body=b'{"errors":[{"code":"UNSUPPORTED"}]}'),
            "this registry does not seem to list tags; an image can still be pulled by its tag",
        ),
        (Fault(status=404), "check the spelling; the registry may also not support listing tags"),
    ],
)
def test_registry_without_lists_is_told_as_one(registry: FakeRegistry, fault: Fault, hint: str) -> None:
    registry.misbehave("/tags/list", fault)
    with pytest.raises(RegistryError) as caught:
        list_app(registry)
    assert caught.value.hint == hint


def test_token_for_pulling_is_asked_for(registry: FakeRegistry) -> None:
    """A list of tags is read with the same scope as an image."""
    names = serve_tags(registry, 3)
    registry.auth = "bearer"
    registry.tags_per_page = 1
    assert list_app(registry) == tuple(names)
    assert registry.paths().count("/token") == 1


def test_refusal_tells_how_to_log_in(registry: FakeRegistry) -> None:
    serve_tags(registry, 1)
    registry.auth, registry.users = "bearer", {"me": "secret"}
    with pytest.raises(AuthenticationError) as caught:
        list_app(registry)
    assert caught.value.hint == f"the registry requires credentials: log in with 'ociexport login {registry.host}'"


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"<html><body>Sign in</body></html>", "got HTML document"),
        (b'{"tags": "v1"}', "tags: expected a list, got a string"),
        (b'{"tags": [1]}', "tags[0]: expected a string, got an integer"),
        (b"[]", "expected a JSON object, got a list"),
        (b'{"errors": []}', "tags: missing"),
        (b"{}", "tags: missing"),
    ],
)
def test_what_is_no_list_is_said(registry: FakeRegistry, body: bytes, got: str) -> None:
    registry.misbehave("/tags/list", Fault(status=200, body=body))
    with pytest.raises(RegistryError, match="expected a list of tags, got another document") as caught:
        list_app(registry)
    assert got in str(caught.value)


def test_mirrors_are_not_asked(registry: FakeRegistry) -> None:
    """A mirror knows only the tags that were pulled through it."""
    names = serve_tags(registry, 3)
    with FakeRegistry() as mirror:
        options = RegistryOptions(mirrors=(Mirror(mirror.url),), retry_times=0)
        assert list_app(registry, options) == tuple(names)
        assert mirror.requests == []


def test_compressed_page_is_read(registry: FakeRegistry) -> None:
    names = serve_tags(registry, 3)
    registry.misbehave("/tags/list", Fault(headers={"Content-Encoding": "gzip"}, change=gzip.compress))
    assert list_app(registry) == tuple(names)


@pytest.mark.parametrize("name", ["team/app:1", "team/app@sha256:" + 64 * "0"])
def test_an_image_is_no_repository(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        list_names(f"registry.example/{name}")
    assert str(caught.value) == f"'registry.example/{name}': expected a repository, got an image in it"
    assert caught.value.hint == "ociexport tags registry.example/team/app lists all tags"
