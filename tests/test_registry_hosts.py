"""Where a registry is reached."""

from __future__ import annotations

import pytest

from ociexport.registry.hosts import endpoint_for
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions


@pytest.mark.parametrize(
    ("registry", "base_urls"),
    [
        ("docker.io", ("https://registry-1.docker.io",)),
        ("reg.example:8443", ("https://reg.example:8443",)),
        ("localhost:5000", ("http://localhost:5000", "https://localhost:5000")),
        ("127.0.0.2:5000", ("http://127.0.0.2:5000", "https://127.0.0.2:5000")),
        ("[::1]:5000", ("http://[::1]:5000", "https://[::1]:5000")),
        ("[2001:db8::1]", ("https://[2001:db8::1]",)),
        ("192.168.0.1:5000", ("https://192.168.0.1:5000",)),
    ],
)
def test_only_loopback_is_asked_in_plain_http(registry: str, base_urls: tuple[str, ...]) -> None:
    assert endpoint_for(registry, DEFAULT_OPTIONS).base_urls == base_urls


def test_plain_http_is_for_who_asks_for_it() -> None:
    assert endpoint_for("reg.example", RegistryOptions(plain_http=True)).base_urls == ("http://reg.example",)


def test_insecure_leaves_tls_unverified() -> None:
    assert not endpoint_for("reg.example", RegistryOptions(insecure=True)).tls.verify
    assert endpoint_for("reg.example", DEFAULT_OPTIONS).tls.verify
