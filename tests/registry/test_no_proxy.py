"""NO_PROXY means here what it means to Go programs: docker, podman, skopeo and kubectl are told the same text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.registry.http.proxies import needs_no_proxy, proxies_for
from ociexport.registry.http.web_url import WebUrl

# Entry, URL, whether the connection is direct. Most are from Go's own tests (x/net/http/httpproxy).
GO = [
    ("foobar.com", "https://foobar.com/", True),
    ("foobar.com", "https://www.foobar.com/", True),
    ("foobar.com", "https://foofoobar.com/", False),
    ("foobar.com", "https://foobar.com.evil.example/", False),
    ("FooBar.COM", "https://foobar.com/", True),
    ("foobar.com", "https://FOOBAR.com./", True),
    ("localhost", "https://localhost.net/", False),
    (".barbaz.net", "https://www.barbaz.net/", True),
    (".barbaz.net", "https://a.b.barbaz.net/", True),
    (".barbaz.net", "https://barbaz.net/", False),
    (".barbaz.net", "https://barbarbaz.net/", False),
    ("*.wildcard.io", "https://nested.wildcard.io/", True),
    ("*.wildcard.io", "https://wildcard.io/", False),
    ("*.wildcard.io", "https://awildcard.io/", False),
    ("*wildcard.io", "https://awildcard.io/", False),
    ("w*.io", "https://wildcard.io/", False),
    ("corp", "https://registry.corp/", True),
    ("*", "https://anything.example/", True),
    ("*", "https://[2001:db8::1]:5000/", True),
    ("foobar.com:443", "https://foobar.com/", True),
    ("foobar.com:443", "http://foobar.com/", False),
    ("foobar.com:80", "http://www.foobar.com/", True),
    (".foobar.com:5000", "http://www.foobar.com:5000/", True),
    ("*.foobar.com:5000", "http://www.foobar.com:5001/", False),
    ("foobar.com:5000", "http://foobar.com:5000/", True),
    ("192.168.1.1", "http://192.168.1.1/", True),
    ("192.168.1.1", "http://192.168.1.10/", False),
    ("192.168.1.2:81", "http://192.168.1.2/", False),
    ("192.168.1.3:80", "http://192.168.1.3/", True),
    ("192.168.1.3:5000", "https://192.168.1.3:5000/", True),
    ("10.0.0.0/30", "http://10.0.0.2/", True),
    ("10.0.0.0/30", "http://10.0.0.4/", False),
    ("10.0.0.77/8", "https://10.200.0.4:5000/", True),
    ("10.0.0.0/8", "https://10.corp.example/", False),
    ("2001:db8::52:0:1", "http://[2001:db8::52:0:1]/", True),
    ("2001:db8:0:0::52:0:1", "http://[2001:DB8::52:0:1]/", True),
    ("[2001:db8::52:0:2]:443", "http://[2001:db8::52:0:2]/", False),
    ("[2001:db8::52:0:3]:80", "http://[2001:db8::52:0:3]/", True),
    ("2002:db8:a::45/64", "http://[2002:db8:a::123]/", True),
    ("2002:db8:a::45/64", "http://[2002:db8:b::123]/", False),
    ("2002:db8:a::45/64", "http://10.0.0.1/", False),
    ("10.0.0.1", "http://[::ffff:10.0.0.1]/", True),
    ("::ffff:10.0.0.0/104", "http://10.2.3.4/", True),
    (".示例.com", "http://www.xn--fsq092h.com/", True),
    ("xn--fsq092h.com", "http://www.示例.com/", True),
    (":1", "http://example.com:1/", False),
    ("foobar.com:", "https://foobar.com/", True),
    ("foobar.com:https", "https://foobar.com/", False),
    (".", "https://foobar.com/", False),
    ("*.", "https://foobar.com/", False),
    ("*.10.0.0.1", "https://10.0.0.1/", False),
    ("https://foobar.com", "https://foobar.com/", False),
]
BEYOND_GO = [
    ("[2001:db8::1]", "https://[2001:db8::1]/", True),
    ("foobar.com.", "https://foobar.com/", True),
    ("10.0.0.0/255.0.0.0", "https://10.2.3.4/", True),
    ("a.example b.example\tc.example", "https://b.example/", True),
]
ENTRIES = sorted({entry for entry, _, _ in GO + BEYOND_GO})
URLS = sorted({url for _, url, _ in GO})


@pytest.mark.parametrize(("no_proxy", "url", "is_direct"), GO + BEYOND_GO)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_entry_means_what_it_means_to_go(
    monkeypatch: pytest.MonkeyPatch, variable: str, no_proxy: str, url: str, is_direct: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv(variable, no_proxy)
    assert (proxies_for(WebUrl.parse(url)) == {}) is is_direct


@given(
    entries=st.lists(st.sampled_from(ENTRIES) | st.text("ab.*:/[]@%1é-", max_size=8), max_size=6),
    separator=st.sampled_from([",", ", ", " , ", ",,", " ", "\n"]),
    url=st.sampled_from(URLS),
)
def test_list_matches_what_one_of_its_entries_matches(entries: list[str], separator: str, url: str) -> None:
    """No entry, whatever it is, hides another."""
    parsed = WebUrl.parse(url)
    assert needs_no_proxy(parsed, separator.join(entries)) == any(needs_no_proxy(parsed, entry) for entry in entries)
