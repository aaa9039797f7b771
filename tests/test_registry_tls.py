"""Registries over TLS: whose certificates are believed, and what is shown to whom."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ociexport.errors import TransferError
from ociexport.registry.options import Mirror
from tests.fake_registry import FakeRegistry
from tests.test_registry_mirrors import BLOB, MANIFEST, fill, mirrored_source, read_all
from tests.tls import Authority


def test_own_authority_is_believed(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as registry:
        fill(registry)
        with mirrored_source(registry, ca_file=authority.ca_file) as source:
            assert source.fetch_manifest().raw == MANIFEST
            assert read_all(source) == BLOB


def test_any_certificate_is_believed_when_told_so(tmp_path: Path) -> None:
    with FakeRegistry(tls=Authority.new(tmp_path).server_context("other.example")) as registry:
        fill(registry)
        with mirrored_source(registry, insecure=True) as source:
            assert source.fetch_manifest().raw == MANIFEST


def test_client_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context(wants_client=True)) as registry:
        fill(registry)
        directory = tmp_path / registry.host
        directory.mkdir()
        for name in ("ca.crt", "client.cert", "client.key"):
            (directory / name).write_bytes((tmp_path / name).read_bytes())
        with mirrored_source(registry, certs_dirs=(tmp_path,)) as source:
            assert source.fetch_manifest().raw == MANIFEST


def _wanting_a_client(authority: Authority) -> ssl.SSLContext:
    context = authority.server_context(wants_client=True)
    # With 1.3 the refusal comes after the greeting, and may cross with our request and be lost.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_client_certificate_that_is_missing_is_told(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=_wanting_a_client(authority)) as registry:
        with mirrored_source(registry, ca_file=authority.ca_file) as source, pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        assert str(caught.value) == (
            f"registry {registry.host}: GET {registry.url}/v2/: TLS failed: sslv3 alert handshake failure"
        )
        assert caught.value.hint == (
            "the server may want a client certificate: --cert-dir DIR, with NAME.cert and NAME.key in it"
        )


def test_client_certificate_that_is_refused_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    authority = Authority.new(tmp_path)
    Authority.new(tmp_path / "other")
    with FakeRegistry(tls=_wanting_a_client(authority)) as registry:
        options = {"ca_file": authority.ca_file, "cert_dir": tmp_path / "other"}
        with mirrored_source(registry, **options) as source, pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        assert str(caught.value) == (
            f"registry {registry.host}: GET {registry.url}/v2/: TLS failed: tlsv1 alert unknown ca"
        )
        assert caught.value.hint == (
            "the server does not accept the client certificate, which is from --cert-dir or a certs.d directory"
        )
    assert capsys.readouterr().err == ""


def test_plain_http_where_tls_was_expected_is_told_at_once(
    registry_elsewhere: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeRegistry() as registry:
        mirror = Mirror(f"https://{registry.host}")
        with mirrored_source(registry, mirrors=(mirror,)) as source:
            fill(registry)
            assert source.fetch_manifest().raw == MANIFEST
    assert capsys.readouterr().err.splitlines() == [
        f"ociexport: mirror {registry.host} is passed over: registry {registry.host}: "
        f"GET https://{registry.host}/v2/: TLS failed: wrong version number"
    ]


def test_name_that_the_certificate_is_not_for_is_refused(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context("other.example")) as registry:
        with mirrored_source(registry, ca_file=authority.ca_file) as source, pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        assert str(caught.value) == (
            f"registry {registry.host}: GET {registry.url}/v2/: the TLS certificate can't be verified: "
            "IP address mismatch, certificate is not valid for '127.0.0.1'. (issued by Example Org)"
        )


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_authorities_of_the_environment_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """PAINS 19."""
    authority = Authority.new(tmp_path)
    monkeypatch.setenv(variable, str(authority.ca_file))
    with FakeRegistry(tls=authority.server_context()) as registry:
        fill(registry)
        with mirrored_source(registry) as source:
            assert source.fetch_manifest().raw == MANIFEST


def test_authorization_is_not_sent_from_https_to_http(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with (
        FakeRegistry() as storage,
        FakeRegistry(auth="bearer", tls=authority.server_context(), redirect_to=storage) as registry,
    ):
        fill(registry)
        with mirrored_source(registry, ca_file=authority.ca_file) as source:
            assert read_all(source) == BLOB
        assert "authorization" not in storage.requests[0].headers


def test_ipv6_registry_is_reached() -> None:
    with FakeRegistry(address="::1") as registry:
        fill(registry)
        with mirrored_source(registry) as source:
            assert read_all(source) == BLOB
