"""server: a name leads to the one image that the layout gives it, or to none; the registry may be named."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociexport.registry.server import LayoutServer
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.registry.test_server import Answer, ask
from tests.registry.test_server_requests import serving
from tests.support.command import command_environment
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT

IMAGE = build_image([[member("a", b"1" * 5000)]])


def manifest(note: str, **members: object) -> bytes:
    return json.dumps({**json.loads(IMAGE.raw), "annotations": {"n": note}, **members}).encode()


HUB, QUAY, OTHER = (manifest(note) for note in ("hub", "quay", "other"))
SBOM = manifest("sbom", config={"mediaType": "application/x.sbom", "digest": str(Digest.of(b"{}")), "size": 2})
TYPED = manifest("typed", artifactType="application/x.sbom")
SUBJECT = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(Digest.of(HUB)), "size": len(HUB)}
REFERRER = manifest("referrer", subject=SUBJECT)


def write_entries(path: Path, *entries: tuple[str, bytes] | tuple[str, bytes, str]) -> Path:
    """Write a layout of (full name or tag, manifest, kind)."""
    write_layout(path, {"1": IMAGE})
    listed: list[dict[str, Any]] = []
    for name, raw, *kind in entries:
        digest = Digest.of(raw)
        (path / "blobs" / "sha256" / digest.encoded).write_bytes(raw)
        annotations = {"org.opencontainers.image.ref.name": name, **({"kind": kind[0]} if kind else {})}
        listed.append(
            {
                "mediaType": mediatypes.OCI_MANIFEST,
                "digest": str(digest),
                "size": len(raw),
                "annotations": annotations,
            }
        )
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))
    return path


def get(server: LayoutServer, name: str, tag: str, query: str = "") -> Answer:
    return ask(server, f"/v2/{name}/manifests/{tag}{query}")


def listed(server: LayoutServer, path: str) -> object:
    body = json.loads(ask(server, path).body)
    return body.get("tags", body.get("repositories"))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two registries with a repository of the same path: one tag differs, one is the same, one is in one only."""
    return write_entries(
        tmp_path / "l",
        ("docker.io/library/app:1", HUB),
        ("quay.io/library/app:1", QUAY),
        ("docker.io/library/app:same", OTHER),
        ("quay.io/library/app:same", OTHER),
        ("quay.io/library/app:2", OTHER),
        ("reg.test:5000/team/x:1", OTHER),
    )


def test_registry_chooses_by_parameter_and_by_name(two: Path) -> None:
    with serving(two) as server:
        for query in ("?ns=docker.io", "?ns=index.docker.io", "?ns=Docker.IO"):
            assert get(server, "library/app", "1", query).body == HUB
        assert get(server, "library/app", "1", "?ns=quay.io").body == QUAY
        assert get(server, "docker.io/library/app", "1").body == HUB
        assert get(server, "quay.io/library/app", "1").body == QUAY
        assert get(server, "team/x", "1", "?ns=reg.test:5000").body == OTHER
        assert get(server, "team/x", "1", "?ns=reg.test%3A5000").body == OTHER
        for name, tag, registry in (
            ("library/app", "2", "docker.io"),
            ("library/app", "1", "ghcr.io"),
            ("library/app", "1", "/"),
            ("team/x", "1", "reg.test"),
            ("l", "1", "docker.io"),
        ):
            assert get(server, name, tag, f"?ns={registry}").code == "MANIFEST_UNKNOWN"
        layer = f"/v2/library/app/blobs/{IMAGE.layers[0].digest}?ns="
        assert [ask(server, layer + registry).status for registry in ("quay.io", "ghcr.io")] == [200, 404]


def test_name_without_registry_works_where_it_is_unique(two: Path) -> None:
    with serving(two) as server:
        for name, tag in (("library/app", "same"), ("library/app", "2"), ("team/x", "1")):
            assert get(server, name, tag).body == OTHER
        clash = get(server, "library/app", "1")
        assert (clash.status, clash.code) == (404, "MANIFEST_UNKNOWN")
        (error,) = json.loads(clash.body)["errors"]
        assert error["message"] == (
            "library/app:1 is the name of several images: docker.io/library/app:1, quay.io/library/app:1"
        )
        for raw in (HUB, QUAY):
            assert get(server, "library/app", str(Digest.of(raw))).body == raw


def test_command_tells_the_clash_when_it_starts(two: Path, tmp_path: Path) -> None:
    command = [*OCIEXPORT, "serve", str(two), "--addr", "127.0.0.1:0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=command_environment(tmp_path), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        host = process.stdout.readline().strip()
        # When the server answers, the command has printed everything.
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        told = process.stderr.readlines()
    assert told == [
        f"ociexport: serving {two}: tags: 8, such as {host}/docker.io/library/app:1\n",
        "ociexport: warning: ambiguous, answered with 404 (name the registry, or the digest): library/app:1 is "
        "the name of several images: docker.io/library/app:1, quay.io/library/app:1\n",
    ]


def test_lists_have_only_names_that_lead_to_an_image(two: Path) -> None:
    with serving(two) as server:
        names = ["docker.io/library/app", "library/app", "quay.io/library/app", "team/x"]
        assert listed(server, "/v2/_catalog") == names
        assert listed(server, "/v2/library/app/tags/list") == ["2", "same"]
        assert listed(server, "/v2/library/app/tags/list?ns=docker.io") == ["1", "same"]
        assert listed(server, "/v2/quay.io/library/app/tags/list") == ["1", "2", "same"]
        first = ask(server, "/v2/library/app/tags/list?ns=quay.io&n=2")
        assert listed(server, first.headers["Link"].split(">")[0][1:]) == ["same"]


def test_repository_of_clashes_only_is_not_listed(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "l", ("docker.io/a/b:1", HUB), ("quay.io/a/b:1", QUAY))
    with serving(path) as server:
        assert listed(server, "/v2/_catalog") == ["docker.io/a/b", "quay.io/a/b"]
        answer = ask(server, "/v2/a/b/tags/list")
        assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
        assert b"is the name of several images" in answer.body


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    "companion",
    [
        (OTHER, "dev.hauler/sigs"),
        (OTHER, "dev.cosignproject.cosign/sigs"),
        (OTHER, "dev.cosignproject.cosign/atts"),
        (OTHER, "dev.hauler/sboms"),
        (SBOM,),
        (TYPED,),
        (REFERRER,),
    ],
)
def test_companion_never_answers_the_tag_of_an_image(
    tmp_path: Path, companion: tuple[bytes] | tuple[bytes, str], is_reversed: bool
) -> None:
    entries = [("ghcr.io/x/y:1", HUB, "dev.hauler/image"), ("ghcr.io/x/y:1", *companion)]
    with serving(write_entries(tmp_path / "l", *(entries[::-1] if is_reversed else entries))) as server:
        assert get(server, "x/y", "1").body == HUB
        assert get(server, "x/y", str(Digest.of(companion[0]))).body == companion[0]
        assert server.catalog.clashes() == []


def test_companion_has_its_own_tag(tmp_path: Path) -> None:
    """An artifact is served under a tag of its own; an entry that says it is a signature only under cosign's tags."""
    tag = f"sha256-{Digest.of(HUB).encoded}.sig"
    path = write_entries(
        tmp_path / "l",
        (f"ghcr.io/x/y:{tag}", OTHER, "dev.cosignproject.cosign/sigs"),
        ("ghcr.io/x/y:lone", QUAY, "dev.cosignproject.cosign/sigs"),
        ("ghcr.io/x/y:chart", SBOM),
    )
    with serving(path) as server:
        assert listed(server, "/v2/x/y/tags/list") == ["chart", tag]
        assert get(server, "x/y", "lone").status == 404


def test_two_images_of_one_full_name_are_a_clash(tmp_path: Path) -> None:
    with serving(write_entries(tmp_path / "l", ("quay.io/a/b:1", HUB), ("quay.io/a/b:1", QUAY))) as server:
        for query in ("", "?ns=quay.io"):
            assert get(server, "a/b", "1", query).status == 404
        assert len(server.catalog.clashes()) == 2
