"""The routes to an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.registry.hosts.certificates import ClientCertificate
from ociexport.registry.hosts.endpoints import endpoint_for
from ociexport.registry.hosts.registries_conf import read_registries_conf
from ociexport.registry.hosts.routes import Route, routes_for
from ociexport.registry.options import Mirror, RegistryOptions
from ociexport.spec.reference import ImageReference

NOWHERE = RegistryOptions(certs_dirs=(), hosts_dirs=())


def _options(**options: object) -> RegistryOptions:
    return RegistryOptions(**({"certs_dirs": (), "hosts_dirs": ()} | options))  # type: ignore[arg-type]


def _routes(image: str, options: RegistryOptions = NOWHERE) -> tuple[Route, ...]:
    return routes_for(ImageReference.parse(image), options, read_registries_conf(options.registries_conf))


def _shown(routes: tuple[Route, ...]) -> list[str]:
    return [f"{route.endpoint.api_urls[0]}/{route.repository}" for route in routes]


@pytest.mark.parametrize(
    ("registry", "api_urls"),
    [
        ("docker.io", ("https://registry-1.docker.io/v2",)),
        ("reg.example:8443", ("https://reg.example:8443/v2",)),
        ("localhost:5000", ("http://localhost:5000/v2", "https://localhost:5000/v2")),
        ("127.0.0.2:5000", ("http://127.0.0.2:5000/v2", "https://127.0.0.2:5000/v2")),
        ("[::1]:5000", ("http://[::1]:5000/v2", "https://[::1]:5000/v2")),
        ("[2001:db8::1]", ("https://[2001:db8::1]/v2",)),
        ("192.168.0.1:5000", ("https://192.168.0.1:5000/v2",)),
    ],
)
def test_only_loopback_is_asked_in_plain_http(registry: str, api_urls: tuple[str, ...]) -> None:
    assert endpoint_for(registry, NOWHERE).api_urls == api_urls


def test_plain_http_is_for_who_asks_for_it() -> None:
    assert endpoint_for("reg.example", _options(plain_http=True)).api_urls == ("http://reg.example/v2",)


def test_insecure_leaves_tls_unverified() -> None:
    assert not endpoint_for("reg.example", _options(insecure=True)).tls.verify
    assert endpoint_for("reg.example", NOWHERE).tls.verify


# registries.conf


def _conf(path: Path, text: str) -> RegistryOptions:
    path.write_text(text)
    return _options(registries_conf=path)


def test_mirrors_are_asked_in_order_and_the_registry_last(tmp_path: Path) -> None:
    """containers-registries.conf(5), "Remapping and mirroring registries"."""
    options = _conf(
        tmp_path / "registries.conf",
        """
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example/bar"
        insecure = true

        [[registry.mirror]]
        location = "m1.example/cache"

        [[registry.mirror]]
        location = "m2.example"
        insecure = true
        """,
    )
    routes = _routes("example.com/foo/image:1", options)
    assert _shown(routes) == [
        "https://m1.example/v2/cache/image",
        "https://m2.example/v2/image",
        "https://internal.example/v2/bar/image",
    ]
    assert [route.is_mirror for route in routes] == [True, True, False]
    assert [route.endpoint.tls.verify for route in routes] == [True, False, False]
    assert routes[2].endpoint.api_urls[1] == "http://internal.example/v2"
    assert _shown(_routes("example.com/foobar:1", options)) == ["https://example.com/v2/foobar"]


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    options = _conf(
        tmp_path / "registries.conf",
        """
        [[registry]]
        prefix = "*.example.com"
        location = "all.example"
        [[registry]]
        prefix = "reg.example.com/ns"
        location = "ns.example/x"
        [[registry]]
        location = "reg.example.com/ns/special"
        blocked = true
        """,
    )
    assert _shown(_routes("reg.example.com/a:1", options)) == ["https://all.example/v2/a"]
    assert _shown(_routes("reg.example.com/ns/a:1", options)) == ["https://ns.example/v2/x/a"]
    with pytest.raises(UsageError) as caught:
        _routes("reg.example.com/ns/special/a:1", options)
    assert str(caught.value) == (
        "image reg.example.com/ns/special/a:1: registry reg.example.com/ns/special is blocked by "
        f"{tmp_path / 'registries.conf'}"
    )


def test_mirrors_for_digests_are_not_asked_for_tags(tmp_path: Path) -> None:
    options = _conf(
        tmp_path / "registries.conf",
        """
        [[registry]]
        location = "reg.example"
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "old.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example"
        """,
    )
    digest = "sha256:" + 64 * "0"
    assert _shown(_routes("reg.example/a:1", options))[0] == "https://tags.example/v2/a"
    assert _shown(_routes(f"reg.example/a@{digest}", options))[0] == "https://digests.example/v2/a"
    assert _shown(_routes("old.example/a:1", options)) == ["https://old.example/v2/a"]
    assert _shown(_routes(f"old.example/a@{digest}", options))[0] == "https://m.example/v2/a"


DIGEST, OTHER = (f"sha256:{letter * 64}" for letter in "ab")


@pytest.mark.parametrize(
    ("image", "asked"),
    [
        ("reg.example/ns/app:1", "tag.example/new:2"),
        ("reg.example/ns/app:1.1", "repo.example/x:1.1"),
        ("reg.example/ns/app", "repo.example/x:latest"),
        ("reg.example/ns/app:3", "same.example/x:3"),
        (f"reg.example/ns/app@{DIGEST}", f"digest.example/y@{DIGEST}"),
        (f"reg.example/ns/app:9@{DIGEST}", f"digest.example/y:9@{DIGEST}"),
        (f"reg.example/ns/app:1@{OTHER}", f"tag.example/new:2@{OTHER}"),
        ("reg.example/ns/app:pinned", f"pin.example/z:pinned@{OTHER}"),
        ("reg.example/ns/app/more:1", "repo.example/x/more:1"),
        ("reg.example/ns/application:1", "reg.example/ns/application:1"),
        ("reg.example:5000/ns/app:1", "reg.example:5000/ns/app:1"),
        ("a.wild.example:5000/b:1", "wild.example/b:1"),
        ("exact.wild.example/b:1", "exact.example/b:1"),
    ],
)
def test_prefix_may_be_one_image_with_its_tag_or_digest(tmp_path: Path, image: str, asked: str) -> None:
    """containers-registries.conf(5), "prefix": host[:port]/namespace[/namespace…]/repo(:tag|@digest)."""
    entries = {
        "reg.example/ns/app": "repo.example/x",
        "reg.example/ns/app:1": "tag.example/new:2",
        "reg.example/ns/app:3": "same.example/x",
        f"reg.example/ns/app@{DIGEST}": "digest.example/y",
        "reg.example/ns/app:pinned": f"pin.example/z@{OTHER}",
        "*.wild.example": "wild.example",
        "exact.wild.example": "exact.example",
    }
    options = _conf(
        tmp_path / "registries.conf",
        "".join(f'[[registry]]\nprefix = "{prefix}"\nlocation = "{there}"\n' for prefix, there in entries.items()),
    )
    (route,) = _routes(image, options)
    assert str(route.reference) == asked


@pytest.mark.parametrize("location", ["http://a", "a/B", "a/x:1", "?", "/x"])
def test_location_must_be_a_place(tmp_path: Path, location: str) -> None:
    path = tmp_path / "registries.conf"
    options = _conf(path, f'[[registry]]\nprefix = "b.example/ns"\nlocation = "{location}"')
    with pytest.raises(UsageError) as caught:
        _routes("b.example/ns/app:1", options)
    told = f"{path}: location '{location}': expected a place for image b.example/ns/app:1: "
    assert str(caught.value).startswith(told)


def test_docker_hub_is_mirrored_by_its_name_in_references(tmp_path: Path) -> None:
    options = _conf(
        tmp_path / "registries.conf",
        '[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "mirror.gcr.io"\n',
    )
    assert _shown(_routes("alpine", options)) == [
        "https://mirror.gcr.io/v2/library/alpine",
        "https://registry-1.docker.io/v2/library/alpine",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[registry]]\n", "registry[0]: prefix: expected a prefix or a location, got neither"),
        ("registry = 5", "registry: expected a list, got an integer"),
        (
            '[[registry]]\nlocation="a"\n[[registry.mirror]]\nlocation="b"\npull-from-mirror="x"',
            "registry[0]: mirror[0]: pull-from-mirror: expected one of all, digest-only, tag-only, got 'x'",
        ),
        ("=", "expected TOML: Invalid statement (at line 1, column 1)"),
    ],
)
def test_registries_conf_that_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    options = _conf(tmp_path / "registries.conf", text)
    with pytest.raises(UsageError) as caught:
        _routes("alpine", options)
    assert str(caught.value) == f"{tmp_path / 'registries.conf'}: {told}"


# hosts.toml


def test_hosts_toml_names_mirrors_and_the_server(tmp_path: Path) -> None:
    """containerd, docs/hosts.md."""
    directory = tmp_path / "reg.example:5000"
    directory.mkdir()
    (directory / "hosts.toml").write_text(
        """
        server = "https://upstream.example"

        [host."https://mirror.example:8443"]
          capabilities = ["pull"]
          ca = ["ca.pem", "/abs/ca.pem"]
          client = [["client.cert", "client.key"]]
          skip_verify = true
          [host."https://mirror.example:8443".header]
            x-token = ["a", "b"]

        [host."http://127.0.0.1:65001/api/registry"]
          override_path = true
        """
    )
    routes = _routes("reg.example:5000/ns/a:1", _options(hosts_dirs=(tmp_path,)))
    assert _shown(routes) == [
        "https://mirror.example:8443/v2/ns/a",
        "http://127.0.0.1:65001/api/registry/ns/a",
        "https://upstream.example/v2/ns/a",
    ]
    first, second, last = (route.endpoint for route in routes)
    assert [route.resolves_tags for route in routes] == [False, True, True]
    assert first.tls.ca_files == (directory / "ca.pem", Path("/abs/ca.pem"))
    assert first.tls.client_certificate == ClientCertificate(directory / "client.cert", directory / "client.key")
    assert not first.tls.verify
    assert first.headers == {"x-token": "a, b"}
    assert [endpoint.namespace for endpoint in (first, second, last)] == 3 * ["reg.example:5000"]


@pytest.mark.parametrize("name", ["reg.example_5000_", "reg.example:5000", "_default"])
def test_hosts_toml_is_found_under_each_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "hosts.toml").write_text('[host."https://m.example"]\n')
    assert len(_routes("reg.example:5000/a:1", _options(hosts_dirs=(tmp_path / "none", tmp_path)))) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[host."ftp://x"]\n', "host: ftp://x: expected an http or https URL, got 'ftp://x'"),
        (
            '[host."https://x"]\ncapabilities = ["fly"]\n',
            "host: https://x: capabilities: expected pull and resolve, got 'fly'",
        ),
        (
            '[host."https://x"]\nclient = [["a", "b", "c"]]\n',
            "host: https://x: client: expected a certificate and its key, got 3 names",
        ),
        ('[host."https://x"]\nca = 5\n', "host: https://x: ca[0]: expected a string, got an integer"),
    ],
)
def test_hosts_toml_that_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "docker.io").mkdir()
    path = tmp_path / "docker.io" / "hosts.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        _routes("alpine", _options(hosts_dirs=(tmp_path,)))
    assert str(caught.value) == f"{path}: {told}"


# The command line


def test_mirrors_of_the_command_line_go_first() -> None:
    mirrors = (Mirror("https://a.example/prefix"), Mirror("b.example", "docker.io"), Mirror("c.example", "quay.io"))
    routes = _routes("alpine", _options(mirrors=mirrors))
    assert _shown(routes) == [
        "https://a.example/prefix/v2/library/alpine",
        "https://b.example/v2/library/alpine",
        "https://registry-1.docker.io/v2/library/alpine",
    ]
    assert [route.endpoint.namespace for route in routes] == ["docker.io", "docker.io", None]


@pytest.mark.parametrize("url", ["ftp://a", "http://[a", "[a", "http://a:99999", "http://a:b", "https://a/?b=c"])
def test_mirror_must_be_a_server(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        _routes("alpine", _options(mirrors=(Mirror(url),)))
    assert str(caught.value) == f"--mirror: expected host[:port] or a URL, got '{url.replace('b=c', '…')}'"


@pytest.mark.parametrize("url", ["http://me:secret@a", "me:secret@a", "http://me:se/cret@a", "http://me:secret@[a"])
def test_mirror_with_a_password_is_refused_and_does_not_show_it(url: str) -> None:
    """A mirror's URL appears in messages and receipts; docker refuses such URLs too."""
    with pytest.raises(UsageError) as caught:
        _routes("alpine", _options(mirrors=(Mirror(url),)))
    assert "expected a URL without user and password" in str(caught.value)
    assert "cret" not in str(caught.value)


def write_hosts(directory: Path, registry: str, text: str) -> None:
    (directory / registry).mkdir()
    (directory / registry / "hosts.toml").write_text(text)


def test_user_in_a_hosts_toml_is_ignored(tmp_path: Path) -> None:
    """containerd takes only the host from the URL, and credentials from elsewhere."""
    write_hosts(tmp_path, "docker.io", 'server = "https://me:secret@a.example"')
    assert _shown(_routes("alpine", _options(hosts_dirs=(tmp_path,)))) == ["https://a.example/v2/library/alpine"]


@pytest.mark.parametrize("url", ["https://me:secret@[a", "https://me:secret@a:99999", "ftp://me:secret@a"])
def test_url_in_a_hosts_toml_must_be_one(tmp_path: Path, url: str) -> None:
    write_hosts(tmp_path, "docker.io", f'server = "{url}"')
    with pytest.raises(UsageError, match="expected an http or https URL, got") as caught:
        _routes("alpine", _options(hosts_dirs=(tmp_path,)))
    assert "secret" not in str(caught.value)


def test_headers_go_to_the_registry_only(tmp_path: Path) -> None:
    """Headers may hold secrets, and a mirror is another server, wherever it is configured."""
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text('[host."https://d.example"]')
    conf = '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "c.example"\n'
    (tmp_path / "registries.conf").write_text(conf)
    options = _options(
        mirrors=(Mirror("https://a.example"), Mirror("b.example")),
        registries_conf=tmp_path / "registries.conf",
        hosts_dirs=(tmp_path,),
        headers=(("X-Tenant", "secret"),),
    )
    routes = _routes("alpine", options)
    assert [(route.endpoint.host, dict(route.endpoint.headers)) for route in routes] == [
        *((f"{letter}.example", {}) for letter in "abcd"),
        ("registry-1.docker.io", {"X-Tenant": "secret"}),
    ]
    assert "secret" not in repr(routes)


# Certificates


def test_certs_d_has_authorities_and_a_client_certificate_for_a_host(tmp_path: Path) -> None:
    """containers-certs.d(5)."""
    directory = tmp_path / "reg.example:5000"
    directory.mkdir()
    for name in ("b.crt", "a.crt", "client.cert", "client.key", "notes.txt"):
        (directory / name).touch()
    options = _options(certs_dirs=(tmp_path / "none", tmp_path), ca_file=Path("/own.pem"))
    tls = endpoint_for("reg.example:5000", options).tls
    assert tls.ca_files == (Path("/own.pem"), directory / "a.crt", directory / "b.crt")
    assert tls.client_certificate == ClientCertificate(directory / "client.cert", directory / "client.key")
    assert endpoint_for("reg.example", options).tls.ca_files == (Path("/own.pem"),)


@pytest.mark.parametrize("name", ["docker.io", "registry-1.docker.io"])
def test_docker_hub_has_certificates_under_either_name(tmp_path: Path, name: str) -> None:
    """containers/image reads the directory of docker.io, the name that users type."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "proxy.crt").touch()
    tls = endpoint_for("docker.io", _options(certs_dirs=(tmp_path,))).tls
    assert tls.ca_files == (tmp_path / name / "proxy.crt",)


def test_client_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "client.cert").touch()
    with pytest.raises(UsageError) as caught:
        endpoint_for("reg.example", _options(cert_dir=tmp_path))
    assert str(caught.value) == f"{tmp_path / 'client.cert'}: expected its key in client.key, found no such file"


def test_cert_dir_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint_for("reg.example", _options(cert_dir=tmp_path / "none"))
    assert str(caught.value) == f"--cert-dir: {tmp_path / 'none'}: expected a directory"
