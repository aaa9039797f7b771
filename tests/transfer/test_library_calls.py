"""push(), merge(), and the updates of pull() do in a program what the commands do."""

from __future__ import annotations

from pathlib import Path

import pytest

import ociexport
from tests.support.deltas import write_versions
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.updates import NAME, V1, V2, blobs_in, write_whole

APP = build_image([[member("a")], [member("b")]], platform=AMD64)
WEB = build_image([[member("a")], [member("w")]], platform=AMD64)


def test_push_sends_all_images_of_a_layout(
    registry: FakeRegistry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_layout(tmp_path / "layout", {"docker.io/library/app:1": APP, "quay.io/team/web:2": WEB})
    app, web = ociexport.push(tmp_path / "layout", f"{registry.host}/far", rules=["quay.io/*=q/*"])
    assert (app.name, app.reference) == (
        "docker.io/library/app:1",
        f"{registry.host}/far/docker.io/library/app:1@{APP.digest}",
    )
    assert (web.digest, web.mounted.blobs, web.sent.blobs) == (WEB.digest, 1, 2)
    assert registry.manifests["far/q/team/web", "2"][0] == WEB.raw
    again = ociexport.push(str(tmp_path / "layout"), f"{registry.host}/far", rules=["quay.io/*=q/*"])
    assert [(one.sent, one.there.blobs) for one in again] == [(ociexport.BlobCount(0, 0), 3)] * 2
    assert capfd.readouterr() == ("", "")


def test_push_takes_an_image_of_another_registry_with_options_of_its_own(registry: FakeRegistry) -> None:
    options = ociexport.RegistryOptions(headers=(("X-Secret", "s"),))
    both = build_index([APP])
    with FakeRegistry() as origin:
        source = ociexport.ImageReference.parse(both.serve(origin, "team/app", "1"))
        (pushed,) = ociexport.push(source, f"{registry.host}/x:1", registry=options, platform=AMD64)
        assert pushed.digest == APP.digest
        assert all("x-secret" not in request.headers for request in origin.requests)
    assert any("x-secret" in request.headers for request in registry.requests)


def test_push_moves_no_tag_unasked(registry: FakeRegistry, tmp_path: Path) -> None:
    WEB.serve(registry, "docker.io/library/app", "1")
    write_layout(tmp_path / "layout", {"docker.io/library/app:1": APP})
    with pytest.raises(ociexport.UsageError, match="expected no tag"):
        ociexport.push(tmp_path / "layout", registry.host)
    assert registry.uploads.bodies == []
    ociexport.push(tmp_path / "layout", registry.host, move_tags=True)
    assert registry.manifests["docker.io/library/app", "1"][0] == APP.raw


@pytest.mark.parametrize("out", ["update", "update.tar"])
def test_pull_leaves_out_what_the_far_side_has_and_merge_unites_both(tmp_path: Path, out: str) -> None:
    far = write_whole(tmp_path / "far", V1)
    source = str(write_whole(tmp_path / "new", V2, "2"))
    pulled = ociexport.pull(source, tmp_path / out, platform=AMD64, since=far)
    assert pulled.thin is not None
    assert [one.digest for one in pulled.thin.new] == [V2.layers[2].digest]
    merged = ociexport.merge(far, tmp_path / out)
    assert [(image.name, image.is_complete) for image in merged.images] == [(f"{NAME}:2", True)]
    assert V2.all_digests <= blobs_in(far)
    # A path that exists is never a reference, nor is one that does not.
    with pytest.raises(ociexport.NotFoundError, match="gone"):
        ociexport.pull(source, tmp_path / "other", since=Path("gone"))


def test_merge_tells_what_is_missing(tmp_path: Path) -> None:
    source = str(write_whole(tmp_path / "new", V2, "2"))
    lines = "".join(f"{layer.digest}\n" for layer in V2.layers[:2])
    (tmp_path / "have").write_text(lines)
    ociexport.pull(source, tmp_path / "update", platform=AMD64, since=[tmp_path / "have"])
    (waiting,) = ociexport.merge(tmp_path / "far", [str(tmp_path / "update")], dry_run=True).waiting
    assert {blob.digest for blob in waiting.missing} == {layer.digest for layer in V2.layers[:2]}
    assert not (tmp_path / "far").exists()


def test_pull_makes_recipes_of_layers_that_changed(tmp_path: Path) -> None:
    _, new = write_versions(tmp_path)
    pulled = ociexport.pull(
        f"{tmp_path}/v2", tmp_path / "update.tar", platform=AMD64, since=tmp_path / "v1", delta=True
    )
    assert pulled.thin is not None
    assert pulled.thin.delta is not None
    assert len(pulled.thin.delta.recipes) == 2
    ociexport.merge(tmp_path / "far", [tmp_path / "update.tar"])
    assert new.all_digests <= blobs_in(tmp_path / "far")
    with pytest.raises(ociexport.UsageError, match="delta: expected since with it"):
        ociexport.pull(f"{tmp_path}/v2", tmp_path / "other", delta=True)
