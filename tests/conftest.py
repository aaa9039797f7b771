"""What all tests share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.fake_registry import FakeRegistry
from tests.support.puller import Puller
from tests.support.unpacker import Unpacker, resolver, unpacker_in

# How long an example takes says how busy the machine is. The gate makes the same examples each time: what it refuses, a
# developer can see. At home each run looks for new ones.
settings.register_profile("home", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("home"), derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") == "true" else "home")


@pytest.fixture
def sole_ordinary_user() -> Iterator[None]:
    """Keep tests that run on other cores from being the ordinary user too: /etc/subuid is one for all."""
    with open(Path(tempfile.gettempdir(), "ociexport-ordinary-user.lock"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def puller(registry: FakeRegistry, tmp_path: Path) -> Puller:
    return Puller(registry, tmp_path)


@pytest.fixture(params=["openat2", "walk"])
def unpacker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Unpacker]:
    """Both ways to resolve links in parents run all tests."""
    with unpacker_in(tmp_path, use_openat2=resolver(request.param)) as unpacker:
        yield unpacker


@pytest.fixture(params=["openat2", "walk", "openat2 user", "walk user"])
def unpacker_of_any_user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Unpacker]:
    """Both ways to resolve links in parents, and both kinds of users."""
    name, _, user = request.param.partition(" ")
    if user and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with unpacker_in(tmp_path, use_openat2=resolver(name), as_user=bool(user)) as unpacker:
        yield unpacker


@pytest.fixture
def registry_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """A registry that is called registry.example: what is sent there goes through a proxy."""
    with FakeRegistry(auth="bearer") as registry:
        monkeypatch.setenv("HTTP_PROXY", registry.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,169.254.169.254")
        yield registry


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what this machine and its user have configured, proxies and logins above all, out of the tests."""
    home = tmp_path_factory.getbasetemp() / "no-home"
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(home / "registries.conf"))
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
