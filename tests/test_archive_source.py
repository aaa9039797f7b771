"""archive_source: archives of every generation are images, told by what is in them; nothing else is."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.archive_members import ArchiveMembers
from ociexport.archive_source import open_archive_image
from ociexport.archive_transfer import copy_to_archive
from ociexport.digest import Digest
from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    OciexportError,
    UsageError,
)
from ociexport.layout import ImageLayout
from ociexport.transfer import pull
from ociexport.tree.layers import unpack
from tests.command import command_environment, command_line, run_command
from tests.image_builder import AMD64, BuiltImage, build_image, to_json, write_layout
from tests.memory_source import directory, hard_link, member, symlink, tar_of
from tests.real_tools import containerd, podman
from tests.system_parts import require

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BASE = [directory("etc"), member("etc/a", b"1"), hard_link("etc/b", "etc/a")]
TARS = [tar_of(BASE), tar_of([member("etc/.wh.a"), symlink("c", "etc/b")]), tar_of(BASE)]
IMAGE = build_image(TARS, compression="plain")
OTHER = build_image([tar_of([member("other", b"2")])], compression="plain")
CONFIG = IMAGE.blobs[IMAGE.config.digest]
CONFIG_ID = IMAGE.config.digest.encoded
LAYER_IDS = ["1" * 64, "2" * 64, "3" * 64]
FULL_NAME = "docker.io/library/app:1"

Files = dict[str, bytes | tarfile.TarInfo]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, target
    return item


def write_tar(path: Path, files: Mapping[str, bytes | tarfile.TarInfo], prefix: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            item = tarfile.TarInfo(prefix + name)
            if isinstance(content, tarfile.TarInfo):
                item.type, item.linkname = content.type, content.linkname
                tar.addfile(item)
            else:
                item.size = len(content)
                tar.addfile(item, io.BytesIO(content))
    return path


def docker_manifest(config: str, layers: list[str], tags: list[str] | None) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": tags, "Layers": layers}]).encode()


def of_docker_1_10(image: BuiltImage = IMAGE, tags: list[str] | None = None) -> Files:
    """1.10 to 24: a directory for each layer, whose ``layer.tar`` is a link where the layer was there before."""
    files: Files = {}
    for number, (layer_id, layer) in enumerate(zip(LAYER_IDS, image.layers, strict=False)):
        files[f"{layer_id}/VERSION"] = b"1.0"
        files[f"{layer_id}/json"] = b'{"id": "%b"}' % layer_id.encode()
        first = image.layers.index(layer)
        content = image.blobs[layer.digest]
        is_first = first == number
        files[f"{layer_id}/layer.tar"] = content if is_first else link("", f"../{LAYER_IDS[first]}/layer.tar")
    names = [f"{layer_id}/layer.tar" for layer_id, _ in zip(LAYER_IDS, image.layers, strict=False)]
    config = f"{image.config.digest.encoded}.json"
    files[config] = image.blobs[image.config.digest]
    files["manifest.json"] = docker_manifest(config, names, ["app:1"] if tags is None else tags)
    files["repositories"] = json.dumps({"app": {"1": LAYER_IDS[2]}}).encode()
    return files


def of_docker_25() -> Files:
    """A layout and a docker archive at once."""
    stream = io.BytesIO()
    copy_to_archive([IMAGE.source("1", FULL_NAME)], stream, platform=AMD64)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def of_docker_25_with_an_index_of_more() -> Files:
    """docker save of one platform: its index.json names an index that was not saved (kind issue 3795)."""
    files = of_docker_25()
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    index["manifests"][0].update(digest=str(Digest.of(b"absent")), mediaType="application/vnd.oci.image.index.v1+json")
    return files | {"index.json": to_json(index)}


def of_crane(suffix: str = ".tar.gz") -> Files:
    """crane and kaniko: compressed layers by digest, a config whose name is its digest."""
    layers = {f"{Digest.of(gzip.compress(tar, mtime=0)).encoded}{suffix}": gzip.compress(tar, mtime=0) for tar in TARS}
    names = [f"{Digest.of(gzip.compress(tar, mtime=0)).encoded}{suffix}" for tar in TARS]
    manifest = docker_manifest(f"sha256:{CONFIG_ID}", names, ["docker.io/library/app:1"])
    return {f"sha256:{CONFIG_ID}": CONFIG, **layers, "manifest.json": manifest}


def of_skopeo() -> Files:
    """skopeo and podman: plain layers by diff_id, and links for those who look for directories."""
    names = [f"{diff_id.encoded}.tar" for diff_id in IMAGE.diff_ids]
    layers: Files = dict(zip(names, TARS, strict=True))
    for layer_id, name in zip(LAYER_IDS, names, strict=True):
        layers[f"{layer_id}/layer.tar"] = link("", f"../{name}")
    manifest = docker_manifest(f"{CONFIG_ID}.json", names, ["docker.io/library/app:1"])
    return {**layers, f"{CONFIG_ID}.json": CONFIG, "manifest.json": manifest}


def with_hard_links() -> Files:
    files = of_docker_1_10()
    return files | {f"{LAYER_IDS[2]}/layer.tar": link("", f"{LAYER_IDS[0]}/layer.tar", tarfile.LNKTYPE)}


GENERATIONS: dict[str, Callable[[], Files]] = {
    "docker 1.10": of_docker_1_10,
    "docker 25": of_docker_25,
    "docker 25, one platform": of_docker_25_with_an_index_of_more,
    "crane": of_crane,
    "skopeo": of_skopeo,
    "hard links": with_hard_links,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rootfs = tmp_path_factory.mktemp("expected") / "rootfs"
    unpack(IMAGE.source(), rootfs, platform=AMD64)
    return tree_of(rootfs)


def tree_of(rootfs: Path) -> list[str]:
    found = sorted(rootfs.rglob("*"))
    return [f"{path.relative_to(rootfs)} {path.read_text() if path.is_file() else ''}" for path in found]


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_image_of_every_generation_is_the_same(
    tmp_path: Path, expected: list[str], generation: str, prefix: str
) -> None:
    """skopeo 999 and 2782, stereoscope 492, go-containerregistry 2109: ``./``, no directories, one kind for another."""
    archive = write_tar(tmp_path / "a.tar", GENERATIONS[generation](), prefix)
    result = pull(f"{archive}:app:1", tmp_path / "layout", platform=AMD64)
    assert result.config_digest == IMAGE.config.digest
    ((_, name),) = ImageLayout(tmp_path / "layout").read_images()
    assert (name.tag, name.full) == ("1", FULL_NAME)
    unpack(str(archive), tmp_path / "rootfs", platform=AMD64)
    assert tree_of(tmp_path / "rootfs") == expected


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_archive_may_be_compressed_as_a_whole(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    archive = write_tar(tmp_path / "a", of_skopeo())
    archive.write_bytes(compress(archive.read_bytes()))
    assert pull(str(archive), tmp_path / "layout", platform=AMD64).config_digest == IMAGE.config.digest


def test_layers_are_kept_as_they_are_stored(tmp_path: Path) -> None:
    pull(str(write_tar(tmp_path / "a.tar", of_crane())), tmp_path / "layout", platform=AMD64)
    blobs = {path.read_bytes() for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert {gzip.compress(tar, mtime=0) for tar in TARS} < blobs
    manifest = json.loads(next(blob for blob in blobs if b"schemaVersion" in blob))
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar+gzip"] * 3


def test_what_we_write_we_read_byte_for_byte(tmp_path: Path) -> None:
    """pain 31: digests survive the way through an archive."""
    copy_to_archive([IMAGE.source("1", FULL_NAME), OTHER.source("2", None)], str(tmp_path / "a.tar"), platform=AMD64)
    assert pull(f"{tmp_path / 'a.tar'}:app:1", tmp_path / "b.tar", platform=AMD64).manifest_digest == IMAGE.digest
    assert pull(f"{tmp_path / 'a.tar'}:2", tmp_path / "l", platform=AMD64).manifest_digest == OTHER.digest
    fresh = io.BytesIO()
    copy_to_archive([IMAGE.source("1", FULL_NAME)], fresh, platform=AMD64)
    assert (tmp_path / "b.tar").read_bytes() == fresh.getvalue()


V1_IDS = ["a" * 64, "b" * 64]


def of_docker_1_9(**top: object) -> Files:
    """Before 1.10: no manifest.json; a chain of layers, each with its JSON, and names in ``repositories``."""
    base = {"id": V1_IDS[0], "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["/bin/sh", "-c", "x"]}}
    last = {
        "id": V1_IDS[1],
        "parent": V1_IDS[0],
        "created": "2015-01-02T00:00:00Z",
        "author": "me",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "architecture": "amd64",
        "os": "linux",
        "Size": 7,
        **top,
    }
    files: Files = {"repositories": json.dumps({"app": {"1": V1_IDS[1]}}).encode()}
    for layer_id, document, tar in zip(V1_IDS, [base, last], TARS, strict=False):
        files |= {f"{layer_id}/VERSION": b"1.0", f"{layer_id}/json": to_json(document), f"{layer_id}/layer.tar": tar}
    return files


def test_image_of_docker_before_1_10_is_converted(tmp_path: Path) -> None:
    """moby image/spec/v1.md; as docker itself makes of such an archive: diff_ids computed, history from each layer."""
    archive = write_tar(tmp_path / "a.tar", of_docker_1_9())
    result = pull(f"docker-archive:{archive}:app:1", tmp_path / "layout", platform=AMD64)
    layout = ImageLayout(tmp_path / "layout")
    config = json.loads(Path(layout.blob_path(result.config_digest)).read_bytes())
    assert config == {
        "created": "2015-01-02T00:00:00Z",
        "author": "me",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in TARS[:2]]},
        "history": [
            {"created": "2015-01-01T00:00:00Z", "created_by": "/bin/sh -c x"},
            {"created": "2015-01-02T00:00:00Z", "author": "me"},
        ],
    }
    unpack(str(archive), tmp_path / "rootfs", platform=AMD64)
    assert tree_of(tmp_path / "rootfs") == ["c 1", "etc ", "etc/b 1"]


def test_conversion_is_told(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", of_skopeo())
    ended = run_command("pull", archive, "--out", tmp_path / "layout", "--platform", "linux/amd64", home=tmp_path)
    (digest,) = [line.rpartition("@")[2] for line in ended.stdout.splitlines()]
    assert ended.stderr.splitlines()[0] == (
        f"ociexport: {archive}:{FULL_NAME}: a docker archive keeps no manifest, so that a new one was made: {digest}"
    )


# Which image


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """An archive of two images, the first with two names."""
    files = of_docker_1_10(IMAGE)
    first = json.loads(files["manifest.json"])[0] | {"RepoTags": ["app:1", "ghcr.io/team/app:2"]}  # type: ignore[arg-type]
    other = OTHER.layers[0].digest.encoded
    files[f"{other}.tar"] = OTHER.blobs[OTHER.layers[0].digest]
    files["other.json"] = OTHER.blobs[OTHER.config.digest]
    second = {"Config": "other.json", "RepoTags": None, "Layers": [f"{other}.tar"]}
    return write_tar(tmp_path / "two.tar", files | {"manifest.json": json.dumps([first, second]).encode()})


@pytest.mark.parametrize(
    ("name", "config", "full"),
    [
        ("app:1", IMAGE, FULL_NAME),
        (FULL_NAME, IMAGE, FULL_NAME),
        ("ghcr.io/team/app:2", IMAGE, "ghcr.io/team/app:2"),
        ("@0", IMAGE, FULL_NAME),
        ("@1", OTHER, None),
        (f"@{IMAGE.config.digest}", IMAGE, FULL_NAME),
        (f"@{OTHER.config.digest}", OTHER, None),
    ],
)
def test_image_is_found_by_each_of_its_names(two: Path, name: str, config: BuiltImage, full: str | None) -> None:
    """containers-transports(5): docker-archive:path[:docker-reference|:@source-index]."""
    with contextlib.closing(open_archive_image(str(two), name)) as source:
        assert source.image_name.full == full
        manifest = json.loads(source.fetch_manifest().raw)
        assert manifest["config"]["digest"] == str(config.config.digest)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (None, UsageError, "{}: expected one image, there are: {listed}"),
        ("absent", NotFoundError, "{}: expected image 'absent', there are: {listed}"),
        ("@2", NotFoundError, "{}: expected an image at position 2, there are 2"),
        (f"@{Digest.of(b'')}", NotFoundError, f"{{}}: expected the image {Digest.of(b'')}, there is none"),
    ],
)
def test_ambiguous_and_unknown_names_list_what_there_is(
    two: Path, name: str | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        open_archive_image(str(two), name)
    listed = f"{FULL_NAME}, ghcr.io/team/app:2, @{Digest.of(b'other.json')}"
    assert str(caught.value) == message.format(two, listed=listed)


# What is no archive, or a damaged one


def assert_refused(path: Path, kind: type[OciexportError], message: str) -> None:
    with pytest.raises(kind) as caught:
        pull(str(path), path.parent / "layout", platform=AMD64)
    assert str(caught.value) == message.format(path)
    assert not (path.parent / "layout").exists()


def test_missing_file_is_told(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.tar", NotFoundError, "'{}': expected an archive, there is no such file")


def test_file_that_is_no_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"#!/bin/sh\n" * 100)
    with pytest.raises(InvalidImageError, match=r"a: expected a tar, got a damaged one or none \("):
        open_archive_image(str(tmp_path / "a"))


def test_tar_of_something_else_is_told(tmp_path: Path) -> None:
    assert_refused(
        write_tar(tmp_path / "a", {"etc/passwd": b""}),
        InvalidImageError,
        "{}: expected an archive of images, got a tar without index.json and manifest.json",
    )


@pytest.mark.parametrize("kept", [100, 512, 5000, 20_000])
def test_cut_archive_is_told(tmp_path: Path, kept: int) -> None:
    archive = write_tar(tmp_path / "a", of_skopeo())
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(InvalidImageError):
        pull(str(archive), tmp_path / "layout", platform=AMD64)
    assert not (tmp_path / "layout").exists()


def test_cut_compressed_archive_is_told(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a", of_skopeo())
    archive.write_bytes(gzip.compress(archive.read_bytes())[:-10])
    assert_refused(archive, InvalidImageError, "{}: gzip data: expected a complete stream, got one that ends too soon")


def test_altered_layer_is_told(tmp_path: Path) -> None:
    files = of_skopeo()
    name = f"{IMAGE.diff_ids[1].encoded}.tar"
    altered = bytes(files[name]) + bytes(512)  # type: ignore[arg-type]
    assert_refused(
        write_tar(tmp_path / "a", {**files, name: altered}),
        DigestMismatchError,
        f"layer 2 of 3 ({IMAGE.diff_ids[1]}): digest mismatch: expected {IMAGE.diff_ids[1]}, got {Digest.of(altered)}",
    )


def test_counts_that_differ_are_told(tmp_path: Path) -> None:
    files = of_skopeo()
    layers = [f"{diff_id.encoded}.tar" for diff_id in IMAGE.diff_ids[:2]]
    files["manifest.json"] = docker_manifest(f"{CONFIG_ID}.json", layers, None)
    assert_refused(
        write_tar(tmp_path / "a", files),
        InvalidImageError,
        f"{{}}: manifest.json: '{CONFIG_ID}.json': expected as many diff_ids as layers, got 2 layers but 3 diff_ids",
    )


@pytest.mark.parametrize("missing", [f"{CONFIG_ID}.json", f"{IMAGE.diff_ids[1].encoded}.tar"])
def test_missing_parts_are_told(tmp_path: Path, missing: str) -> None:
    files = of_skopeo()
    del files[missing]
    assert_refused(write_tar(tmp_path / "a", files), NotFoundError, f"{{}}: '{missing}': not in the archive")


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "", f"{CONFIG_ID}.json", "x"])
def test_link_reaches_nothing_outside(tmp_path: Path, target: str) -> None:
    """A link is a name in the archive; a circle of them is nothing."""
    files = of_skopeo() | {f"{CONFIG_ID}.json": link("", target), "x": link("", f"{CONFIG_ID}.json")}
    assert_refused(write_tar(tmp_path / "a", files), NotFoundError, f"{{}}: '{CONFIG_ID}.json': not in the archive")


def test_config_of_any_size_is_not_read(tmp_path: Path) -> None:
    files = of_skopeo() | {f"{CONFIG_ID}.json": bytes(5 * 1024 * 1024)}
    assert_refused(
        write_tar(tmp_path / "a", files),
        LimitExceededError,
        f"{{}}: '{CONFIG_ID}.json': expected at most 4194304 bytes, got 5242880",
    )


def test_header_of_any_size_is_not_read(tmp_path: Path) -> None:
    """A PAX header that says to be of gigabytes would be read at once."""
    item = tarfile.TarInfo("x")
    item.type, item.size = tarfile.XHDTYPE, 8 * 1024**3 - 1
    with (tmp_path / "a").open("wb") as file:
        file.write(item.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(9 * 1024**3)
    with pytest.raises(InvalidImageError, match=r"got a damaged one or none \(a header of 8589934592 bytes\)$"):
        open_archive_image(str(tmp_path / "a"))


def test_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.archive_members._MAX_UNSUSPECTED_BYTES", 1024 * 1024)
    (tmp_path / "a").write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(LimitExceededError, match="a: expected at most 100 times the compressed size, got more"):
        open_archive_image(str(tmp_path / "a"))


def test_circle_of_parents_is_told(tmp_path: Path) -> None:
    files = of_docker_1_9() | {f"{V1_IDS[0]}/json": json.dumps({"parent": V1_IDS[1]}).encode()}
    with pytest.raises(InvalidImageError, match="expected at most 1024 layers"):
        open_archive_image(str(write_tar(tmp_path / "a", files)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_ends_in_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    generation = data.draw(st.sampled_from([*GENERATIONS.values(), of_docker_1_9]))
    raw = bytearray(write_tar(path, generation()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        raw[position : position + len(piece)] = piece
    path.write_bytes(raw)
    with contextlib.suppress(OciexportError):
        pull(f"{path}:@0", path.parent / "layout", platform=AMD64)


@given(st.binary(max_size=2000))
def test_any_bytes_are_no_archive_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(raw)
    with contextlib.suppress(OciexportError):
        ArchiveMembers.open(str(path)).close()


# The command, and those who write archives


def test_standard_input_is_an_archive(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", of_docker_25())
    for content in (archive.read_bytes(), gzip.compress(archive.read_bytes())):
        ended = subprocess.run(
            command_line("pull", "-", "-q", "--out", tmp_path / "layout", "--platform", "linux/amd64"),
            env=command_environment(tmp_path),
            input=content,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.decode() == f"{FULL_NAME}@{IMAGE.digest}\n"


def test_one_of_several_on_standard_input_is_named(two: Path, tmp_path: Path) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        with two.open("rb") as archive:
            return subprocess.run(
                command_line("pull", name, "-q", "--out", tmp_path / "layout", "--platform", "linux/amd64"),
                env=command_environment(tmp_path),
                stdin=archive,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

    several = run("-")
    listed = f"{FULL_NAME}, ghcr.io/team/app:2, @{Digest.of(b'other.json')}"
    assert (several.returncode, several.stderr.splitlines()) == (
        2,
        [
            f"ociexport: error: standard input: expected one image, there are: {listed}",
            f"hint: name one of them, for example oci-archive:-:{FULL_NAME}",
        ],
    )
    assert [run(f"oci-archive:-:{name}").returncode for name in ("app:1", FULL_NAME, "@1")] == [0, 0, 0]


def test_named_pipe_is_an_archive(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "a.tar", of_skopeo()).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    try:
        assert pull(str(tmp_path / "pipe"), tmp_path / "l", platform=AMD64).config_digest == IMAGE.config.digest
    finally:
        writer.join()


@pytest.mark.system
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_archives_of_skopeo_are_read(tmp_path: Path, transport: str) -> None:
    require("skopeo")
    write_layout(tmp_path / "source", {"1": IMAGE})
    archive = tmp_path / "a.tar"
    name = "docker.io/library/app:1" if transport == "docker-archive" else "1"
    command = ["skopeo", "copy", f"oci:{tmp_path / 'source'}:1", f"{transport}:{archive}:{name}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    result = pull(f"{transport}:{archive}:{name}", tmp_path / "layout", platform=AMD64)
    assert result.config_digest == IMAGE.config.digest


@pytest.mark.system
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_what_we_write_and_we_read_what_it_saves(tmp_path: Path, form: str) -> None:
    sources = [IMAGE.source("1", "ghcr.io/team/app:1"), OTHER.source("2", "ghcr.io/team/other:2")]
    copy_to_archive(sources, str(tmp_path / "a.tar"), platform=AMD64)
    with podman() as run:
        run("load", "-i", tmp_path / "a.tar")
        assert set(run("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}").splitlines()) == {
            f"ghcr.io/team/app:1 {IMAGE.config.digest.encoded}",
            f"ghcr.io/team/other:2 {OTHER.config.digest.encoded}",
        }
        run("save", "--format", form, "-o", tmp_path / "b.tar", "ghcr.io/team/app:1")
    assert pull(str(tmp_path / "b.tar"), tmp_path / "layout", platform=AMD64).is_image


@pytest.mark.system
def test_containerd_imports_what_we_write(tmp_path: Path) -> None:
    docker = build_image([[member("a", b"1")]], media_types="docker")
    sources = [IMAGE.source("1", FULL_NAME), docker.source("2", "ghcr.io/team/docker:2")]
    copy_to_archive(sources, str(tmp_path / "a.tar"), platform=AMD64)
    with containerd() as ctr:
        ctr("images", "import", "--no-unpack", tmp_path / "a.tar")
        lines = ctr("images", "ls").splitlines()[1:]
    listed = {line.split()[0]: line.split()[2] for line in lines}
    assert listed == {FULL_NAME: str(IMAGE.digest), "ghcr.io/team/docker:2": str(docker.digest)}
