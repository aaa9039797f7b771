"""URLs that a server names are sent as they came: a signature may cover the spelling of each escape."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import RegistryError
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference
from ociexport.transfer.sources.list_names import list_names
from tests.support.command import run_command
from tests.support.raw_server import RawImage, RawRequest, RawServer, answer, redirect
from tests.support.registry_image import open_registry_source

NO_RETRIES = RegistryOptions(retry_times=0, read_timeout_seconds=10)
BLOB = b"the layer"

# What a URL may contain after its host, and what is sent.
SPELLINGS = [
    ("/store/a%2fb?sig=a%2fb%3d", "/store/a%2fb?sig=a%2fb%3d"),
    ("/store/%7Ea/~b?hmac=a%7Eb&x=~", "/store/%7Ea/~b?hmac=a%7Eb&x=~"),
    ("/store/%C3%a9?a=%e4%B8%ad", "/store/%C3%a9?a=%e4%B8%ad"),
    ("/store/é中?a=é", "/store/%C3%A9%E4%B8%AD?a=%C3%A9"),
    ("/store/\udce9?a=\udcff%41", "/store/%E9?a=%FF%41"),
    ("/store/a b?a=b c%20d", "/store/a%20b?a=b%20c%20d"),
    ("/store/%25%2520%zz%?100%", "/store/%25%2520%zz%?100%"),
    ("//store//x?a=//", "//store//x?a=//"),
    ("/store/./x/../y?a=/../", "/store/./x/../y?a=/../"),
    ('/s"<>\\^`{|}[]/;p=1?a="<>\\^`{|}[]\'()*!$,;:@+', '/s"<>\\^`{|}[]/;p=1?a="<>\\^`{|}[]\'()*!$,;:@+'),
    ("?sig=1", "/?sig=1"),
    ("/store?", "/store?"),
    ("/store#part?a=1", "/store"),
    ("/store?a=1#part", "/store?a=1"),
    ("", "/"),
]  # fmt: skip
PARTS = [
    "/", "//", "/./", "/../", "?", "&", "=", "%2f", "%2F", "%7E", "%c3%A9", "%", "%%", "%2", "%zz", "+", " ", "é", "中",
    "😀", "\udcff", "\udc80", "a", "~", ".", "..", "'", '"', "<", ">", "\\", "^", "`", "{", "|", "}", "[", "]", "(",
    ")", "*", "!", "$", ",", ";", ":", "@", "-", "_", "http://other/",
]  # fmt: skip


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _expected(rest: str) -> bytes:
    """Another way to find what is sent: byte by byte."""
    sent = _raw(rest).split(b"#")[0]
    return b"".join(bytes([byte]) if 0x21 <= byte <= 0x7E else b"%%%02X" % byte for byte in sent)


def _get(url: str) -> WireRequest:
    return WireRequest("GET", WebUrl.parse(url), "it", document_bytes=100)


@pytest.fixture(name="transport")
def _transport() -> Iterator[Transport]:
    with closing(Transport(NO_RETRIES)) as transport:
        yield transport


@pytest.mark.parametrize(("rest", "sent"), SPELLINGS)
def test_redirect_is_followed_as_it_came(rest: str, sent: str, transport: Transport) -> None:
    with RawServer(
        lambda request: redirect(_raw(server.url + rest)) if request.target == b"/go" else answer()
    ) as server:
        transport.send(_get(f"{server.url}/go"))
        assert server.lines == [b"GET /go HTTP/1.1", f"GET {sent} HTTP/1.1".encode()]


@given(st.sampled_from(["/", "?", "//"]), st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.booleans())
@settings(deadline=None)
def test_any_redirect_is_followed_as_it_came(first: str, rest: str, is_whole: bool) -> None:
    # Blanks at the end of a header are not part of its value, and without the host "//" begins another one.
    rest = f"{'/' if first == '//' and not is_whole else first}{rest}z"
    if not is_whole:
        rest = "/" + rest.lstrip("/?")

    def answering(request: RawRequest) -> bytes:
        return redirect(_raw((server.url if is_whole else "") + rest)) if request.target == b"/go" else answer()

    with RawServer(answering) as server, closing(Transport(NO_RETRIES)) as transport:
        transport.send(_get(f"{server.url}/go"))
        expected = _expected(rest if rest.startswith("/") else f"/{rest}")
        assert [request.target for request in server.requests] == [b"/go", expected]


@pytest.mark.parametrize(("rest", "sent"), SPELLINGS)
def test_through_a_proxy_too(rest: str, sent: str, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(request: RawRequest) -> bytes:
        is_first = request.target == b"http://registry.example/go"
        return redirect(b"http://store.example:81" + _raw(rest)) if is_first else answer()

    with RawServer(answering) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        transport.send(_get("http://registry.example/go"))
        assert proxy.lines[1] == f"GET http://store.example:81{sent} HTTP/1.1".encode()
        assert b"Host: store.example:81" in proxy.requests[1].head


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("x%2fy?a=%7E", b"/v2/app/x%2fy?a=%7E"),
        ("./x/../y", b"/v2/app/y"),
        ("../../../x", b"/x"),
        ("..", b"/v2/"),
        ("x/.", b"/v2/app/x/"),
        ("é?./..", b"/v2/app/%C3%A9?./.."),
        ("?a=%2f/../", b"/v2/app/go?a=%2f/../"),
        ("/x/../y", b"/x/../y"),
        ("//HOST/x//../y?", b"/x//../y?"),
        ("HTTP://HOST/x", b"/x"),
        ("a//b", b"/v2/app/a//b"),
    ],
)
def test_relative_redirects_are_resolved(location: str, sent: bytes, transport: Transport) -> None:
    """RFC 3986 5.2: dot segments go where paths are joined, and stay where the path came whole."""

    def answering(request: RawRequest) -> bytes:
        is_first = request.target == b"/v2/app/go?b=1"
        return redirect(_raw(location.replace("HOST", server.host))) if is_first else answer()

    with RawServer(answering) as server:
        transport.send(_get(f"{server.url}/v2/app/go?b=1"))
        assert server.requests[1].target == sent


def test_first_of_several_locations_is_followed(transport: Transport) -> None:
    """As in Go; joined by a comma they would be another URL."""
    both = answer(b"", b"Location: /a%2f", b"Location: /b", status=b"302 Found")
    with RawServer(lambda request: both if request.target == b"/go" else answer()) as server:
        transport.send(_get(f"{server.url}/go"))
        assert server.requests[1].target == b"/a%2f"


@pytest.mark.parametrize(
    "location",
    [
        b"http://127.0.0.1\\@HOST/x",
        b"http://user@HOST/x",
        b"http:/HOST/x",
        b"http:HOST/x",
        b"http://HOST\x0b/x",
        b"/x\x01y",
        b"/x\x7fy",
        b"/x\x00y",
        b"/x\ry",
        b"http://\xff.example/",
        b"gopher://HOST/x",
    ],
)
def test_redirect_that_is_no_plain_url_is_refused(location: bytes, transport: Transport) -> None:
    with RawServer(lambda request: redirect(location.replace(b"HOST", server.host.encode()))) as server:
        with pytest.raises(RegistryError, match="expected a redirect to http or https and a plain host") as caught:
            transport.send(_get(f"{server.url}/go"))
        assert len(server.requests) == 1
        assert str(caught.value).isprintable()


def test_name_in_another_script_is_looked_up_as_it_is_written(transport: Transport) -> None:
    with (
        RawServer(lambda request: redirect("http://bücher.invalid/x".encode())) as server,
        pytest.raises(RegistryError, match=r"http://xn--bcher-kva\.invalid/x"),
    ):
        transport.send(_get(f"{server.url}/go"))


@pytest.mark.parametrize(("rest", "sent"), SPELLINGS)
def test_foreign_urls_are_sent_as_they_came(rest: str, sent: str) -> None:
    with RawServer(lambda request: answer(BLOB)) as store:

        def answering(request: RawRequest) -> bytes:
            return answer(b"", status=b"404 Not Found") if b"/blobs/" in request.target else answer()

        with RawServer(answering) as registry:
            # In JSON the text is Unicode: a byte that is not UTF-8 can't come.
            urls = (store.url + rest.replace("\udce9", "%E9").replace("\udcff", "%FF"),)
            layer = Descriptor(mediatypes.DOCKER_FOREIGN_LAYER_GZIP, Digest.of(BLOB), len(BLOB), urls=urls)
            options = RegistryOptions(retry_times=0, foreign=True)
            with closing(
                open_registry_source(ImageReference.parse(f"{registry.host}/app:1"), options=options)
            ) as source:
                assert source.open_blob(layer).read(100) == BLOB
        assert store.requests[0].target == sent.encode()


@pytest.mark.parametrize(
    ("realm", "sent"),
    [
        ("/token?tenant=a%2fb%7E", "/token?tenant=a%2fb%7E&"),
        ("/token?empty=&flag&a=1+2", "/token?empty=&flag&a=1+2&"),
        ("/to%2fken", "/to%2fken?"),
        ("/token?", "/token?"),
        ("/token?a=é#part", "/token?a=%C3%A9&"),
        ("/token?a=\udcff", "/token?a=%FF&"),
    ],
)
def test_realm_keeps_its_own_query(realm: str, sent: str) -> None:
    def answering(request: RawRequest) -> bytes:
        if request.target.startswith(b"/to"):
            return answer(b'{"token": "t"}')
        if b"Authorization: Bearer t" in request.head:
            return answer(b'{"tags": ["1"]}')
        challenge = f'Bearer realm="{server.url}{realm}",service="é\udcff"'
        return answer(b"", b"WWW-Authenticate: " + _raw(challenge), status=b"401 Unauthorized")

    with RawServer(answering) as server:
        assert list(list_names(f"{server.host}/app", options=NO_RETRIES)) == ["1"]
        asked = [request.target for request in server.requests if request.target.startswith(b"/to")]
        assert asked == [f"{sent}service=%C3%A9%FF&scope=repository%3Aapp%3Apull".encode()]


def test_realm_that_gets_a_post_keeps_its_own_query() -> None:
    def answering(request: RawRequest) -> bytes:
        if request.line.startswith(b"POST"):
            return answer(b'{"token": "t"}')
        if b"Authorization: Bearer t" in request.head:
            return answer(b'{"tags": ["1"]}')
        challenge = f'Bearer realm="{server.url}/token?a=%2f%7E"'.encode()
        return answer(b"", b"WWW-Authenticate: " + challenge, status=b"401 Unauthorized")

    options = RegistryOptions(retry_times=0, credentials=Credentials(identity_token="refresh"))
    with RawServer(answering) as server:
        list(list_names(f"{server.host}/app", options=options))
        assert [line for line in server.lines if line.startswith(b"POST")] == [b"POST /token?a=%2f%7E HTTP/1.1"]


@pytest.mark.parametrize(
    ("query", "sent"),
    [("last=a%2fb%7E&n=2", "last=a%2fb%7E&n=2"), ("last=é中", "last=%C3%A9%E4%B8%AD"), ("last=a b", "last=a%20b")],
)
def test_link_to_the_next_page_is_followed_as_it_came(query: str, sent: str) -> None:
    def answering(request: RawRequest) -> bytes:
        if b"last=" in request.target:
            return answer(b'{"tags": ["2"]}')
        return answer(b'{"tags": ["1"]}', b"Link: <" + _raw(f"/v2/app/tags/list?{query}") + b'>; rel="next"')

    with RawServer(answering) as server:
        assert list(list_names(f"{server.host}/app", options=NO_RETRIES)) == ["1", "2"]
        assert server.requests[-1].target == f"/v2/app/tags/list?{sent}".encode()


def test_link_with_a_control_character_is_named() -> None:
    page = answer(b'{"tags": ["1"]}', b'Link: </v2/app/tags/list?a=\x01>; rel="next"')
    told = r"tags of .*: GET .*: expected a link to the next page with a query"
    with RawServer(lambda request: page) as server, pytest.raises(RegistryError, match=told):
        list(list_names(f"{server.host}/app", options=NO_RETRIES))


@pytest.mark.parametrize("secret", ["very-secret'very-secret", 'very-secret")very-secret', "very-secret>\\very-secret"])
@pytest.mark.parametrize("refusal", [answer(b"", status=b"403 Forbidden"), None])
def test_signed_query_of_any_spelling_is_in_no_message_and_no_log(
    secret: str, refusal: bytes | None, caplog: pytest.LogCaptureFixture, transport: Transport
) -> None:
    """urllib3 logs each request, and its errors name the URL."""

    def answering(request: RawRequest) -> bytes | None:
        is_first = request.target == b"/go"
        return redirect(_raw(f"{server.url}/store/é\x85?sig={secret}")) if is_first else refusal

    with RawServer(answering) as server, caplog.at_level(logging.DEBUG):
        with pytest.raises(RegistryError) as caught:
            transport.send(_get(f"{server.url}/go"))
        assert f"GET {server.url}/store/é\\x85?…: " in str(caught.value)
        assert str(caught.value).isprintable()
        assert "very-secret" not in "".join(map(str, [caught.value, caught.value.__cause__, caught.value.hint]))
        assert server.requests[1].target == f"/store/%C3%A9%C2%85?sig={secret}".encode()
    assert '"GET /go HTTP/1.1" 307' in caplog.text
    assert "very-secret" not in caplog.text


def test_command_pulls_from_storage_that_signs_each_byte(tmp_path: Path) -> None:
    image = RawImage.of(bytes(10240))
    signed = b"?X-Amz-Credential=a%2fb&sig=%7E~%3d+{x|y}"

    def answering(request: RawRequest) -> bytes:
        if b"/blobs/" in request.target:
            digest = request.target.rpartition(b"/")[2]
            return redirect(b"/st%6Fre//./\xc3\xa9/" + digest + signed)
        is_signed = request.target.startswith(b"/st%6Fre//./%C3%A9/sha256:") and request.target.endswith(signed)
        if b"sha256:" in request.target and b"/manifests/" not in request.target and not is_signed:
            return answer(b"<Error><Code>SignatureDoesNotMatch</Code></Error>", status=b"403 Forbidden")
        return image.answer(request)

    with RawServer(answering) as server:
        ended = run_command("pull", "-q", f"{server.host}/app:1", "--out", tmp_path / "image", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    index = json.loads((tmp_path / "image" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == str(Digest.of(image.manifest))
