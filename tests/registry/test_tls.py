"""Registries over TLS: which certificates are trusted, and which server gets a client certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ociexport.errors import TransferError
from ociexport.registry.options import Mirror
from tests.registry.test_mirrors import BLOB, MANIFEST, fill, mirrored_source, read_all
from tests.support.fake_registry import FakeRegistry
from tests.support.tls import Authority


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
    # With TLS 1.3 the refusal comes after the handshake, and may be lost when it crosses with our request.
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
            "the server may require a client certificate: --cert-dir DIR, with NAME.cert and NAME.key in it"
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
        image = f"{registry.host}/library/app:1.0"
    assert capsys.readouterr().err.splitlines() == [
        f"ociexport: skipping mirror {registry.host}: image {image}: "
        f"GET https://{registry.host}/v2/library/app/manifests/1.0?…: TLS failed: wrong version number"
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


# Which authorities and certificates apply to which host


def test_own_authority_is_believed_for_every_host_of_a_pull(tmp_path: Path) -> None:
    """The token service and the storage of a private registry have certificates of the same private authority."""
    authority = Authority.new(tmp_path)
    with (
        FakeRegistry(tls=authority.server_context("127.0.0.2"), address="127.0.0.2") as storage,
        FakeRegistry(auth="bearer", tls=authority.server_context(), redirect_to=storage) as registry,
    ):
        fill(registry)
        # The same server under another name counts as another host.
        registry.realm = f"{registry.url.replace('127.0.0.1', 'localhost')}/token"
        with mirrored_source(registry, ca_file=authority.ca_file) as source:
            assert read_all(source) == BLOB
        assert [path for path in registry.paths() if path.startswith("/token")]
        assert storage.paths()


@pytest.mark.parametrize("option", ["insecure", "cert_dir"])
def test_what_is_for_the_registry_does_not_hold_for_its_storage(tmp_path: Path, option: str) -> None:
    """Neither --insecure nor --cert-dir applies: the hint names the host that failed, and what helps there."""
    authority = Authority.new(tmp_path)
    with (
        FakeRegistry(tls=authority.server_context("127.0.0.2"), address="127.0.0.2") as storage,
        FakeRegistry(tls=authority.server_context(), redirect_to=storage) as registry,
    ):
        fill(registry)
        options = {"insecure": True} if option == "insecure" else {"cert_dir": tmp_path}
        with mirrored_source(registry, **options) as source, pytest.raises(TransferError) as caught:
            read_all(source)
        assert caught.value.hint == (
            f"if you trust the issuer of {storage.host}'s certificate, give the issuer's certificate with --cacert FILE"
        )
        assert storage.requests == []


def test_client_certificate_is_not_shown_to_the_storage(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    context = _wanting_a_client(authority)
    with (
        FakeRegistry(tls=context, address="127.0.0.1") as storage,
        FakeRegistry(tls=authority.server_context(wants_client=True), redirect_to=storage) as registry,
    ):
        fill(registry)
        options = {"ca_file": authority.ca_file, "cert_dir": tmp_path}
        with mirrored_source(registry, **options) as source, pytest.raises(TransferError, match="handshake failure"):
            read_all(source)
        assert registry.requests
        assert storage.requests == []


def test_token_service_that_is_not_believed_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority.new(tmp_path), Authority.new(tmp_path / "other")
    with (
        FakeRegistry(tls=other.server_context("127.0.0.3"), address="127.0.0.3") as tokens,
        FakeRegistry(auth="bearer", tls=authority.server_context()) as registry,
    ):
        registry.realm = f"{tokens.url}/token"
        with mirrored_source(registry, ca_file=authority.ca_file) as source, pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        assert "misconfigured" not in str(caught.value)
        assert (caught.value.hint or "").startswith(f"if you trust the issuer of {tokens.host}'s certificate, ")


def test_authorities_are_read_once_for_all_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading those of the system takes longer than a small image, and the storage is verified as the registry is."""
    authority = Authority.new(tmp_path)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    reads: list[int] = []
    load = ssl.SSLContext.load_default_certs

    def counted(context: ssl.SSLContext) -> None:
        reads.append(1)
        load(context)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", counted)
    with (
        FakeRegistry(tls=authority.server_context("127.0.0.2"), address="127.0.0.2") as storage,
        FakeRegistry(auth="bearer", tls=authority.server_context(), redirect_to=storage) as registry,
    ):
        fill(registry)
        with mirrored_source(registry, ca_file=authority.ca_file) as source:
            assert read_all(source) == BLOB
    assert len(reads) == 1
