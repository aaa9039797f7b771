"""URLs from outside: the host that is approved is the host that is contacted."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from ociexport.registry.hosts.certificates import DEFAULT_TLS
from ociexport.registry.http.connections import Adapter, OpenSockets, prepare
from ociexport.registry.http.sent_url import SentUrl
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl

HOME = WebUrl.parse("https://registry.example/v2/app/manifests/1")

# Texts in which parsers find different hosts.
PARTS = [
    "127.0.0.1", "192.0.2.10", "localhost", "[::1]", "a.example", "%31", "@", ":", "/", "\\", "?", "#", ";", "&", "\t",
    "\n", "\r", " ", "\x0b", "\x00", "\u3002", "\uff0e", "\u2100", "\uff0f", "\uff20", "\xad", "%40", "%2f", "%5c", ".",
    "..", "80", "0", "[", "]", "|", "^", "`", "{", "$", "'", '"', "<", "u", "\ud800", "\xa0", "\u200b", "0x7f.1",
    "2130706433", "xn--", "\u0661", "%00", "b\xfccher.example", "\xdf", "[::ffff:127.0.0.1]", "[fe80::1%25lo]",
]  # fmt: skip
SCHEMES = ["https://", "http://", "//", "https:", "https:/", "https:///", "HTTPS://", "/"]


@pytest.mark.parametrize(
    "text",
    [
        "https://127.0.0.1\\@registry.example/x",
        "https://127.0.0.1\\x",
        "https://%31%32%37.0.0.1/x",
        "https://%6cocalhost/x",
        "https://user@registry.example/x",
        "https://user:pass@registry.example/x",
        "https://@registry.example/x",
        "https://[fe80::1%25lo]/",
        "https://a..b/",
        "https://.../",
        "https:///x",
        "https:/x",
        "https://a b/",
        "https://a\tb/",
        "https://a/\r\nX: y",
        "https://a\ud800/",
        "https://\u2100.example/",
        "https://127\u30020\u30020\u30021/",
        "https://a:0/",
        "https://a:65536/",
        "https://a:\u0661/",
        "https://[::1]x/",
        "ftp://a/",
        "a.example/x",
        "",
    ],
)
def test_url_whose_host_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrlError):
        WebUrl.parse(text)
    # A reference without a host is a path.
    if text.startswith("https://") and not text.startswith("https:///"):
        with pytest.raises(InvalidUrlError):
            HOME.join(text)
        with pytest.raises(InvalidUrlError):
            HOME.join(text.removeprefix("https:"))


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("https://Registry.Example./x", "https://registry.example/x"),
        ("HTTP://localhost.:5000", "http://localhost:5000"),
        ("https://[::1]:5000/x", "https://[::1]:5000/x"),
        ("https://my_registry:5000/", "https://my_registry:5000/"),
        ("https://b\xfccher.example/", "https://xn--bcher-kva.example/"),
        ("https://a.example:/x", "https://a.example/x"),
        ("https://a.example/A%2fb%7E?sig=a%2Fb&c=\\@", "https://a.example/A%2fb%7E?sig=a%2Fb&c=\\@"),
    ],
)
def test_host_is_canonical_and_the_rest_stays_as_it_came(text: str, sent: str) -> None:
    assert str(WebUrl.parse(text)) == sent


LABELS = ["a", "Registry", "0x7F", "127", "0", "xn--bcher-kva", "my_registry", "-", "a-", ""]
PORTS = ["", ":", ":0", ":1", ":80", ":080", ":443", ":65535", ":65536", ":99999", ":100000"]


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join), st.sampled_from(PORTS))
def test_plain_host_is_what_the_parser_of_urllib3_would_find(host: str, port: str) -> None:
    """A plain host is not given to that parser."""
    try:
        url = WebUrl.parse(f"http://{host}{port}/A%2fb")
    except InvalidUrlError:
        return
    dialled = parse_url(f"http://{host}{port}/")
    assert (url.host, url.port) == ((dialled.host or "").lower().removesuffix("."), dialled.port)


@given(st.sampled_from(SCHEMES), st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join))
def test_host_that_is_judged_is_the_host_that_is_dialled(scheme: str, rest: str) -> None:
    """urlsplit and urllib3 find the host of `WebUrl` in the sent URL, and the connection is made to it."""
    try:
        url = HOME.join(scheme + rest)
    except InvalidUrlError:
        return
    request = prepare("GET", url)
    assert request.url is not None
    port = url.actual_port
    # What a proxy that forwards the request reads, and what urllib3 reads for it.
    for_proxy = SentUrl(url, is_absolute=True)
    for sent in (request.url, for_proxy.target, for_proxy):
        read, dialled = urlsplit(sent), parse_url(sent)
        assert (read.hostname, read.port or port, read.username) == (url.host, port, None)
        assert ((dialled.host or "").strip("[]"), dialled.port or port, dialled.auth) == (url.host, port, None)
    adapter = Adapter(DEFAULT_TLS, OpenSockets(1))
    # A real context would read all authorities, which is slow.
    adapter.__dict__["_context"] = None
    pool = adapter.get_connection_with_tls_context(request, True)
    assert isinstance(pool, urllib3.HTTPConnectionPool)
    connection = pool._new_conn()
    assert (connection.host.strip("[]"), connection.port) == (url.host, port)
    adapter.close()
