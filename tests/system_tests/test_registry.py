"""The wire against Debian's docker-registry, both as a registry and as a pull-through cache."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.registry.options import Mirror, RegistryOptions
from ociexport.registry.source import RegistrySource
from ociexport.spec.manifest import Manifest, parse_document
from ociexport.spec.reference import ImageReference
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source
from tests.support.system_parts import docker_registry, require, run, wait_for_port

pytestmark = pytest.mark.system

IMAGE = build_image([[member("etc/hostname", b"box\n")], [member("etc/motd", b"hello\n" * 10_000)]])


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A docker-registry to which skopeo pushed an image."""
    require("docker-registry", "skopeo")
    directory = tmp_path_factory.mktemp("origin")
    write_layout(directory / "layout", {"1": IMAGE})
    with docker_registry(directory / "registry") as host:
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{directory}/layout:1", f"docker://{host}/team/app:1")
        yield host


def _pull_all(source: RegistrySource) -> None:
    """Read and verify the whole image."""
    try:
        received = source.fetch_manifest()
        manifest = parse_document(received.raw, received.media_type)
        assert isinstance(manifest, Manifest)
        assert received.digest == IMAGE.digest
        for descriptor in (manifest.config, *manifest.layers):
            stream = source.open_blob(descriptor)
            content = b"".join(iter(lambda stream=stream: stream.read(1 << 20), b""))  # type: ignore[misc]
            stream.close()
            assert hashlib.sha256(content).hexdigest() == descriptor.digest.encoded
    finally:
        source.close()


def test_a_real_registry_is_pulled_from(origin: str) -> None:
    source = open_registry_source(ImageReference.parse(f"{origin}/team/app:1"))
    _pull_all(source)
    assert set(source.served_by.values()) == {origin}


def test_a_blob_is_read_from_the_middle(origin: str) -> None:
    source = open_registry_source(ImageReference.parse(f"{origin}/team/app:1"))
    received = source.fetch_manifest()
    manifest = parse_document(received.raw, received.media_type)
    assert isinstance(manifest, Manifest)
    layer = manifest.layers[1]
    parts = []
    for offset in (0, 100, layer.size - 1):
        stream = source.open_blob(layer, offset)
        parts.append(b"".join(iter(lambda stream=stream: stream.read(50), b"")))  # type: ignore[misc]
        stream.close()
    source.close()
    assert [parts[0][100:], parts[0][-1:]] == parts[1:]


def test_a_fleet_pulls_through_a_cache(origin: str, tmp_path: Path) -> None:
    """The cache fetches missing blobs from its origin, and then serves them alone."""
    with docker_registry(tmp_path / "cache", proxy_of=f"http://{origin}") as cache:
        for _ in range(2):
            options = RegistryOptions(mirrors=(Mirror(f"http://{cache}", origin),))
            source = open_registry_source(ImageReference.parse(f"{origin}/team/app:1"), options=options)
            _pull_all(source)
            assert set(source.served_by.values()) == {cache}


def test_mirror_of_hosts_toml_is_asked_first(origin: str, tmp_path: Path) -> None:
    """containerd, docs/hosts.md; the origin serves what the cache does not."""
    with docker_registry(tmp_path / "cache", proxy_of=f"http://{origin}") as cache:
        directory = tmp_path / "certs.d" / origin
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{origin}"\n'
            f'[host."http://127.0.0.1:1"]\n[host."http://{cache}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        options = RegistryOptions(hosts_dirs=(tmp_path / "certs.d",))
        source = open_registry_source(ImageReference.parse(f"{origin}/team/app:1"), options=options)
        _pull_all(source)
        assert set(source.served_by.values()) == {cache}


def test_mirror_of_registries_conf_is_asked_first(origin: str, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "cache", proxy_of=f"http://{origin}") as cache:
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nprefix = "apps.example"\nlocation = "{origin}/team"\n'
            f'[[registry.mirror]]\nlocation = "{cache}/team"\ninsecure = true\n'
        )
        source = open_registry_source(
            ImageReference.parse("apps.example/app:1"), options=RegistryOptions(registries_conf=conf)
        )
        _pull_all(source)
        assert set(source.served_by.values()) == {cache}


def test_registry_is_reached_through_microsocks(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's address is a name, which only the proxy looks up."""
    require("microsocks")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    proxy = subprocess.Popen(
        ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "me", "-P", "secret"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_port(port)
        monkeypatch.setenv("ALL_PROXY", f"socks5h://me:secret@127.0.0.1:{port}")
        host = f"{int(ipaddress.ip_address('127.0.0.1'))}:{origin.rpartition(':')[2]}"
        options = RegistryOptions(plain_http=True)
        _pull_all(open_registry_source(ImageReference.parse(f"{host}/team/app:1"), options=options))
    finally:
        proxy.terminate()
        _, log = proxy.communicate(timeout=60)
    assert f"connected to {host}" in log
