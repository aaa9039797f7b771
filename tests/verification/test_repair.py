"""repair(): what is broken in a layout is fetched again from where it came, and nothing is made worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ociexport import RepairResult, repair, verify
from ociexport.errors import NotFoundError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.pulled_index import FIRST, IMAGE, INDEX, OTHER, SECOND, pull_all
from tests.verification.test_sources import tar_from


@pytest.fixture
def pulled(layout: DamagedLayout, registry: FakeRegistry) -> DamagedLayout:
    return pull_all(registry, layout)


def named_on(registry: FakeRegistry) -> list[str]:
    """Return what lets a registry be asked for images that are called after it."""
    return [f"{registry.host}/"]


def repaired(result: RepairResult) -> set[Digest | None]:
    return {blob.digest for blob in result.repaired}


def reasons(result: RepairResult) -> list[str]:
    return [reason for blob in result.unrepaired for reason in blob.reasons]


# What is repaired.


@pytest.mark.parametrize("how", ["missing", "cut", "long", "other", "unreadable", "fifo", "looped"])
@pytest.mark.parametrize("what", ["layer", "config", "manifest", "index"])
def test_what_is_broken_comes_from_where_it_came(
    pulled: DamagedLayout, registry: FakeRegistry, what: str, how: str
) -> None:
    digest = {"layer": FIRST, "config": IMAGE.config, "manifest": IMAGE.descriptor, "index": INDEX.descriptor}[
        what
    ].digest
    before = (pulled.path / "index.json").read_bytes()
    pulled.spoil(digest, how)
    if what == "manifest" and how == "missing":
        # A manifest that an index names may be elsewhere.
        assert repair(pulled.path, origins=named_on(registry)).repaired == ()
    result = repair(pulled.path, origins=named_on(registry), strict=True)
    assert (repaired(result), result.unrepaired, result.is_right) == ({digest}, (), True)
    assert result.repaired[0].origin == f"{registry.host}/library/app:1"
    assert verify(pulled.path, strict=True).findings == ()
    assert (pulled.path / "index.json").read_bytes() == before
    assert [path.name for path in (pulled.path / ".ociexport").glob("*")] in ([], ["verified"])


def test_what_a_repaired_manifest_names_is_looked_at_again(pulled: DamagedLayout, registry: FakeRegistry) -> None:
    for image in (INDEX, IMAGE, OTHER):
        for digest in image.all_digests:
            pulled.blob(digest).unlink(missing_ok=True)
    result = repair(pulled.path, origins=named_on(registry), strict=True)
    assert (repaired(result), result.is_right) == (INDEX.all_digests, True)
    assert result.repaired[0].digest == INDEX.digest


def test_nothing_is_fetched_or_written_where_nothing_is_broken(pulled: DamagedLayout, registry: FakeRegistry) -> None:
    before = {path: path.stat().st_mtime_ns for path in pulled.path.rglob("*")}
    result = repair(pulled.path)
    assert (result.repaired, result.is_right, registry.requests) == ((), True, [])
    assert {path: path.stat().st_mtime_ns for path in pulled.path.rglob("*")} == before


def test_only_what_is_broken_is_fetched(pulled: DamagedLayout, registry: FakeRegistry) -> None:
    pulled.spoil(FIRST.digest, "cut")
    repair(pulled.path, origins=named_on(registry))
    assert [path for path in registry.paths("GET") if path != "/v2/"] == [f"/v2/library/app/blobs/{FIRST.digest}"]


def test_one_image_can_be_repaired_alone(layout: DamagedLayout, registry: FakeRegistry) -> None:
    pull(IMAGE.serve(registry, "library/app", "1"), layout.path, platform=PlatformChoice())
    pull(OTHER.serve(registry, "library/other", "2"), layout.path, platform=PlatformChoice())
    layout.spoil(FIRST.digest, "cut")
    layout.spoil(OTHER.layers[0].digest, "cut")
    result = repair(f"{layout.path}:2", origins=named_on(registry))
    assert (repaired(result), result.is_right, verify(layout.path).is_right) == (
        {OTHER.layers[0].digest},
        True,
        False,
    )


def test_layers_are_looked_into_after_they_were_repaired(layout: DamagedLayout, registry: FakeRegistry) -> None:
    bad = build_image([[member("a")], [member("../b")]])
    pull(bad.serve(registry, "library/app", "1"), layout.path)
    for layer in bad.layers:
        layout.spoil(layer.digest, "other")
    result = repair(layout.path, origins=named_on(registry), deep=True)
    assert (len(result.repaired), result.verification.layers) == (2, 2)
    assert [finding.kind.value for finding in result.verification.findings] == ["tar"]


@pytest.mark.parametrize("content", [None, b"", b'{"imageLay', b"{}"])
def test_layout_file_is_written_where_it_is_missing_or_torn(layout: DamagedLayout, content: bytes | None) -> None:
    """image-layout.md, "oci-layout file"."""
    layout.write(one=IMAGE)
    (layout.path / "oci-layout").unlink()
    (layout.path / "README").write_bytes(b"others' files are no hindrance")
    if content is not None:
        (layout.path / "oci-layout").write_bytes(content)
    result = repair(layout.path)
    assert list(map(str, result.repaired)) == ["repaired: oci-layout: 30 bytes from the specification"]
    assert result.is_right
    assert (layout.path / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'


def test_layout_of_another_version_is_left_alone(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    (layout.path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"2.0.0"}')
    result = repair(layout.path)
    assert (result.repaired, result.is_right) == ((), False)


# Where it comes from.


@pytest.mark.parametrize("kind", ["layout", "image", "archive", "archive image", "registry", "open"])
def test_user_says_where_to_look_first(
    layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    layout.write(one=IMAGE)
    backup = tmp_path / "backup"
    write_layout(backup, {"one": IMAGE, "other": OTHER})
    (tmp_path / "backup.tar").write_bytes(tar_from(backup))
    origin: Any = {
        "layout": backup,
        "image": f"{backup}:one",
        "archive": tmp_path / "backup.tar",
        "archive image": f"{tmp_path / 'backup.tar'}:one",
        "registry": IMAGE.serve(registry, "library/app", "1"),
        "open": IMAGE.source(),
    }[kind]
    for digest in (IMAGE.digest, IMAGE.config.digest, FIRST.digest):
        layout.spoil(digest, "other")
    result = repair(layout.path, origins=[origin])
    assert (len(result.repaired), result.is_right) == (3, True)


def test_docker_archive_gives_its_plain_layers(layout: DamagedLayout, tmp_path: Path) -> None:
    plain = build_image([[member("a", b"x")], [member("b")]], compression="plain")
    layout.write(one=plain)
    pull(plain.source("1", "docker.io/library/app:1"), tmp_path / "app.tar", legacy=True)
    for digest in (plain.config.digest, plain.layers[0].digest):
        layout.spoil(digest, "other")
    result = repair(layout.path, origins=[tmp_path / "app.tar"])
    assert (len(result.repaired), result.is_right) == (2, True)


def test_cache_is_looked_into_first(pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    pull(IMAGE.source("1", None), ImageLayout(tmp_path / "else", cache=cache))
    pulled.spoil(FIRST.digest, "other")
    result = repair(pulled.path, cache=tmp_path / "cache")
    assert [blob.origin for blob in result.repaired] == ["the cache"]
    assert (result.is_right, registry.requests) == (True, [])


def test_next_origin_is_asked_where_one_has_it_not(
    pulled: DamagedLayout, tmp_path: Path, registry: FakeRegistry
) -> None:
    write_layout(tmp_path / "backup", {"one": OTHER})
    pulled.spoil(FIRST.digest, "cut")
    pulled.spoil(OTHER.layers[0].digest, "cut")
    result = repair(pulled.path, origins=[tmp_path / "backup", *named_on(registry)])
    assert {blob.digest: blob.origin == str(tmp_path / "backup") for blob in result.repaired} == {
        FIRST.digest: False,
        OTHER.layers[0].digest: True,
    }
    assert result.is_right


def test_blob_that_its_descriptor_holds_needs_no_origin(layout: DamagedLayout) -> None:
    """image-spec descriptor.md, "Embedded Content"."""
    import base64  # noqa: PLC0415

    layer = build_image([[member("b")]])
    content = base64.b64encode(layer.blobs[layer.layers[0].digest]).decode()
    image = build_image([[member("b")]], edit_manifest=lambda manifest: manifest["layers"][0].update(data=content))
    layout.write(one=image)
    layout.spoil(image.layers[0].digest, "cut")
    result = repair(layout.path)
    assert [blob.origin for blob in result.repaired] == ["the document that names it"]
    assert result.is_right


# What can't be repaired.


def test_everything_that_can_not_be_repaired_is_told_and_the_rest_is_repaired(
    pulled: DamagedLayout, registry: FakeRegistry
) -> None:
    for digest in (FIRST.digest, SECOND.digest, IMAGE.config.digest):
        pulled.spoil(digest, "cut")
    del registry.blobs[str(FIRST.digest)]
    registry.misbehave(str(SECOND.digest), Fault(change=lambda body: body[::-1]))
    result = repair(pulled.path, origins=named_on(registry))
    assert repaired(result) == {IMAGE.config.digest}
    assert {blob.digest for blob in result.unrepaired} == {FIRST.digest, SECOND.digest}
    wrong = Digest.of(IMAGE.blobs[SECOND.digest][::-1])
    assert f"{registry.host}/library/app:1: digest mismatch: expected {SECOND.digest}, got {wrong}" in reasons(result)
    assert not result.is_right
    # What was there is there still.
    assert pulled.blob(FIRST.digest).stat().st_size == FIRST.size // 2
    assert pulled.blob(SECOND.digest).stat().st_size == SECOND.size // 2


def test_tag_alone_says_not_where_an_image_came_from(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    layout.spoil(FIRST.digest, "cut")
    result = repair(layout.path)
    assert reasons(result) == ["no origin to fetch it from: name one with --from SRC"]
    assert str(result.unrepaired[0]) == (
        f"one: manifest {IMAGE.digest}: layer 1 of 2 ({FIRST.digest}): not repaired: "
        "no origin to fetch it from: name one with --from SRC"
    )


def test_registry_that_does_not_answer_is_asked_once(pulled: DamagedLayout, registry: FakeRegistry) -> None:
    for digest in (FIRST.digest, SECOND.digest):
        pulled.spoil(digest, "cut")
    registry.misbehave("/blobs/", Fault(status=401))
    result = repair(pulled.path, origins=named_on(registry), jobs=1)
    assert (len(result.unrepaired), result.is_right) == (2, False)
    assert len({path for path in registry.paths("GET") if "/blobs/" in path}) == 1


def test_directory_in_the_place_of_a_blob_is_left_alone(pulled: DamagedLayout) -> None:
    pulled.spoil(FIRST.digest, "missing")
    pulled.blob(FIRST.digest).mkdir()
    assert reasons(repair(pulled.path)) == ["a directory is in its place"]


def test_entry_that_lies_about_a_size_is_no_damage(pulled: DamagedLayout) -> None:
    pulled.edit_index(lambda index: index["manifests"][0].update(size=5))
    result = repair(pulled.path)
    assert result.repaired == ()
    assert pulled.blob(INDEX.digest).read_bytes() == INDEX.raw


@pytest.mark.parametrize("content", [None, b"", b'{"manifests":[{"medi'])
def test_torn_index_is_told_with_what_is_there(layout: DamagedLayout, content: bytes | None) -> None:
    """Nothing else has the names; what is not known is not made up, nor is anything written."""
    layout.write(one=IMAGE, all=INDEX)
    (layout.path / "index.json").unlink()
    (layout.path / "oci-layout").unlink()
    if content is not None:
        (layout.path / "index.json").write_bytes(content)
    before = sorted(layout.path.rglob("*"))
    result = repair(layout.path)
    assert (result.repaired, result.is_right) == ((), False)
    assert result.advice == (
        "index.json can't be repaired, since nothing else records the images' names: move it away and pull the "
        f"images again into {layout.path}, which fetches only missing blobs; manifests in the layout: {INDEX.digest}",
    )
    assert sorted(layout.path.rglob("*")) == before


def test_damaged_orphan_is_for_gc(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    layout.blob(Digest("sha256", "0" * 64)).write_bytes(b"x")
    result = repair(layout.path)
    assert (result.is_right, result.advice) == (False, (f"ociexport gc {layout.path} removes unreferenced blobs",))


def test_absent_foreign_layer_is_not_fetched(layout: DamagedLayout, registry: FakeRegistry) -> None:
    foreign = build_image(
        [[member("a")]],
        edit_manifest=lambda manifest: manifest["layers"][0].update(
            mediaType=mediatypes.DOCKER_FOREIGN_LAYER_GZIP, urls=["https://example.com/layer"]
        ),
    )
    layout.write(**{f"{registry.host}/library/app:1": foreign})
    layout.blob(foreign.layers[0].digest).unlink()
    result = repair(layout.path)
    assert (result.repaired, result.unrepaired, result.is_right, registry.requests) == ((), (), True, [])


def test_only_layouts_are_repaired(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    archive = tmp_path / "images.tar"
    archive.write_bytes(tar_from(layout.path))
    for source in (str(archive), "registry.example/app:1"):
        with pytest.raises(UsageError) as caught:
            repair(source)
        assert str(caught.value) == f"repair: expected a layout, got '{source}'"
        assert caught.value.hint == (
            "write the archive again: ociexport pull SRC --out FILE.tar; "
            "or convert it: ociexport pull ./FILE.tar --out LAYOUT"
        )
    with pytest.raises(NotFoundError):
        repair(tmp_path / "none")
    with pytest.raises(NotFoundError):
        repair(layout.path, origins=[tmp_path / "none"])


def test_blobs_that_are_elsewhere_are_left_alone(pulled: DamagedLayout, tmp_path: Path) -> None:
    """A layout that came from elsewhere must not lead what is written in it to another place."""
    pulled.spoil(FIRST.digest, "cut")
    (pulled.path / "blobs").rename(tmp_path / "elsewhere")
    (pulled.path / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as caught:
        repair(pulled.path)
    assert str(caught.value) == f"'{pulled.path / 'blobs'}': expected a directory, got a link"
    assert (tmp_path / "elsewhere" / "sha256" / FIRST.digest.encoded).stat().st_size == FIRST.size // 2
