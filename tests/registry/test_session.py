"""session: credentials when they are requested, tokens, and the messages about a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.errors import AuthenticationError, RegistryError, RegistryNotFoundError
from ociexport.registry.client import RegistryClient
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.registry.source import registry_source
from ociexport.spec import mediatypes
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source
from tests.support.tls import Authority

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
USERS = {"user": "pass"}


def _fetch(registry: FakeRegistry, tag: str = "1.0", **options: object) -> bytes:
    registry.add_manifest("library/app", "1.0", MANIFEST, mediatypes.OCI_MANIFEST)
    reference = ImageReference.parse(f"{registry.host}/library/app:{tag}")
    settings = RegistryOptions(retry_delay_seconds=0, **options)  # type: ignore[arg-type]
    source = open_registry_source(reference, options=settings)
    try:
        return source.fetch_manifest().raw
    finally:
        source.close()


def _authfile(directory: Path, content: object) -> Path:
    path = directory / "auth.json"
    path.write_text(json.dumps(content))
    return path


def test_credentials_of_a_file_are_used(tmp_path: Path) -> None:
    with FakeRegistry(auth="bearer", users=USERS) as registry:
        auths = {registry.host: {"auth": "dXNlcjpwYXNz"}}
        assert _fetch(registry, authfile=_authfile(tmp_path, {"auths": auths})) == MANIFEST


def test_helper_is_not_run_for_a_registry_that_does_not_ask(tmp_path: Path) -> None:
    """A config.json from a desktop may name helpers that a container lacks."""
    authfile = _authfile(tmp_path, {"credsStore": "none-such"})
    with FakeRegistry() as registry:
        assert _fetch(registry, authfile=authfile) == MANIFEST
    with FakeRegistry(auth="bearer") as registry, pytest.raises(AuthenticationError) as caught:
        _fetch(registry, authfile=authfile)
    assert str(caught.value).startswith(f"{authfile}: credential helper docker-credential-none-such: ")


@pytest.mark.parametrize("knows_post", [True, False])
def test_identity_token_is_exchanged(knows_post: bool) -> None:
    """distribution, "OAuth2 Token Authentication"; services without it take a GET."""
    with FakeRegistry(auth="bearer", users={"<token>": "refresh"}) as registry:
        registry.refresh_tokens["refresh"] = "user"
        if not knows_post:
            registry.misbehave("/token", Fault(status=405), method="POST")
        assert _fetch(registry, credentials=Credentials(identity_token="refresh")) == MANIFEST
        methods = [request.method for request in registry.requests if request.path == "/token"]
        assert methods == (["POST"] if knows_post else ["POST", "GET"])


def test_scope_of_the_challenge_is_asked_for() -> None:
    """Some registries use other repository names than their clients."""
    with FakeRegistry(auth="bearer") as registry:
        challenge = f'Bearer realm="{registry.url}/token",service="s",scope="repository:tenant/app:pull"'
        registry.service = "s"
        registry.misbehave("/manifests/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        with pytest.raises(AuthenticationError):
            _fetch(registry)
        scopes = {tuple(request.query["scope"]) for request in registry.requests if request.path == "/token"}
        assert scopes == {("repository:tenant/app:pull",)}


def test_tokens_are_kept_for_each_repository_and_registry() -> None:
    """A token is for a service and a scope; it is fetched once for any number of requests."""
    with FakeRegistry(auth="bearer") as registry, FakeRegistry(auth="bearer", service="other") as other:
        client = RegistryClient(RegistryOptions(retry_delay_seconds=0))
        for _ in range(2):
            for each, repository in [(registry, "a"), (registry, "b"), (other, "a")]:
                each.add_manifest(repository, "1", MANIFEST, mediatypes.OCI_MANIFEST)
                assert (
                    registry_source(client, ImageReference.parse(f"{each.host}/{repository}:1")).fetch_manifest().raw
                    == MANIFEST
                )
        client.close()
        scopes = [request.query["scope"] for request in registry.requests if request.path == "/token"]
        assert scopes == [["repository:a:pull"], ["repository:b:pull"]]
        assert other.paths().count("/token") == 1


def test_basic_is_answered_where_bearer_is_not_offered() -> None:
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _fetch(registry, credentials=Credentials("user", "pass")) == MANIFEST
        challenge = {"WWW-Authenticate": 'Negotiate, Basic realm="x"'}
        registry.misbehave("/v2/$", Fault(status=401, headers=challenge))
        assert _fetch(registry, credentials=Credentials("user", "pass")) == MANIFEST


def test_challenges_may_stand_in_several_headers() -> None:
    """RFC 9110 11.6.1; some gateways add a challenge of their own."""
    with FakeRegistry(auth="bearer") as registry:
        bearer = f'BEARER Realm="{registry.url}/token", Service="a, b"'
        registry.service = "a, b"
        headers: dict[str, str | list[str] | None] = {"WWW-Authenticate": ["Negotiate", 'Basic realm="x"', bearer]}
        registry.misbehave("/v2/$", Fault(status=401, headers=headers))
        assert _fetch(registry) == MANIFEST


def test_challenge_of_a_redirects_target_is_not_answered() -> None:
    """If a storage service could name a token service, it would receive the registry's credentials."""
    with FakeRegistry() as thief, FakeRegistry(auth="bearer", users=USERS) as registry:
        challenge = f'Bearer realm="{thief.url}/token"'
        thief.misbehave("/x", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        registry.misbehave("/manifests/", Fault(status=307, headers={"Location": f"{thief.url}/x"}))
        with pytest.raises(AuthenticationError) as caught:
            _fetch(registry, credentials=Credentials("user", "pass"))
        assert str(caught.value) == f"image {registry.host}/library/app:1.0: GET {thief.url}/x: 401 Unauthorized"
        assert thief.paths() == ["/x"]


def test_long_token_is_sent() -> None:
    """A token grows with the number of the user's groups."""
    with FakeRegistry() as registry:
        challenge = f'Bearer realm="{registry.url}/token"'
        registry.misbehave("/v2/", Fault(status=401, headers={"WWW-Authenticate": challenge}), times=1)
        registry.misbehave("/token", Fault(status=200, body=b'{"token": "' + b"x" * 60_000 + b'"}'))
        assert _fetch(registry) == MANIFEST
        assert registry.requests[-1].headers["authorization"] == "Bearer " + "x" * 60_000


def test_credentials_are_not_sent_to_a_token_service_in_the_clear(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(users=USERS) as service, FakeRegistry(auth="bearer", tls=authority.server_context()) as registry:
        registry.realm = f"{service.url}/token"
        with pytest.raises(AuthenticationError) as caught:
            _fetch(registry, credentials=Credentials("user", "pass"), ca_file=authority.ca_file)
        assert str(caught.value) == (
            f"registry {registry.host}: its token service: expected https, as for the registry itself, "
            f"got {service.url}/token"
        )
        assert service.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_identity_token_is_not_sent_where_a_token_service_redirects_to(status: int) -> None:
    """The identity token is in the body of a POST, which HTTP clients resend after a 307 or 308."""
    with FakeRegistry(address="127.0.0.2") as thief, FakeRegistry(auth="bearer") as registry:
        registry.refresh_tokens["refresh"] = "user"
        location = f"{thief.url}/token?x=secret"
        registry.misbehave("/token", Fault(status=status, headers={"Location": location}), method="POST")
        with pytest.raises(RegistryError) as caught:
            _fetch(registry, credentials=Credentials(identity_token="refresh"))
        assert str(caught.value) == (
            f"registry {registry.host}: its token service: POST {registry.url}/token: "
            f"expected no redirect of a request with a secret to another server, got {thief.url}/token?…"
        )
        assert thief.requests == []


def test_identity_token_is_sent_where_the_same_server_redirects_to() -> None:
    with FakeRegistry(auth="bearer") as registry:
        registry.refresh_tokens["refresh"] = "user"
        fault = Fault(status=307, headers={"Location": "/token?again=1"})
        registry.misbehave("/token", fault, method="POST", times=1)
        assert _fetch(registry, credentials=Credentials(identity_token="refresh")) == MANIFEST


@pytest.mark.parametrize(
    ("fault", "kind", "hint"),
    [
        (
            Fault(status=403),
            AuthenticationError,
            "user user (from the command line) may not read this repository, or the registry blocks this client",
        ),
        (
            Fault(status=404),
            RegistryNotFoundError,
            "check the spelling; user user (from the command line) may also lack access to this repository",
        ),
        (Fault(status=500), RegistryError, "the registry has trouble; try again later"),
    ],
)
def test_refusal_of_good_credentials_says_what_is_likely(fault: Fault, kind: type[RegistryError], hint: str) -> None:
    with FakeRegistry(auth="bearer", users=USERS) as registry:
        registry.misbehave("/manifests/", fault)
        with pytest.raises(kind) as caught:
            _fetch(registry, credentials=Credentials("user", "pass"))
        assert caught.value.hint == hint


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_wrong_credentials_are_told_with_their_origin(tmp_path: Path, auth: str) -> None:
    with FakeRegistry(auth=auth, users=USERS) as registry:
        authfile = _authfile(tmp_path, {"auths": {registry.host: {"username": "user", "password": "wrong"}}})
        with pytest.raises(AuthenticationError) as caught:
            _fetch(registry, authfile=authfile)
        assert caught.value.hint == (
            f"the registry does not accept user user (from {authfile}): "
            f"log in again with 'ociexport login {registry.host}'"
        )
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_registry_that_wants_a_login_says_so(auth: str) -> None:
    with FakeRegistry(auth=auth, users=USERS) as registry:
        with pytest.raises(AuthenticationError) as caught:
            _fetch(registry)
        assert caught.value.hint == (
            f"the registry requires credentials: log in with 'ociexport login {registry.host}'"
        )


def test_missing_image_may_be_a_private_one() -> None:
    with FakeRegistry() as registry:
        with pytest.raises(RegistryNotFoundError) as caught:
            _fetch(registry, "2.0")
        assert caught.value.hint == (
            f"check the spelling; if it is private, log in with 'ociexport login {registry.host}'"
        )


def test_secrets_are_in_no_traceback() -> None:
    with FakeRegistry(auth="bearer", users=USERS) as registry:
        with pytest.raises(AuthenticationError) as caught:
            _fetch(registry, credentials=Credentials("user", "top-secret"))
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "top-secret" not in f"{chain!r} {chain}"
            chain = chain.__cause__ or chain.__context__


def test_own_headers_are_sent_to_the_registry_only() -> None:
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(redirect_to=storage) as registry:
        registry.misbehave("/manifests/", Fault(status=307, headers={"Location": f"{storage.url}/x"}))
        with pytest.raises(RegistryNotFoundError):
            _fetch(registry, headers=(("X-Tenant", "secret"),))
        assert {request.headers.get("x-tenant") for request in registry.requests} == {"secret"}
        assert storage.requests[0].headers.get("x-tenant") is None
