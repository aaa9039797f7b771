"""`ociexport gc`: what nothing leads to goes, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociexport import verify
from ociexport.errors import InvalidImageError, NotFoundError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.verification.garbage import collect_garbage
from tests.support.command import run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, build_artifact, build_image, build_index, to_json
from tests.support.memory_source import member
from tests.support.schema1_images import build_schema1

IMAGE = build_image([[member("a", b"x")], [member("b")]])
OTHER = build_image([[member("c")], [member("a", b"x")]], platform=ARM64)
INDEX = build_index([OTHER, IMAGE])


def blobs(layout: DamagedLayout) -> set[str]:
    return {path.name for path in (layout.path / "blobs").glob("*/*")}


def names(*digests: Digest) -> set[str]:
    return {digest.encoded for digest in digests}


def unlist(layout: DamagedLayout, position: int) -> None:
    layout.edit_index(lambda index: index["manifests"].pop(position))


def test_what_is_listed_is_kept_with_all_that_it_names(layout: DamagedLayout) -> None:
    layout.write(all=build_index([INDEX]), one=IMAGE, chart=build_artifact(b"chart"))
    before = blobs(layout)
    result = collect_garbage(layout.path)
    assert (result.dropped, result.kept, blobs(layout)) == ((), len(before), before)
    assert not (layout.path / ".ociexport").exists()


def test_what_is_listed_no_more_goes_but_for_what_others_share(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    unlist(layout, 1)
    gone = OTHER.all_digests - IMAGE.all_digests
    sizes = sum(layout.blob(digest).stat().st_size for digest in gone)
    result = collect_garbage(layout.path)
    assert {os.path.basename(file.path) for file in result.dropped} == names(*gone)
    assert (result.size, result.freed, result.kept) == (sizes, sizes, len(IMAGE.all_digests))
    assert blobs(layout) == names(*IMAGE.all_digests)
    assert verify(layout.path).findings == ()


def test_dry_run_writes_nothing(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    unlist(layout, 0)
    before = sorted(layout.path.rglob("*"))
    would = collect_garbage(layout.path, dry_run=True)
    assert sorted(layout.path.rglob("*")) == before
    assert collect_garbage(layout.path) == would
    assert len(would.dropped) == 3


def test_sparse_index_keeps_what_is_there(layout: DamagedLayout) -> None:
    """image-layout.md: what is missing may be elsewhere; it names nothing here."""
    layout.write(all=INDEX)
    for digest in OTHER.all_digests - IMAGE.all_digests:
        layout.blob(digest).unlink()
    assert collect_garbage(layout.path).dropped == ()


def test_foreign_layers_unknown_documents_and_dockers_first_manifests_keep_what_they_name(
    layout: DamagedLayout,
) -> None:
    layout.write(one=IMAGE, other=OTHER)
    descriptors = [{"mediaType": "x/y", "digest": str(digest), "size": 1} for digest in OTHER.all_digests]
    layout.add(to_json({"blobs": descriptors}), "application/vnd.cncf.oras.artifact.manifest.v1+json")
    layers = [{"blobSum": str(layer.digest)} for layer in IMAGE.layers]
    old = build_schema1([b"", None], edit=lambda manifest: manifest.update(fsLayers=layers))
    layout.add(old.raw, mediatypes.DOCKER_SCHEMA1, tag="old")
    unlist(layout, 0)
    unlist(layout, 0)
    assert {file.path for file in collect_garbage(layout.path).dropped} == {
        f"blobs/sha256/{digest.encoded}" for digest in (IMAGE.digest, IMAGE.config.digest)
    }


def test_what_a_listed_signature_is_about_is_kept_and_not_the_other_way_round(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    raw = json.loads(build_artifact(b"{}").raw)
    layout.blob(Digest.of(b"{}")).write_bytes(b"{}")
    signature = layout.add(to_json({**raw, "subject": IMAGE.descriptor.to_json()}), mediatypes.OCI_MANIFEST)
    unlisted = layout.add(to_json({**raw, "subject": OTHER.descriptor.to_json()}), mediatypes.OCI_MANIFEST)
    unlist(layout, 3)
    unlist(layout, 0)
    assert [file.path for file in collect_garbage(layout.path).dropped] == [f"blobs/sha256/{unlisted.encoded}"]
    assert blobs(layout) == names(*IMAGE.all_digests, *OTHER.all_digests, signature, Digest.of(b"{}"))


def test_what_ended_early_goes(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    partial = layout.path / ".ociexport" / "partial"
    partial.mkdir(parents=True)
    (partial / f"sha256-{'0' * 64}").write_bytes(b"part")
    temporary = layout.blob(IMAGE.digest).with_name(f"{IMAGE.digest.encoded}.0123456789ab")
    temporary.write_bytes(b"x")
    # As `ociexport.system.files` calls one, where it must have a name.
    hidden = temporary.with_name(f".{IMAGE.digest.encoded}.partial")
    hidden.write_bytes(b"xy")
    kept = layout.path / "blobs" / "sha256" / "README"
    kept.write_bytes(b"")
    result = collect_garbage(layout.path)
    assert [(file.path, file.size) for file in result.dropped] == [
        (f"blobs/sha256/{hidden.name}", 2),
        (f"blobs/sha256/{temporary.name}", 1),
        (f".ociexport/partial/sha256-{'0' * 64}", 4),
    ]
    assert (hidden.exists(), kept.exists(), (layout.path / ".ociexport").exists()) == (False, True, False)


def test_what_lies_in_a_cache_too_stays_on_the_disk(layout: DamagedLayout, tmp_path: Path) -> None:
    """A cache shares blobs with layouts by hard links, and keeps its own names."""
    cache = BlobCache(tmp_path / "cache")
    pull(IMAGE.source("1", None), ImageLayout(layout.path, cache=cache))
    layout.edit_index(lambda index: index["manifests"].clear())
    result = collect_garbage(layout.path)
    assert (len(result.dropped), result.freed, blobs(layout)) == (4, 0, set())
    assert {path.name for path in (tmp_path / "cache").glob("blobs/*/*")} == names(*IMAGE.all_digests)


def test_links_go_and_what_they_lead_to_stays(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (layout.path / "blobs" / "sha256" / ("0" * 64)).symlink_to(tmp_path / "elsewhere")
    assert len(collect_garbage(layout.path).dropped) == 1
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert blobs(layout) == names(*IMAGE.all_digests)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_directory_of_blobs_that_is_elsewhere_is_left_alone(
    layout: DamagedLayout, tmp_path: Path, name: str, dry_run: bool
) -> None:
    """It may be others' as well."""
    layout.write(one=IMAGE)
    layout.edit_index(lambda index: index["manifests"].clear())
    place = layout.path / name
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    with pytest.raises(UsageError) as caught:
        collect_garbage(layout.path, dry_run=dry_run)
    assert str(caught.value) == f"'{place}': expected a directory, got a link"
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


@pytest.mark.parametrize("damage", ["bytes", "flaw", "unknown", "not a file"])
def test_damaged_documents_keep_everything(layout: DamagedLayout, damage: str) -> None:
    """Nobody knows what they name."""
    layout.write(one=IMAGE, other=OTHER)
    if damage == "flaw":
        raw = json.loads(IMAGE.raw)
        raw["layers"][0]["size"] = "7"
        digest = layout.add(to_json(raw), mediatypes.OCI_MANIFEST)
        unlist(layout, 0)
    elif damage == "unknown":
        digest = layout.add(b"{}", "application/x+json")
        layout.blob(digest).write_bytes(b"[]")
    else:
        digest = IMAGE.digest
        layout.blob(digest).unlink()
        if damage == "bytes":
            layout.blob(digest).write_bytes(b"{}")
        else:
            layout.blob(digest).mkdir()
    before = blobs(layout)
    with pytest.raises(InvalidImageError) as caught:
        collect_garbage(layout.path)
    assert str(caught.value) == (
        f"{layout.path}: manifest {digest}: expected a readable document, got a damaged one; nothing was removed"
    )
    assert caught.value.hint == f"ociexport verify {layout.path} lists the problems"
    assert blobs(layout) == before


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"manifests":[{}]}'])
def test_layout_without_a_right_index_is_left_alone(layout: DamagedLayout, content: bytes | None) -> None:
    """An index that is not there lists nothing, and still nothing may go."""
    layout.write(one=IMAGE)
    (layout.path / "index.json").unlink()
    if content is not None:
        (layout.path / "index.json").write_bytes(content)
    before = sorted(layout.path.rglob("*"))
    with pytest.raises((InvalidImageError, FileNotFoundError)):
        collect_garbage(layout.path)
    assert sorted(layout.path.rglob("*")) == before


def test_what_is_no_layout_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"")
    with pytest.raises(NotFoundError):
        collect_garbage(tmp_path)
    assert len(list(tmp_path.rglob("*"))) == 3


@contextmanager
def in_use(layout: DamagedLayout) -> Iterator[None]:
    """Hold the layout as another process does that pulls into it."""
    (layout.path / ".ociexport").mkdir(exist_ok=True)
    with (layout.path / ".ociexport" / "users").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@pytest.mark.parametrize("dry_run", [True, False])
def test_layout_that_somebody_writes_to_is_left_alone(layout: DamagedLayout, dry_run: bool) -> None:
    layout.write(one=IMAGE)
    layout.edit_index(lambda index: index["manifests"].clear())
    with in_use(layout), pytest.raises(UsageError) as caught:
        collect_garbage(layout.path, dry_run=dry_run)
    assert str(caught.value) == f"{layout.path}: expected a layout that is not in use, got one in use"
    assert caught.value.hint == "try again when the other ociexport has ended"
    assert blobs(layout) == names(*IMAGE.all_digests)
    assert len(collect_garbage(layout.path).dropped) == 4


def test_whoever_wants_to_pull_waits_for_gc(layout: DamagedLayout) -> None:
    """What it is about to write must not be taken for garbage."""
    layout.write(one=IMAGE)
    with FakeRegistry() as registry, ThreadPoolExecutor() as threads:
        name = OTHER.serve(registry, "library/app", "1")
        with ImageLayout(layout.path).hold_alone():
            pulled = threads.submit(pull, name, layout.path, platform=PlatformChoice())
            while not any(str(OTHER.config.digest) in path for path in registry.paths("GET")):
                assert not pulled.done()
            assert not any(str(layer.digest) in path for layer in OTHER.layers for path in registry.paths("GET"))
            assert blobs(layout) == names(*IMAGE.all_digests)
        pulled.result(60)
    assert verify(layout.path).findings == ()


def test_command_prints_paths_and_tells_what_was_freed(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    layout.blob(Digest.of(b"left")).write_bytes(b"left")
    path = f"blobs/sha256/{Digest.of(b'left').encoded}"
    ended = run_command("gc", layout.path, "--dry-run", "--json", home=tmp_path)
    assert (ended.returncode, json.loads(ended.stdout)) == (
        0,
        {
            "jsonVersion": 1,
            "command": "gc",
            "layout": str(layout.path),
            "dryRun": True,
            "dropped": [{"path": path, "size": 4}],
            "droppedBytes": 4,
            "freedBytes": 4,
            "keptBlobs": 4,
        },
    )
    ended = run_command("gc", layout.path, "--dry-run", home=tmp_path)
    assert ended.stderr == f"ociexport: {layout.path}: 1 file would be removed, 4 B; 4 blobs kept\n"
    ended = run_command("gc", layout.path, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"{path}\n")
    assert ended.stderr == f"ociexport: {layout.path}: 1 file removed, 4 B; 4 blobs kept\n"
    ended = run_command("gc", layout.path, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == f"ociexport: {layout.path}: nothing to remove, 4 blobs kept\n"
    with in_use(layout):
        assert run_command("gc", layout.path, home=tmp_path).returncode == 2
