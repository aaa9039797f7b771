"""BuildKit's cache index lists layers as manifests: it holds no image, and --all takes such entries as blobs.

Spec: BuildKit's cache/remotecache, without ``image-manifest=true``; image-spec 1.1 image-index.md, "manifests".
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import ociexport
from ociexport.cli.main import main
from ociexport.images.choose import PlatformChoice
from ociexport.registry.catalog import LayoutCatalog
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, build_image, build_index, descriptor_of, to_json, write_layout
from tests.support.memory_source import member

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
IMAGE = build_image([[member("a", b"1")], [member("b", b"2")]])


def index_of_blobs(blobs: list[tuple[bytes, str]]) -> BuiltImage:
    """Return an index that lists ``blobs``, which a registry has as blobs only."""
    entries = [descriptor_of(raw, media_type) for raw, media_type in blobs]
    index = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    raw = to_json(index)
    return replace(
        IMAGE,
        descriptor=descriptor_of(raw, mediatypes.OCI_INDEX),
        documents={Digest.of(raw): (raw, mediatypes.OCI_INDEX)},
        blobs={Digest.of(blob): blob for blob, _ in blobs},
    )


LAYERS = [(raw, mediatypes.OCI_LAYER_GZIP) for digest, raw in IMAGE.blobs.items() if digest != IMAGE.config.digest]
CONFIG = to_json({"layers": [{"blob": str(Digest.of(raw)), "parent": -1} for raw, _ in LAYERS], "records": []})
CACHE = index_of_blobs([*LAYERS, (CONFIG, CACHE_CONFIG)])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_layout("l", {"cache": CACHE})


def blobs_in(layout: str) -> set[str]:
    return {path.name for path in Path(layout, "blobs/sha256").iterdir()}


@pytest.mark.parametrize("command", ["pull {} -o out", "pull {} -o out --platform arm64", "unpack {} root", "ls {} /"])
@pytest.mark.parametrize("kind", ["registry", "layout"])
def test_cache_holds_no_image(capsys: pytest.CaptureFixture[str], kind: str, command: str) -> None:
    with FakeRegistry() as registry:
        name = CACHE.serve(registry, "app", "cache") if kind == "registry" else "./l:cache"
        assert main(command.format(name).split()) == 8
    told = [
        f"ociexport: error: manifest {CACHE.digest}: holds no image, but a build cache",
        "hint: pull --all copies what it lists",
    ]
    assert capsys.readouterr().err.splitlines()[-2:] == told
    assert not Path("out").exists()


def test_other_blobs_are_named_by_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    write_layout("l", {"1": index_of_blobs([(b"<a/>", "application/xml"), (b"<b/>", "application/xml")])})
    assert main(["unpack", "./l", "root"]) == 8
    assert "holds no image, but blobs of type 'application/xml'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--all"], ["--platform", "all"]])
@pytest.mark.parametrize("kind", ["registry", "layout"])
def test_all_takes_the_layers_as_blobs(capsys: pytest.CaptureFixture[str], kind: str, words: list[str]) -> None:
    with FakeRegistry() as registry:
        name = CACHE.serve(registry, "app", "cache") if kind == "registry" else "./l:cache"
        assert main(["pull", name, "-o", "out", *words]) == 0
        asked = [request.path for request in registry.requests]
    out, err = capsys.readouterr()
    assert out.endswith(f"@{CACHE.digest}\n")
    assert f"index {CACHE.digest}, as published, with 3 blobs that it lists" in err
    assert blobs_in("out") == {digest.encoded for digest in (*CACHE.blobs, CACHE.digest)}
    assert not [path for path in asked if "/manifests/sha256" in path]
    assert main(["verify", "./out"]) == 0
    assert main(["verify", "--deep", "./out"]) == 0
    assert main(["gc", "./out"]) == 0
    assert blobs_in("out") == {digest.encoded for digest in (*CACHE.blobs, CACHE.digest)}


def test_pulled_again_nothing_is_fetched() -> None:
    assert ociexport.pull("./l:cache", "out", platform=PlatformChoice()).fetched_blobs == 3
    again = ociexport.pull("./l:cache", "out", platform=PlatformChoice())
    assert (again.fetched_blobs, again.reused_blobs, again.manifests) == (0, 3, ())
    assert (again.digest, again.is_image, again.platform) == (CACHE.digest, False, None)


def test_damaged_layer_is_not_taken() -> None:
    path = Path("l/blobs/sha256") / Digest.of(LAYERS[0][0]).encoded
    path.write_bytes(b" " * path.stat().st_size)
    assert main(["pull", "./l:cache", "-o", "out", "--all"]) == 7
    assert not Path("out/index.json").exists()


@pytest.mark.parametrize(
    "words", [["--json"], ["--dry-run"], ["--dry-run", "--json"], ["--decompress"], ["--referrers"]]
)
def test_options_of_pull_take_it(words: list[str]) -> None:
    assert main(["pull", "./l:cache", "-o", "out", "--all", *words]) == 0


def test_archive_holds_it() -> None:
    assert main(["pull", "./l:cache", "-o", "out.tar", "--all"]) == 0
    with tarfile.open("out.tar") as tar:
        names = {Path(name).name for name in tar.getnames() if name.startswith("blobs/sha256/")}
    assert names == {digest.encoded for digest in (*CACHE.blobs, CACHE.digest)}
    assert main(["verify", "./out.tar"]) == 0


def test_images_beside_blobs_are_taken_too() -> None:
    mixed = build_index([IMAGE], edit_index=lambda index: index["manifests"].extend(json.loads(CACHE.raw)["manifests"]))
    mixed.blobs.update(CACHE.blobs)
    write_layout("l", {"mixed": mixed})
    with FakeRegistry() as registry:
        name = mixed.serve(registry, "app", "mixed")
        assert main(["pull", name, "-o", "out", "--all"]) == 0
        assert main(["pull", name, "-o", "one"]) == 0
    assert main(["verify", "./out"]) == 0
    assert Digest.of(CONFIG).encoded in blobs_in("out")
    assert Digest.of(CONFIG).encoded not in blobs_in("one")
    shutil.rmtree("one")


def test_blob_of_another_type_that_is_no_manifest_is_taken() -> None:
    """A registry has it under its digest as a manifest or as a blob; both are asked for."""
    listed = index_of_blobs([(b"x" * 9, "application/vnd.example.thing")])
    with FakeRegistry() as registry:
        assert main(["pull", listed.serve(registry, "app", "1"), "-o", "out", "--all"]) == 0
    assert main(["verify", "./out"]) == 0


def test_inspect_shows_the_entries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "./l:cache"]) == 0
    out, err = capsys.readouterr()
    assert CACHE_CONFIG in out
    assert err == f"ociexport: warning: manifest {CACHE.digest}: holds no image, but a build cache\n"


def test_serve_gives_the_blobs() -> None:

    catalog = LayoutCatalog(ImageLayout("l"))
    (repository,) = catalog.repositories()
    for raw, _ in LAYERS:
        with catalog.open_blob(repository, Digest.of(raw)) as blob:
            assert blob.read() == raw


LARGE = os.urandom(4 * 1024 * 1024 + 1)
LARGE_CACHE = index_of_blobs([*LAYERS, (LARGE, mediatypes.OCI_LAYER_GZIP), (CONFIG, CACHE_CONFIG)])
LARGE_THING = index_of_blobs([(LARGE, "application/vnd.example.thing"), (b"x" * 9, "application/vnd.example.thing")])


@pytest.mark.parametrize("cache", [CACHE, LARGE_CACHE, LARGE_THING], ids=["cache", "large layer", "large thing"])
@pytest.mark.parametrize("bundle", ["l", "bundle.tar"])
def test_merge_takes_the_entries_as_blobs(cache: BuiltImage, bundle: str) -> None:
    """As `pull --all` does: they are no documents, and may be larger than any document."""
    write_layout("l", {"cache": cache})
    if bundle != "l":
        assert main(["pull", "./l:cache", "-o", bundle, "--all"]) == 0
    assert main(["merge", "far", bundle]) == 0
    assert blobs_in("far") == {digest.encoded for digest in (*cache.blobs, cache.digest)}
    assert main(["verify", "--deep", "./far"]) == 0


def test_merge_waits_for_entries_that_an_update_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A layer of a cache that neither the bundle nor FAR has is named, as a layer of an image is; then FAR gets it."""
    assert main(["pull", "./l:cache", "-o", "old", "--all"]) == 0
    write_layout("l", {"new": LARGE_CACHE})
    assert main(["pull", "./l:new", "-o", "update", "--all", "--since", "old", "--for", "layout"]) == 0
    assert blobs_in("update") == {LARGE_CACHE.digest.encoded, Digest.of(LARGE).encoded}
    capsys.readouterr()
    assert main(["merge", "far", "update"]) == 7
    assert str(Digest.of(LAYERS[0][0])) in capsys.readouterr().err
    assert main(["merge", "far", "old"]) == 0
    assert main(["verify", "--deep", "./far"]) == 0
    assert blobs_in("far") == {digest.encoded for digest in (*LARGE_CACHE.blobs, LARGE_CACHE.digest, CACHE.digest)}


def test_merge_does_not_wait_for_entries_that_were_never_copied() -> None:
    """A layout keeps a published index of which only one platform was taken."""
    mixed = build_index(
        [IMAGE], edit_index=lambda index: index["manifests"].extend(json.loads(LARGE_CACHE.raw)["manifests"])
    )
    mixed.blobs.update(LARGE_CACHE.blobs)
    write_layout("l", {"mixed": mixed})
    assert main(["pull", "./l:mixed", "-o", "one", "--sparse", "--platform", "linux/amd64"]) == 0
    assert Digest.of(LARGE).encoded not in blobs_in("one")
    assert main(["merge", "far", "one"]) == 0
    assert blobs_in("far") == blobs_in("one")
