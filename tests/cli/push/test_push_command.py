"""`ociexport push`: what arrives, in which order, and that nothing is sent twice or moved unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.spec.digest import Digest
from ociexport.storage.layout.saved_uploads import SavedUploads
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    build_image,
    write_layout,
)
from tests.support.memory_source import member
from tests.support.pushed_images import APP, BASE, INDEX, OTHER, Push, errors_of, sent
from tests.support.signing import pem_of, signature_of, tag_of


def test_all_images_arrive_under_their_own_names(registry: FakeRegistry, layout: Path, push: Push) -> None:
    ended = push(layout, f"{registry.host}/mirror")
    names = {"mirror/docker.io/library/app": ("1", INDEX), "mirror/quay.io/team/other": ("2", OTHER)}
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        f"{registry.host}/{name}:{tag}@{image.digest}" for name, (tag, image) in names.items()
    ]
    for name, (tag, image) in names.items():
        assert registry.manifests[name, tag][0] == image.raw
        for digest, document in image.documents.items():
            assert registry.manifests[name, str(digest)] == document
    assert registry.blobs == {str(digest): raw for digest, raw in {**INDEX.blobs, **OTHER.blobs}.items()}


def test_blobs_come_before_manifests_children_first_and_the_tag_last(
    registry: FakeRegistry, layout: Path, push: Push
) -> None:
    """The fake registry refuses a manifest whose blobs or children are missing, as real ones do."""
    assert push(f"{layout}:docker.io/library/app:1", f"{registry.host}/m").returncode == 0
    requests = sent(registry)
    manifests = [place for place, one in enumerate(requests) if "/manifests/" in one]
    assert manifests == list(range(len(requests) - len(INDEX.documents) - 1, len(requests)))
    assert requests[-2:] == [
        f"PUT /v2/m/docker.io/library/app/manifests/{INDEX.digest}",
        "PUT /v2/m/docker.io/library/app/manifests/1",
    ]


def test_a_second_push_sends_nothing(registry: FakeRegistry, layout: Path, push: Push) -> None:
    assert push(layout, registry.host).returncode == 0
    registry.requests.clear()
    registry.uploads.bodies.clear()
    ended = push(layout, registry.host, "--json")
    assert sent(registry) == []
    images = json.loads(ended.stdout)["images"]
    assert [image["sentBlobs"] for image in images] == [0, 0]
    assert [image["thereBlobs"] for image in images] == [len(INDEX.blobs), len(OTHER.blobs)]


def test_a_blob_of_two_images_is_sent_once_and_mounted(registry: FakeRegistry, layout: Path, push: Push) -> None:
    images = json.loads(push(layout, registry.host, "--json").stdout)["images"]
    assert [image["mountedBlobs"] for image in images] == [0, 1]
    assert registry.uploads.received_bytes == sum(map(len, registry.blobs.values()))


def test_one_image_gets_the_name_that_the_user_types(registry: FakeRegistry, layout: Path, push: Push) -> None:
    assert push(f"{layout}:quay.io/team/other:2", f"{registry.host}/a/b:tag").returncode == 0
    assert registry.manifests["a/b", "tag"][0] == OTHER.raw


def test_images_with_tags_alone_need_a_repository(registry: FakeRegistry, tmp_path: Path, push: Push) -> None:
    write_layout(tmp_path / "tags", {"1.0": APP, "2.0": OTHER})
    assert push(tmp_path / "tags", f"{registry.host}/team/app").returncode == 0
    assert registry.manifests["team/app", "2.0"][0] == OTHER.raw
    registry.requests.clear()
    ended = push(tmp_path / "tags", registry.host)
    assert ended.returncode == 2
    assert "expected an image with a full name, got the tag '1.0' alone" in ended.stderr
    assert registry.requests == []


@pytest.mark.parametrize("kind", ["archive", "dir", "registry"])
def test_other_sources_are_pushed_too(
    registry: FakeRegistry, layout: Path, tmp_path: Path, push: Push, kind: str
) -> None:
    with FakeRegistry() as origin:
        origin_name = OTHER.serve(origin, "team/other", "2")
        source = origin_name
        if kind == "archive":
            source = f"{tmp_path}/saved.tar"
            assert run_command("pull", origin_name, "-o", source, home=tmp_path).returncode == 0
        if kind == "dir":
            (tmp_path / "dir").mkdir()
            (tmp_path / "dir" / "version").write_text("Directory Transport Version: 1.1\n")
            (tmp_path / "dir" / "manifest.json").write_bytes(OTHER.raw)
            for digest, raw in OTHER.blobs.items():
                (tmp_path / "dir" / digest.encoded).write_bytes(raw)
            source = f"dir:{tmp_path}/dir"
        ended = push(source, f"{registry.host}/x/other:2")
        assert ended.returncode == 0, ended.stderr
        assert registry.manifests["x/other", "2"] == OTHER.documents[OTHER.digest]


def test_an_image_in_the_same_registry_is_mounted(registry: FakeRegistry, push: Push) -> None:
    source = APP.serve(registry, "team/app", "1")
    for digest in APP.blobs:
        registry.uploads.homes[str(digest)] = {"team/app"}
    assert push(source, f"{registry.host}/prod/app:1").returncode == 0
    assert registry.manifests["prod/app", "1"][0] == APP.raw
    assert registry.uploads.bodies == []


# Tags


def test_a_tag_with_another_digest_is_not_moved(registry: FakeRegistry, layout: Path, push: Push) -> None:
    name = f"{registry.host}/quay.io/team/other:2"
    APP.serve(registry, "quay.io/team/other", "2")
    ended = push(layout, registry.host)
    assert ended.returncode == 2
    assert errors_of(ended) == [
        f"ociexport: error: {name}: expected no tag, or one with {OTHER.digest}, got {APP.digest}",
        "hint: --move-tags moves a tag that exists",
    ]
    assert sent(registry) == []
    assert push(layout, registry.host, "--move-tags").returncode == 0
    assert registry.manifests["quay.io/team/other", "2"][0] == OTHER.raw


def test_the_tag_of_a_single_image_is_asked_before_blobs_and_before_it_is_given(
    registry: FakeRegistry, layout: Path, push: Push
) -> None:
    """More questions cost a round trip each."""
    source, name = f"{layout}:quay.io/team/other:2", f"{registry.host}/m/quay.io/team/other:2"
    APP.serve(registry, "m/quay.io/team/other", "2")
    ended = push(source, f"{registry.host}/m")
    assert ended.returncode == 2
    assert errors_of(ended)[0].startswith(f"ociexport: error: {name}: expected no tag, or one with {OTHER.digest}, got")
    assert sent(registry) == []
    asked = [request.method for request in registry.requests if request.path.endswith("/manifests/2")]
    assert asked == ["HEAD"]
    assert push(source, f"{registry.host}/n").returncode == 0
    asked = [
        request.method
        for request in registry.requests
        if request.path.startswith("/v2/n/") and "ests/2" in request.path
    ]
    assert asked == ["HEAD", "HEAD", "PUT"]


def test_a_tag_that_appears_meanwhile_is_not_moved(registry: FakeRegistry, layout: Path, push: Push) -> None:
    """The tag is there when the manifest is stored, which is after the first check."""

    def appears(request: object) -> bool:
        APP.serve(registry, "m/quay.io/team/other", "2")
        return False

    registry.misbehave(f"/manifests/{OTHER.digest}", Fault(), method="PUT", when=appears)
    ended = push(f"{layout}:quay.io/team/other:2", f"{registry.host}/m")
    assert ended.returncode == 2
    assert registry.manifests["m/quay.io/team/other", "2"][0] == APP.raw


def test_a_registry_that_answers_no_head_or_digest_is_asked_otherwise(
    registry: FakeRegistry, layout: Path, push: Push
) -> None:
    registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": None}))
    assert push(layout, registry.host).returncode == 0
    registry.misbehave("/manifests/", Fault(status=405), method="HEAD")
    registry.requests.clear()
    assert push(layout, registry.host).returncode == 0
    assert sent(registry) == []


# What the source lacks


def remove(layout: Path, *digests: Digest) -> None:
    for digest in digests:
        (layout / "blobs" / "sha256" / digest.encoded).unlink()


def test_blobs_that_nobody_has_are_named_and_nothing_is_sent(registry: FakeRegistry, layout: Path, push: Push) -> None:
    remove(layout, *(layer.digest for layer in OTHER.layers))
    ended = push(f"{layout}:quay.io/team/other:2", registry.host)
    assert ended.returncode == 7
    assert all(str(layer.digest) in errors_of(ended)[0] for layer in OTHER.layers)
    assert sent(registry) == []


def test_a_missing_config_and_manifest_are_named_too(registry: FakeRegistry, layout: Path, push: Push) -> None:
    remove(layout, OTHER.config.digest, OTHER.layers[1].digest)
    ended = push(f"{layout}:quay.io/team/other:2", registry.host)
    assert (ended.returncode, sent(registry)) == (7, [])
    assert all(str(one.digest) in errors_of(ended)[0] for one in (OTHER.config, OTHER.layers[1]))
    remove(layout, APP.digest, INDEX.config.digest)
    ended = push(f"{layout}:docker.io/library/app:1", registry.host)
    assert (ended.returncode, sent(registry)) == (7, [])
    assert all(str(digest) in errors_of(ended)[0] for digest in (APP.digest, INDEX.config.digest))
    dry = push(f"{layout}:docker.io/library/app:1", registry.host, "--dry-run")
    assert (dry.returncode, dry.stdout) == (7, "")


def test_a_thin_layout_is_pushed_where_the_rest_is(registry: FakeRegistry, layout: Path, push: Push) -> None:
    OTHER.serve(registry, "quay.io/team/other", None)
    remove(layout, OTHER.config.digest, OTHER.layers[0].digest)
    ended = push(f"{layout}:quay.io/team/other:2", registry.host)
    assert ended.returncode == 0, ended.stderr
    assert registry.manifests["quay.io/team/other", "2"][0] == OTHER.raw


def test_a_base_that_the_image_names_is_mounted(registry: FakeRegistry, tmp_path: Path, push: Push) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["annotations"] = {"org.opencontainers.image.base.name": f"{registry.host}/base/debian:12"}

    image = build_image([BASE, [member("new", b"new")]], edit_manifest=edit)
    write_layout(tmp_path / "thin", {"docker.io/library/new:1": image})
    base = image.layers[0].digest
    registry.uploads.homes[str(registry.add_blob(image.blobs[base], base))] = {"base/debian"}
    remove(tmp_path / "thin", base)
    told = json.loads(push(tmp_path / "thin", registry.host, "--dry-run", "--json").stdout)
    assert sent(registry) == []
    assert [blob["mountedFrom"] for blob in told["images"][0]["blobs"]] == [None, "base/debian", None]
    ended = push(tmp_path / "thin", registry.host)
    assert ended.returncode == 0, ended.stderr
    assert registry.manifests["docker.io/library/new", "1"][0] == image.raw


def test_a_damaged_blob_is_not_completed(registry: FakeRegistry, layout: Path, push: Push) -> None:
    path = layout / "blobs" / "sha256" / OTHER.layers[0].digest.encoded
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    ended = push(f"{layout}:quay.io/team/other:2", registry.host)
    assert ended.returncode == 7
    assert "digest mismatch" in errors_of(ended)[0]
    assert str(OTHER.layers[0].digest) not in registry.blobs


# Dry run


def test_a_dry_run_tells_what_is_there_what_to_mount_and_what_to_send(
    registry: FakeRegistry, layout: Path, push: Push
) -> None:
    registry.add_blob(APP.blobs[APP.config.digest])
    told = json.loads(push(layout, registry.host, "--dry-run", "--json").stdout)
    assert sent(registry) == []
    states = [{blob["digest"]: blob["state"] for blob in image["blobs"]} for image in told["images"]]
    assert states[0][str(APP.config.digest)] == "there"
    assert states[0][str(OTHER.layers[0].digest)] == "send"
    assert states[1][str(OTHER.layers[0].digest)] == "mount"
    assert told["images"][1]["destination"] == f"{registry.host}/quay.io/team/other:2"
    assert told["thereBlobs"] + told["mountBlobs"] + told["sendBlobs"] == len(INDEX.blobs) + len(OTHER.blobs)
    assert "to mount from docker.io/library/app" in push(layout, registry.host, "--dry-run").stdout


# Failures


def test_one_image_that_fails_does_not_end_the_others(registry: FakeRegistry, layout: Path, push: Push) -> None:
    remove(layout, INDEX.digest)
    ended = push(layout, registry.host, "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 3
    assert [failure["exitCode"] for failure in told["failures"]] == [3]
    assert [image["name"] for image in told["images"]] == ["quay.io/team/other:2"]


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (429, 6), (500, 5), (400, 1)])
def test_the_exit_codes_are_those_of_pull(layout: Path, push: Push, status: int, code: int) -> None:
    with FakeRegistry(read_only=status) as registry:
        ended = push(layout, registry.host, "--retry-times", "1")
        assert ended.returncode == code
        assert len(errors_of(ended)) <= 4
        assert "Traceback" not in ended.stderr


def test_credentials_are_for_the_destination_alone(layout: Path, push: Push) -> None:
    with FakeRegistry() as origin, FakeRegistry(auth="basic", users={"user": "pass:word"}) as registry:
        source = APP.serve(origin, "team/app", "1")
        ended = push(source, f"{registry.host}/x:1", "--creds", "user:pass:word", "-H", "X-Secret: s")
        assert ended.returncode == 0, ended.stderr
        assert all({"authorization", "x-secret"}.isdisjoint(request.headers) for request in origin.requests)


def test_only_a_signed_image_is_pushed(registry: FakeRegistry, tmp_path: Path, push: Push) -> None:
    """Also where the registry has a document that the layout lacks."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pub").write_bytes(pem_of(key))
    images = {f"docker.io/library/app:{tag_of(APP)}": signature_of(APP, key), "docker.io/library/app:1": INDEX}
    write_layout(tmp_path / "layout", images)
    INDEX.serve(registry, "docker.io/library/app", None)
    child = next(digest for digest in INDEX.documents if digest not in (INDEX.digest, APP.digest))
    remove(tmp_path / "layout", child)
    source = f"{tmp_path}/layout:docker.io/library/app:1"
    ended = push(source, registry.host, "--verify-key", tmp_path / "key.pub")
    assert (ended.returncode, sent(registry)) == (7, [])
    assert "expected a signature by the key in" in ended.stderr
    ended = push(source, registry.host, "--verify-key", tmp_path / "key.pub", "--platform", "linux/amd64")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["verify", "gc"])
def test_a_layout_with_an_upload_that_was_begun_is_right(
    registry: FakeRegistry, layout: Path, tmp_path: Path, command: str
) -> None:
    saved = SavedUploads(str(layout), registry.host, "team/app")
    saved.write(APP.digest, f"{registry.url}/v2/team/app/blobs/uploads/1")
    ended = run_command(command, layout, home=tmp_path)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert saved.find(APP.digest) is not None
