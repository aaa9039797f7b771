"""Lists of tags and of referrers are whole, or an error: no page is left out in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing

import pytest

from ociexport.errors import InvalidImageError, OciexportError, RegistryError
from ociexport.images.budget import DocumentBudget
from ociexport.registry.options import Mirror, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference
from ociexport.transfer.sources.list_names import list_names
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source

SUBJECT = Digest.of(b"the image")
Lister = Callable[[FakeRegistry, RegistryOptions], list[str]]


def tags_page(name: str) -> Fault:
    return Fault(status=200, body=json.dumps({"tags": [name]}).encode())


def list_tags(registry: FakeRegistry, options: RegistryOptions) -> list[str]:
    return list(list_names(f"{registry.host}/app", options=options))


def referrers_page(name: str) -> Fault:
    entry = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(Digest.of(name.encode())), "size": 7}
    document = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [entry | {"annotations": {"name": name}}],
    }
    return Fault(status=200, body=json.dumps(document).encode(), headers={"Content-Type": mediatypes.OCI_INDEX})


def list_referrers(registry: FakeRegistry, options: RegistryOptions) -> list[str]:
    with closing(open_registry_source(ImageReference.parse(f"{registry.host}/app:1"), options=options)) as source:
        found = list(source.fetch_referrers(SUBJECT, DocumentBudget("app:1")))
    return [str(entry.annotations["name"]) for entry in found]


LISTS = pytest.mark.parametrize(
    ("path", "page", "read"),
    [("/tags/list", tags_page, list_tags), ("/referrers/", referrers_page, list_referrers)],
    ids=["tags", "referrers"],
)
NO_RETRIES = RegistryOptions(retry_times=0)


def with_link(page: Fault, *links: str) -> Fault:
    return Fault(status=page.status, body=page.body, headers={**page.headers, "Link": list(links)})


FOLLOWED = [
    ['</v2/app/list?last=a>; rel="next"'],
    ["<?last=a>;rel=next"],
    ["<?last=a>; REL=Next"],
    ['<?last=a>; rel = "next"'],
    ["<?last=a>; rel='next'"],
    ['<?last=a>; rel="prev NEXT"'],
    [r'<?last=a>; rel="ne\xt"'],
    ['<?last=a>; rel="next'],
    ['<?last=a>; title="a; b, <?last=z>; rel=last"; rel="next"'],
    [r'<?last=a>; title="a \"quoted\" =word="; rel="next"'],
    ['<?last=a>; crossorigin; rel="next"'],
    ['<?last=a>; flag=; rel="next"'],
    ['<?last=a>;; rel="next";'],
    ["<?last=a>; type=text/html; title*=UTF-8''a%20b; rel=next"],
    ['<?last=a;b,c>; rel="next"'],
    ['</v2/app/list?last=a&filter="x">; rel="next"'],
    ['<?last=z>; rel="prev", <?last=a>; rel="next"'],
    ['<?last=z>; rel="prev",<?last=a>; rel="next"'],
    [', ,<?last=a>; rel="next",'],
    ['<?last=a>; rel="next"; rel="prev"'],
    ['<?last=z>; rel="prev"; rel="next", <?last=a>; rel="next"'],
    ["</x>; rel=preload", '<?last=a>; rel="next"'],
    ["garbage <", '<?last=a>; rel="next"'],
    # No link of RFC 8288, but other clients follow them.
    ["<?last=a>"],
    ["<?last=a>; title=more"],
    ["/v2/app/list?last=a; rel=next"],
]


@LISTS
@pytest.mark.parametrize("links", FOLLOWED, ids=" | ".join)
def test_link_in_any_form_is_followed(
    registry: FakeRegistry, path: str, page: Callable[[str], Fault], read: Lister, links: list[str]
) -> None:
    registry.misbehave(path, page("b"), when=lambda request: request.query.get("last", [""])[0][:1] == "a")
    registry.misbehave(path, with_link(page("a"), *links), when=lambda request: "last" not in request.query)
    assert read(registry, NO_RETRIES) == ["a", "b"]


@LISTS
@pytest.mark.parametrize("link", ['</v2/app?x=1>; rel="prev"', "</style.css>; rel=preload; as=style", "", " , "])
def test_list_without_a_next_page_ends(
    registry: FakeRegistry, path: str, page: Callable[[str], Fault], read: Lister, link: str
) -> None:
    registry.misbehave(path, with_link(page("a"), link))
    assert read(registry, NO_RETRIES) == ["a"]


@LISTS
@pytest.mark.parametrize(
    ("link", "told"),
    [
        ('</v2/app/list/2>; rel="next"', "expected a link to the next page with a query, got '/v2/app/list/2'"),
        ('<>; rel="next"', "expected a link to the next page with a query, got ''"),
        ('</v2/app/list?#last=a>; rel="next"', "expected a link to the next page with a query, got '/v2/app/list"),
        ('</v2/app/list?last=a; rel="next"', "expected a Link header of RFC 8288, got '</v2/app/list'"),
        ('next="/v2/app/list"', "expected a Link header of RFC 8288, got 'next=\"/v2/app/list\"'"),
        ('</x>; rel=prev <?last=a>; rel="next"', "expected a Link header of RFC 8288, got '</x>; rel=prev <'"),
    ],
)
def test_page_that_can_not_be_followed_is_an_error(
    registry: FakeRegistry, path: str, page: Callable[[str], Fault], read: Lister, link: str, told: str
) -> None:
    registry.misbehave(path, with_link(page("a"), link))
    with pytest.raises(RegistryError) as caught:
        read(registry, NO_RETRIES)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint == "the list would end early; report this to the registry's operators"


@LISTS
@pytest.mark.parametrize("status", [400, 404, 405, 422, 500])
def test_refusal_of_the_second_page_is_an_error(
    registry: FakeRegistry, path: str, page: Callable[[str], Fault], read: Lister, status: int
) -> None:
    registry.misbehave(path, with_link(page("a"), '<?last=a>; rel="next"'), times=1)
    registry.misbehave(path, Fault(status=status))
    with pytest.raises(RegistryError, match=str(status)):
        read(registry, NO_RETRIES)


@LISTS
def test_second_page_that_is_no_page_is_an_error(
    registry: FakeRegistry, path: str, page: Callable[[str], Fault], read: Lister
) -> None:
    registry.misbehave(path, with_link(page("a"), '<?last=a>; rel="next"'), times=1)
    manifest = b'{"schemaVersion": 2, "config": {}, "layers": []}'
    registry.misbehave(path, Fault(status=200, body=manifest, headers={"Content-Type": mediatypes.OCI_MANIFEST}))
    with pytest.raises(OciexportError):
        read(registry, NO_RETRIES)


def test_manifest_is_no_page_of_referrers(registry: FakeRegistry) -> None:
    config = {"mediaType": mediatypes.OCI_CONFIG, "digest": str(SUBJECT), "size": 9}
    manifest = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": config, "layers": []}
    registry.misbehave("/referrers/", with_link(referrers_page("a"), '<?last=a>; rel="next"'), times=1)
    answer = Fault(status=200, body=json.dumps(manifest).encode(), headers={"Content-Type": mediatypes.OCI_MANIFEST})
    registry.misbehave("/referrers/", answer)
    with pytest.raises(InvalidImageError) as caught:
        list_referrers(registry, NO_RETRIES)
    assert str(caught.value) == (
        f"referrers of {SUBJECT}: expected a page of the list, which is an index, got a manifest"
    )


def test_pages_of_a_mirror_are_not_continued_elsewhere(registry: FakeRegistry) -> None:
    """Its link means nothing to the registry, which would begin or end its own list somewhere else."""
    registry.misbehave("/referrers/", referrers_page("c"))
    with FakeRegistry() as mirror:
        mirror.misbehave("/referrers/", with_link(referrers_page("a"), '<?last=a>; rel="next"'), times=1)
        mirror.misbehave("/referrers/", Fault(status=503))
        options = RegistryOptions(mirrors=(Mirror(mirror.url),), retry_times=0)
        with pytest.raises(RegistryError, match="503"):
            list_referrers(registry, options)
    assert registry.requests == []
