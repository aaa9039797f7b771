"""--v1: images in registries of Docker's first protocol, without digests or sizes.

Spec: docker 1.6 "The Docker Hub and the Registry v1", "Docker Registry API v1"; moby registry/session.go.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.errors import RegistryError
from ociexport.registry.hosts.certificates import DEFAULT_TLS
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from ociexport.registry.v1.session import V1Host
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_v1_registry import FakeV1Registry
from tests.support.image_builder import AMD64
from tests.support.memory_source import member, tar_of
from tests.support.schema1_images import build_schema1, v1_documents, v1_id

A, B = [member("a", b"1" * 1000), member("gone")], [member("b", b"2"), member(".wh.gone")]
TARS = [tar_of(A), tar_of(B)]
LAYERS = [gzip.compress(tar, 1, mtime=0) for tar in TARS]
DOCUMENTS = v1_documents(TARS)
TOP = v1_id(2)
OPTIONS = RegistryOptions(v1=True, retry_delay_seconds=0)


@pytest.fixture
def registry() -> Iterator[FakeV1Registry]:
    with FakeV1Registry() as registry:
        registry.add_image("library/app", "1", DOCUMENTS, LAYERS)
        yield registry


def run(home: Path, command: str, registry: FakeV1Registry, *words: str | Path) -> subprocess.CompletedProcess[str]:
    reference = f"{registry.host}/library/app:1"
    return run_command(command, "--v1", "--retry-delay", "0", reference, *words, home=home)


def pull(home: Path, registry: FakeV1Registry, *words: str) -> subprocess.CompletedProcess[str]:
    return run(home, "pull", registry, "--platform", "linux/amd64", "--out", home / "layout", *words)


def error_of(ended: subprocess.CompletedProcess[str], *registries: FakeV1Registry) -> tuple[int, str]:
    """Return the exit code and the error, with the registries replaced by REGISTRY, REGISTRY2 and so on."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("ociexport: error: ")]
    for number, registry in enumerate(registries, start=1):
        line = line.replace(registry.host, f"REGISTRY{number if number > 1 else ''}")
    return ended.returncode, line.removeprefix("ociexport: error: ")


def test_pull_walks_from_the_index_to_the_layers(registry: FakeV1Registry, tmp_path: Path) -> None:
    ended = pull(tmp_path, registry)
    assert ended.returncode == 0, ended.stderr
    ((descriptor, name),) = ImageLayout(tmp_path / "layout").read_images()
    assert ended.stdout == f"{registry.host}/library/app:1@{descriptor.digest}\n"
    assert name.full == f"{registry.host}/library/app:1"
    assert (
        f"ociexport: {registry.host}/library/app:1: an image of Docker's registry protocol v1, which was converted to "
        f"OCI: asked for {TOP}, made {descriptor.digest}; 0 of 2 layers had checksums to compare with"
    ) in ended.stderr.splitlines()
    paths = list(dict.fromkeys(registry.paths))
    assert paths[:4] == [
        "/v1/",
        "/v1/repositories/library/app/images",
        "/v1/repositories/library/app/tags/1",
        f"/v1/images/{TOP}/ancestry",
    ]
    assert set(paths[4:]) == {f"/v1/images/{v1_id(n)}/{what}" for n in (1, 2) for what in ("json", "layer")}
    assert ociexport.verify(str(tmp_path / "layout")).findings == ()


def test_it_becomes_what_the_same_image_of_schema_1_becomes(registry: FakeV1Registry, tmp_path: Path) -> None:
    with FakeRegistry() as other:
        new = ociexport.pull(build_schema1(TARS).serve(other, "library/app"), tmp_path / "new", platform=AMD64)
    old = ociexport.pull(f"{registry.host}/library/app:1", tmp_path / "old", platform=AMD64, registry=OPTIONS)
    assert (old.digest, old.config_digest) == (new.digest, new.config_digest)


def test_unpack_inspect_and_tags(registry: FakeV1Registry, tmp_path: Path) -> None:
    ended = run(tmp_path, "unpack", registry, tmp_path / "rootfs")
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in (tmp_path / "rootfs").iterdir()) == ["a", "b"]
    told = json.loads(run(tmp_path, "inspect", registry, "--json").stdout)
    assert f"{told['digest']}\n" == ended.stdout
    assert [layer["diffId"] for layer in told["image"]["layers"]] == [str(Digest.of(tar)) for tar in TARS]
    assert run(tmp_path, "verify", registry).returncode == 0
    tags = run_command("tags", "--v1", f"{registry.host}/library/app", home=tmp_path)
    assert (tags.returncode, tags.stdout) == (0, "1\n")


def test_archives_take_it_too(registry: FakeV1Registry, tmp_path: Path) -> None:
    ended = run(tmp_path, "pull", registry, "--legacy", "--out", tmp_path / "a.tar")
    assert ended.returncode == 0, ended.stderr
    assert ociexport.unpack(str(tmp_path / "a.tar"), tmp_path / "rootfs", platform=AMD64).entries == 4


# Which hosts get requests, and which secrets.


def test_token_goes_to_the_endpoints_and_to_nobody_else(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.token = 'signature=123abc,repository="library/app",access=read'
    with FakeV1Registry(endpoints=[registry], token=registry.token, users={"me": "secret"}) as index:
        ended = run(tmp_path, "pull", index, "--creds", "me:secret", "--out", tmp_path / "layout")
        assert ended.returncode == 0, ended.stderr
        assert [request.path for request in index.requests] == [
            "/v1/",
            "/v1/repositories/library/app/images",
            "/v1/repositories/library/app/images",
        ]
        assert [request.headers.get("authorization") for request in index.requests] == [
            None,
            None,
            "Basic bWU6c2VjcmV0",
        ]
    assert {request.headers.get("authorization") for request in registry.requests} == {f"Token {registry.token}"}
    assert {request.headers.get("x-docker-token") for request in registry.requests} == {None}


def test_cookie_stands_for_a_token_that_was_used(registry: FakeV1Registry, tmp_path: Path) -> None:
    """hub_registry_spec.md: the index accepts a token once, and the registry accepts its own cookie."""
    registry.token, registry.cookies = "signature=once", True
    with FakeV1Registry(endpoints=[registry], token="signature=once") as index:
        ended = pull(tmp_path, index)
        assert ended.returncode == 0, ended.stderr
        assert {request.headers.get("cookie") for request in index.requests} == {None}
    assert [request.headers.get("cookie") for request in registry.requests][:2] == [None, "session=let-in"]


def test_password_is_asked_for(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.users = {"me": "secret"}
    ended = pull(tmp_path, registry)
    assert error_of(ended, registry) == (
        4,
        "image REGISTRY/library/app:1: GET http://REGISTRY/v1/repositories/library/app/images: "
        "401 Unauthorized: Unauthorized",
    )
    assert f"hint: if it is private, log in with 'ociexport login {registry.host}'" in ended.stderr
    assert pull(tmp_path, registry, "--creds", "me:secret").returncode == 0
    # The index is the registry itself and gave no token, so the password is sent.
    assert registry.requests[-1].headers["authorization"] == "Basic bWU6c2VjcmV0"


def test_next_endpoint_is_asked_where_one_fails(registry: FakeV1Registry, tmp_path: Path) -> None:
    with FakeV1Registry() as bad, FakeV1Registry(endpoints=[bad, registry]) as index:
        bad.answers["/v1/repositories/library/app/tags/1"] = (500, {}, b"")
        bad.answers[f"/v1/images/{TOP}/ancestry"] = (200, {}, b"[]")
        for number in (1, 2):
            bad.answers[f"/v1/images/{v1_id(number)}/layer"] = (503, {}, b"")
        ended = pull(tmp_path, index, "--retry-times", "0")
        assert ended.returncode == 0, ended.stderr
        assert f"ociexport: skipping endpoint {bad.host}: " in ended.stderr


@pytest.mark.parametrize(
    "name", ["http://other/v1/", "a/../b", "user@host", "host:port", "a b", "host:99999", "[:::::]"]
)
def test_endpoint_that_is_no_host_is_refused(registry: FakeV1Registry, tmp_path: Path, name: str) -> None:
    path = "/v1/repositories/library/app/images"
    registry.answers[path] = (200, {"X-Docker-Endpoints": name}, b"[]")
    assert error_of(pull(tmp_path, registry), registry) == (
        8,
        f"image REGISTRY/library/app:1: X-Docker-Endpoints: expected hosts, got '{name}'",
    )


def test_index_elsewhere_can_not_send_us_to_this_machine(registry: FakeV1Registry) -> None:
    transport = Transport(RegistryOptions(retry_times=0))
    base, index = WebUrl.parse(f"http://{registry.host}/v1"), WebUrl.parse("http://192.0.2.1/v1")
    host = V1Host(base, transport, DEFAULT_TLS, headers={}, named_by=index)
    with pytest.raises(RegistryError) as caught:
        host.get("/images/x/json", subject="layer x")
    transport.close()
    assert str(caught.value) == (
        f"layer x: http://{registry.host}/v1/images/x/json: "
        "a registry on another host may not send its clients to 127.0.0.1"
    )
    assert registry.requests == []


def test_redirected_layer_gets_no_token_and_no_cookie(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.token, registry.cookies = "t", True
    with FakeV1Registry() as storage:
        storage.answers["/storage"] = (200, {}, LAYERS[0])
        registry.answers[f"/v1/images/{v1_id(1)}/layer"] = (
            302,
            {"Location": f"http://localhost:{storage.host.partition(':')[2]}/storage?X-Signature=1"},
            b"",
        )
        assert pull(tmp_path, registry).returncode == 0
        assert {(r.headers.get("authorization"), r.headers.get("cookie")) for r in storage.requests} == {(None, None)}


# Verifying the layers.


def test_checksums_are_compared(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.checksums = True
    ended = pull(tmp_path, registry)
    assert ended.returncode == 0, ended.stderr
    assert "; 2 of 2 layers had checksums to compare with" in ended.stderr


def test_layer_that_is_not_what_its_checksum_says_is_refused(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.checksums = True
    registry.answers[f"/v1/images/{v1_id(1)}/layer"] = (200, {}, LAYERS[1])
    code, error = error_of(pull(tmp_path, registry))
    assert code == 7
    assert error.startswith(f"layer 1 of 2 ({v1_id(1)[:12]}): checksum mismatch: expected sha256:")
    assert list(tmp_path.iterdir()) == []


def test_checksum_of_the_layer_alone_will_do_and_others_are_passed_over(
    registry: FakeV1Registry, tmp_path: Path
) -> None:
    for number, layer in enumerate(LAYERS, start=1):
        told = "tarsum+sha256:" + 64 * "0" if number == 1 else str(Digest.of(layer))
        path = f"/v1/images/{v1_id(number)}/json"
        registry.answers[path] = (200, {"X-Docker-Checksum": told}, registry.documents[v1_id(number)])
    ended = pull(tmp_path, registry)
    assert ended.returncode == 0, ended.stderr
    assert "; 1 of 2 layers had checksums to compare with" in ended.stderr


@pytest.mark.parametrize("ranges", [True, False])
def test_layer_that_is_cut_goes_on(registry: FakeV1Registry, tmp_path: Path, ranges: bool) -> None:
    registry.ranges, registry.checksums = ranges, True
    registry.cut[f"/v1/images/{v1_id(1)}/layer"] = [20, 30] if ranges else [20, 20, 30]
    ended = pull(tmp_path, registry)
    assert ended.returncode == 0, ended.stderr
    assert "; retry 1 of 3 in 0.0 s" in ended.stderr


def test_layer_that_is_longer_than_it_was_said_to_be_is_refused(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.bytes_not_told = 10
    code, error = error_of(pull(tmp_path, registry))
    assert code == 7
    assert re.fullmatch(r"layer \d of 2 \(\w+\): size mismatch: expected \d+ bytes, got more \(\d+ so far\)", error)
    assert list(tmp_path.iterdir()) == []


def test_damaged_layer_is_refused(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.layers[v1_id(2)] = LAYERS[1][:-9]
    assert error_of(pull(tmp_path, registry)) == (
        8,
        f"layer 2 of 2 ({v1_id(2)[:12]}): gzip data: expected a complete stream, got one that ends too soon",
    )
    assert list(tmp_path.iterdir()) == []


SUBJECT = f"image REGISTRY/library/app: layer {TOP[:12]}: "


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], f"ancestry: expected it to begin with {TOP}, got 'nothing'"),
        ([v1_id(1)], f"ancestry: expected it to begin with {TOP}, got '{v1_id(1)}'"),
        ([TOP, v1_id(1), TOP], "ancestry: expected each ID once, got a cycle"),
        ([TOP, "../../x"], "ancestry[1]: expected 64 hexadecimal digits, got '../../x'"),
        ([TOP, 7], "ancestry[1]: expected a string, got an integer"),
        ([TOP, *map(v1_id, range(3, 3000))], "ancestry: expected at most 1024 layers, got 2998"),
        ([TOP], f"layer 1 of 1: parent: expected none, got '{v1_id(1)}'"),
    ],
)
def test_ancestry_that_does_not_hold_is_refused(
    registry: FakeV1Registry, tmp_path: Path, ids: list[Any], message: str
) -> None:
    registry.answers[f"/v1/images/{TOP}/ancestry"] = (200, {}, json.dumps(ids).encode())
    assert error_of(pull(tmp_path, registry), registry) == (8, SUBJECT + message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (json.dumps(DOCUMENTS[0]).encode(), f"id: expected {TOP}, got '{v1_id(1)}'"),
        (b"[]", "expected a JSON object, got a list"),
        (b'{"id": "%s"}' % (b"x" * 5_000_000), "expected at most 4194304 bytes, got more"),
        (
            json.dumps({**DOCUMENTS[1], "parent": v1_id(7)}).encode(),
            f"layer 2 of 2: parent: expected {v1_id(1)}, got '{v1_id(7)}'",
        ),
    ],
)
def test_document_that_does_not_fit_is_refused(
    registry: FakeV1Registry, tmp_path: Path, raw: bytes, message: str
) -> None:
    registry.answers[f"/v1/images/{TOP}/json"] = (200, {}, raw)
    assert error_of(pull(tmp_path, registry), registry) == (8, SUBJECT + message)


def test_documents_are_limited_together(registry: FakeV1Registry, tmp_path: Path) -> None:
    for number in (1, 2):
        raw = json.dumps({**DOCUMENTS[number - 1], "comment": "x" * 3_000_000}).encode()
        registry.answers[f"/v1/images/{v1_id(number)}/json"] = (200, {}, raw)
    assert error_of(pull(tmp_path, registry), registry) == (
        8,
        SUBJECT + "the JSON of its layers: expected at most 4194304 bytes, got more",
    )


@pytest.mark.parametrize("body", [b'"%s"', b"%s", b"%s\n"])
def test_tag_may_come_as_json_or_bare(registry: FakeV1Registry, tmp_path: Path, body: bytes) -> None:
    registry.answers["/v1/repositories/library/app/tags/1"] = (200, {}, body % TOP.encode())
    assert pull(tmp_path, registry).returncode == 0


def test_tag_that_is_no_id_is_refused(registry: FakeV1Registry, tmp_path: Path) -> None:
    registry.answers["/v1/repositories/library/app/tags/1"] = (200, {}, b'"../images"')
    assert error_of(pull(tmp_path, registry), registry) == (
        8,
        "image REGISTRY/library/app:1: tag: expected 64 hexadecimal digits, got '../images'",
    )


def test_tag_or_repository_that_is_not_there(registry: FakeV1Registry, tmp_path: Path) -> None:
    del registry.tags["library/app"]["1"]
    code, error = error_of(pull(tmp_path, registry), registry)
    assert (code, error) == (
        3,
        "image REGISTRY/library/app:1: GET http://REGISTRY/v1/repositories/library/app/tags/1: "
        "404 Not Found: Tag not found",
    )
    registry.tags.clear()
    assert pull(tmp_path, registry).returncode == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dry-run",), "--dry-run: expected no --v1, got it"),
        (("--mirror", "m.example"), "--mirror: expected no --v1, got it"),
    ],
)
def test_what_does_not_go_with_it(
    registry: FakeV1Registry, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    assert error_of(pull(tmp_path, registry, *words)) == (2, message)


def test_digest_is_not_known_there(registry: FakeV1Registry, tmp_path: Path) -> None:
    name = f"{registry.host}/app@sha256:{'0' * 64}"
    ended = run_command("pull", "--v1", name, "--out", tmp_path / "layout", home=tmp_path)
    assert error_of(ended) == (
        2,
        f"{name}: expected a tag, got a digest, which Docker's registry protocol v1 does not support",
    )
