"""A secret that a server repeats in its error or its warning is not shown."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import OciexportError, RegistryError
from ociexport.registry.auth.challenges import basic_authorization
from ociexport.registry.client import RegistryClient
from ociexport.registry.http.echoes import secrets_of, without_echoes
from ociexport.registry.options import Credentials
from ociexport.registry.source import registry_source
from ociexport.spec import mediatypes
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.display import PlainProgress
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.wire_images import MANIFEST, image_source, wire_options

PASSWORD = "s3cr/t+pass word"
PAIR = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
ECHOES = {
    "password": PASSWORD,
    "pair": f"me:{PASSWORD}",
    "base64 of the pair": PAIR,
    "unpadded": PAIR.rstrip("="),
    "header": f"Basic {PAIR}",
    "base64 of the password": base64.b64encode(PASSWORD.encode()).decode(),
    "percent-encoded": quote(PASSWORD, safe=""),
}


def _bodies(echo: str) -> list[tuple[str, bytes]]:
    return [
        ("application/json", json.dumps({"errors": [{"code": f"X {echo}", "message": f"bad: {echo}!"}]}).encode()),
        ("application/json", json.dumps({"error": "x", "error_description": f"bad: {echo}!"}).encode()),
        ("application/json", json.dumps({"message": f"bad: {echo}!"}).encode()),
        ("text/plain", f"bad: {echo}!".encode()),
        ("application/xml", f"<Error><Code>{echo}</Code><Message>bad: {echo}!</Message></Error>".encode()),
    ]


def _refusal(registry: FakeRegistry, credentials: Credentials) -> tuple[str, OciexportError]:
    source = image_source(registry, credentials=credentials)
    with pytest.raises(RegistryError) as caught:
        source.fetch_manifest()
    source.close()
    return f"{caught.value} {caught.value.hint} {caught.value.codes}", caught.value


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_password_is_cut_from_each_form_of_an_error(name: str, form: int, auth: str) -> None:
    content_type, body = _bodies(ECHOES[name])[form]
    with FakeRegistry(auth=auth, users={"me": PASSWORD}) as registry:
        path = "/manifests/" if auth == "basic" else "/token"
        registry.misbehave(path, Fault(status=403, body=body, headers={"Content-Type": content_type}))
        shown, _ = _refusal(registry, Credentials("me", PASSWORD))
        assert "bad: " in shown
        assert "…!" in shown
        for echo in ECHOES.values():
            assert echo.rstrip("=") not in shown


def test_token_is_cut() -> None:
    with FakeRegistry(auth="bearer") as registry:
        registry.misbehave("/token", Fault(body=b'{"token": "very-secret-token"}'))
        body = b'{"message": "bad token very-secret-token"}'
        registry.misbehave("/manifests/", Fault(status=403, body=body))
        assert "403 Forbidden: bad token …" in _refusal(registry, Credentials())[0]


def test_identity_token_is_cut() -> None:
    with FakeRegistry(auth="bearer") as registry:
        body = b'{"error": "invalid_grant", "error_description": "refresh_token=very-secret is revoked"}'
        registry.misbehave("/token", Fault(status=400, body=body))
        shown, _ = _refusal(registry, Credentials(identity_token="very-secret"))
        assert "invalid_grant: refresh_token=… is revoked" in shown


def test_signature_of_a_storage_url_is_cut() -> None:
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry() as registry:
        location = f"{storage.url}/x?Expires=1&Signature=abcdef%2Fghijklm"
        registry.misbehave("/manifests/", Fault(status=307, headers={"Location": location}))
        body = b"<Error><Code>No</Code><Message>you sent abcdef/ghijklm or abcdef%2Fghijklm</Message></Error>"
        storage.misbehave("/x", Fault(status=403, body=body))
        assert "No: you sent … or …" in _refusal(registry, Credentials())[0]


def test_line_that_is_no_http_is_shown_without_the_secret() -> None:
    with FakeRegistry(auth="basic", users={"me": PASSWORD}) as registry:
        registry.misbehave("/manifests/", Fault(raw=f"no HTTP: {PAIR}\r\n\r\n".encode()))
        shown, error = _refusal(registry, Credentials("me", PASSWORD))
        assert "expected HTTP, got 'no HTTP: …'" in shown
        # Lines about retries and tracebacks show the causes.
        cause: BaseException | None = error
        while cause is not None:
            assert PAIR not in f"{cause!r} {cause}"
            cause = cause.__cause__ or cause.__context__


def test_warning_is_shown_without_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry(auth="basic", users={"me": PASSWORD}) as registry:
        registry.misbehave("/manifests/", Fault(headers={"Warning": f'299 - "you sent {PAIR}"'}))
        registry.add_manifest("library/app", "1.0", MANIFEST, mediatypes.OCI_MANIFEST)
        client = RegistryClient(wire_options(Credentials("me", PASSWORD)), PlainProgress())
        registry_source(client, ImageReference.parse(f"{registry.host}/library/app:1.0")).fetch_manifest()
        client.close()
        assert "says: you sent …" in capsys.readouterr().err


def test_short_password_is_cut_as_a_word_only() -> None:
    secrets = secrets_of(basic_authorization(Credentials("me", "app")), {}, None, "http://a/")
    assert without_echoes("repository library/apples: app, me:app", secrets) == "repository library/apples: …, …"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=20), st.text(max_size=20))
def test_no_form_of_a_password_is_left(password: str, around: str) -> None:
    credentials = Credentials("me", password)
    header = basic_authorization(credentials)
    secrets = secrets_of(header, {}, None, "http://a/")
    for echo in (password, header.partition(" ")[2], quote(password, safe="")):
        cut = without_echoes(f"<{echo}>", secrets)
        assert echo not in cut
    assert isinstance(without_echoes(around, secrets), str)
