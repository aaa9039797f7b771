"""A refusal is shown in the server's own words, with a hint that fits the server that refused."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from ociexport.errors import AuthenticationError, RegistryError
from ociexport.registry.client import RegistryClient
from ociexport.registry.http.error_bodies import explain_body
from ociexport.registry.options import Credentials
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.wire_images import USER, blob_in, image_source, read_all, wire_options

S3 = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message>'
    b"<X-Amz-Expires>1200</X-Amz-Expires><RequestId>4442587FB7D0A2F9</RequestId></Error>"
)
AZURE = (
    b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code><Message>Signature did '
    b"not match.\nTime:2026</Message></Error>"
)


@pytest.mark.parametrize(
    ("body", "text", "codes"),
    [
        (S3, "AccessDenied: Request has expired", ("AccessDenied",)),
        (S3[:-30], "AccessDenied: Request has expired", ("AccessDenied",)),
        (AZURE, "AuthenticationFailed: Signature did not match. Time:2026", ("AuthenticationFailed",)),
        (b"<Error><Code>A&amp;B</Code></Error>", "A&B", ("A&B",)),
        (b"<Error><Message>why</Message></Error>", "why", ()),
        (b"<Error/>", "with ", ()),
        (b"<Error></Error>", "", ()),
        (
            b'{"error": "invalid_grant", "error_description": "the token is revoked"}',
            "invalid_grant: the token is rev",
            (),
        ),
        (b'{"error_description": "revoked"}', "revoked", ()),
        (b'{"error": "unauthorized"}', "unauthorized", ()),
        (b'{"message": "no"}', "no", ()),
        (b'{"errors": [{"code": "DENIED", "message": "no"}]}', "DENIED: no", ("DENIED",)),
    ],
)
def test_own_words_of_the_server(body: bytes, text: str, codes: tuple[str, ...]) -> None:
    explanation = explain_body("", body)
    assert explanation.text.startswith(text)
    assert explanation.codes == codes


def refusal_of_blob(registry: FakeRegistry, credentials: Credentials | None) -> RegistryError:
    with closing(image_source(registry, credentials=credentials)) as source, pytest.raises(RegistryError) as caught:
        read_all(source, blob_in(registry))
    return caught.value


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("body", [S3, AZURE, b""])
@pytest.mark.parametrize("credentials", [None, USER])
def test_storage_that_refuses_is_no_reason_to_log_in(status: int, body: bytes, credentials: Credentials | None) -> None:
    users = {"user": "pass:word"} if credentials else None
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(auth="bearer", users=users) as registry:
        registry.redirect_to = storage
        storage.misbehave("/storage/", Fault(status=status, body=body))
        refusal = refusal_of_blob(registry, credentials)
        assert ("Request has expired" in str(refusal)) is (body == S3)
        assert ("storage that the registry sent us to" in str(refusal.hint)) is bool(body)
        assert ("the registry redirected to this server" in str(refusal.hint)) is (not body)
        assert "log in" not in str(refusal.hint)
        assert "user" not in str(refusal.hint)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("credentials", [None, USER])
def test_storage_on_the_registrys_own_server_is_no_reason_to_log_in(
    status: int, credentials: Credentials | None
) -> None:
    users = {"user": "pass:word"} if credentials else None
    with FakeRegistry(auth="bearer", users=users) as registry:
        registry.redirect_to = registry
        registry.misbehave("/storage/", Fault(status=status, body=S3))
        refusal = refusal_of_blob(registry, credentials)
        assert "Request has expired" in str(refusal)
        assert "log in" not in str(refusal.hint)
        assert "user" not in str(refusal.hint)


def test_token_service_describes_its_error() -> None:
    with FakeRegistry(auth="bearer") as registry:
        body = json.dumps({"error": "invalid_grant", "error_description": "the\u202eaccount is locked"}).encode()
        registry.misbehave("/token", Fault(status=400, body=body))
        source = image_source(registry)
        with pytest.raises(RegistryError) as caught:
            source.fetch_manifest()
        source.close()
        assert str(caught.value).endswith("400 Bad Request: invalid_grant: the\\u202eaccount is locked")


@pytest.mark.parametrize(
    ("header", "offered"),
    [
        ("Negotiate", "'negotiate'"),
        (["Negotiate", 'Digest realm="x"', "Negotiate"], "'negotiate', 'digest'"),
        (None, "none"),
        ("", "none"),
        ('="', "none"),
    ],
)
def test_refusal_without_usable_challenge_names_the_schemes(header: str | list[str] | None, offered: str) -> None:
    expected = f"; expected a challenge with the scheme Basic or Bearer, got {offered}"
    with FakeRegistry() as registry:
        registry.misbehave("/v2/", Fault(status=401, headers={"WWW-Authenticate": header}))
        source = image_source(registry, credentials=USER)
        with pytest.raises(AuthenticationError) as caught:
            source.fetch_manifest()
        source.close()
        assert str(caught.value).endswith(expected)
        assert "log in" not in str(caught.value.hint)
        client = RegistryClient(wire_options(USER))
        with pytest.raises(AuthenticationError) as caught:
            client.verify_login(registry.host)
        client.close()
        assert str(caught.value).endswith(expected)
        assert "password" not in str(caught.value.hint)
