"""decompress, plain_image, layout.spool: layers as plain tars, proven by both digests; config and image ID stay."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import (
    DiffIdMismatchError,
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    TransferError,
    UsageError,
)
from ociexport.images.choose import PlatformChoice
from ociexport.images.source import ImageName
from ociexport.rootfs.unpack import unpack
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import directory, member, tar_of

TARS = [
    tar_of([directory("etc"), member("etc/big", os.urandom(3_000_000))]),
    tar_of([member("b", b"2")]),
    tar_of([member("c", b"3")]),
]
IMAGE = build_image(TARS, compression=["gzip", "zstd", "plain"])
NAME = "docker.io/library/app:1"


def source_of(image: BuiltImage = IMAGE) -> Any:
    return image.source("1", NAME)


def blobs_of(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}


def blobs_in(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {
            item.name.rpartition("/")[2]: tar.extractfile(item).read()  # type: ignore[union-attr]
            for item in tar
            if item.isfile() and item.name.startswith("blobs/")
        }


@pytest.mark.parametrize("out", ["layout", "a.tar"])
def test_layers_are_plain_and_the_image_stays_what_it_is(tmp_path: Path, out: str) -> None:
    result = pull(source_of(), tmp_path / out, platform=AMD64, decompress=True)
    blobs = blobs_of(tmp_path / out) if out == "layout" else blobs_in(tmp_path / out)
    manifest = blobs.pop(result.digest.encoded)
    assert result.config_digest == IMAGE.config.digest
    assert blobs == {
        IMAGE.config.digest.encoded: IMAGE.blobs[IMAGE.config.digest],
        **{Digest.of(tar).encoded: tar for tar in TARS},
    }
    assert json.loads(manifest)["layers"] == [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": str(Digest.of(tar)),
            "size": len(tar),
        }
        for tar in TARS
    ]
    assert os.listdir(tmp_path) == [out]
    unpack(f"{tmp_path / out}", tmp_path / "rootfs", platform=AMD64)
    assert (tmp_path / "rootfs" / "b").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("media_types", "plain"),
    [
        ("oci", "application/vnd.oci.image.layer.v1.tar"),
        ("docker", "application/vnd.docker.image.rootfs.diff.tar"),
    ],
)
def test_manifest_says_no_more_than_is_true_of_plain_layers(tmp_path: Path, media_types: Any, plain: str) -> None:
    """URLs and tables of contents fit only the compressed layer and go; other annotations stay."""

    def say_more(manifest: dict[str, Any]) -> None:
        manifest["annotations"] = {"org.example": "kept"}
        manifest["layers"][0] |= {
            "urls": ["https://example.test/layer"],
            "annotations": {"containerd.io/snapshot/stargz/toc.digest": "x", "org.example": "kept"},
        }

    image = build_image(TARS, media_types=media_types, edit_manifest=say_more)
    result = pull(source_of(image), tmp_path / "layout", platform=AMD64, decompress=True)
    manifest = json.loads(blobs_of(tmp_path / "layout")[result.digest.encoded])
    assert manifest["annotations"] == {"org.example": "kept"}
    assert manifest["mediaType"] == image.descriptor.media_type
    assert manifest["layers"][0] == {
        "mediaType": plain,
        "digest": str(Digest.of(TARS[0])),
        "size": len(TARS[0]),
        "annotations": {"org.example": "kept"},
    }


def test_image_of_plain_layers_is_the_published_one(tmp_path: Path) -> None:
    image = build_image(TARS, compression="plain")
    assert pull(source_of(image), tmp_path / "layout", platform=AMD64, decompress=True).digest == image.digest


def test_artifact_has_no_layers_to_decompress(tmp_path: Path) -> None:
    artifact = build_artifact(gzip.compress(b"chart"))
    assert pull(artifact.source(), tmp_path / "layout", decompress=True).digest == artifact.digest


@pytest.mark.parametrize("choice", [PlatformChoice(), PlatformChoice((AMD64, ARM64))], ids=["all", "two"])
@pytest.mark.parametrize("out", ["layout", "a.tar"])
def test_index_names_the_new_manifests_and_dangles_nowhere(tmp_path: Path, choice: PlatformChoice, out: str) -> None:
    images = [build_image(TARS, platform=platform) for platform in (AMD64, ARM64, Platform("linux", "386"))]
    published = build_index([*images, build_attestation(images[0])])
    result = pull(source_of(published), tmp_path / out, platform=choice, decompress=True)
    blobs = blobs_of(tmp_path / out) if out == "layout" else blobs_in(tmp_path / out)
    index = json.loads(blobs[result.digest.encoded])
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == (
        ["amd64", "arm64", "386", "unknown"] if choice.takes_all else ["amd64", "arm64"]
    )
    for entry in index["manifests"]:
        raw = blobs[entry["digest"].partition(":")[2]]
        assert len(raw) == entry["size"]
        for descriptor in [json.loads(raw)["config"], *json.loads(raw)["layers"]]:
            assert len(blobs[descriptor["digest"].partition(":")[2]]) == descriptor["size"]
    if choice.takes_all:
        assert index["manifests"][3]["annotations"]["vnd.docker.reference.digest"] == index["manifests"][0]["digest"]
    assert not {layer.digest.encoded for layer in images[0].layers} & blobs.keys()


def test_name_by_digest_is_of_the_new_manifest(tmp_path: Path) -> None:
    source = IMAGE.source(None, f"ghcr.io/team/app@{IMAGE.digest}")
    result = pull(source, tmp_path / "layout", platform=AMD64, decompress=True)
    ((descriptor, name),) = ImageLayout(tmp_path / "layout").read_images()
    assert (descriptor.digest, name.full) == (result.digest, f"ghcr.io/team/app@{result.digest}")
    assert result.reference == name.full


def test_files_and_streams_get_the_same_bytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    copy_to_archive([source_of()], stream, PullOptions(AMD64, decompress=True))
    pull(source_of(), tmp_path / "a.tar", platform=AMD64, decompress=True)
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


# Wrong layers


@pytest.fixture(params=["layout", "a.tar"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def assert_refused(image: BuiltImage, out: Path, kind: type[InvalidImageError], message: str) -> None:
    with pytest.raises(kind) as caught:
        pull(source_of(image), out, platform=AMD64, decompress=True)
    assert str(caught.value) == message
    assert os.listdir(out.parent) == []


def test_wrong_diff_id_is_refused(out: Path) -> None:
    wrong = Digest.of(b"other")
    image = build_image(TARS[:2], edit_config=lambda config: config["rootfs"]["diff_ids"].__setitem__(1, str(wrong)))
    assert_refused(
        image,
        out,
        DiffIdMismatchError,
        f"layer 2 of 2 ({image.layers[1].digest}): diff_id mismatch: expected {wrong}, got {Digest.of(TARS[1])}",
    )


def test_blob_that_is_not_the_announced_one_is_refused(out: Path) -> None:
    image = build_image([TARS[1]])
    digest = image.layers[0].digest
    altered = bytes(image.layers[0].size)
    image.blobs[digest] = altered
    assert_refused(
        image,
        out,
        DigestMismatchError,
        f"layer 1 of 1 ({digest}): digest mismatch: expected {digest}, got {Digest.of(altered)}",
    )


def test_damaged_stream_is_refused(out: Path) -> None:
    image = build_image([gzip.compress(TARS[0], 1)[:-9]], compression="plain", edit_config=_set_diff_ids(TARS[:1]))
    assert_refused(
        image,
        out,
        InvalidImageError,
        f"layer 1 of 1 ({image.layers[0].digest}): gzip data: expected a complete stream, got one that ends too soon",
    )


def test_bomb_is_stopped(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.system.compression.RATIO_FROM_BYTES", 1024 * 1024)
    tar = bytes(30_000_000)
    image = build_image([tar], compression="zstd")
    with pytest.raises(LimitExceededError) as caught:
        pull(source_of(image), out, platform=AMD64, decompress=True)
    assert str(caught.value).startswith(
        f"layer 1 of 1 ({image.layers[0].digest}): expected at most 250 times the {image.layers[0].size} compressed"
    )
    assert os.listdir(out.parent) == []


def test_layer_with_two_diff_ids_is_refused(out: Path) -> None:
    image = build_image([TARS[1], TARS[1]], edit_config=_set_diff_ids([TARS[1], TARS[2]]))
    assert_refused(
        image,
        out,
        DiffIdMismatchError,
        f"manifest {image.digest}: layer 2 of 2 ({image.layers[1].digest}): "
        f"diff_id: expected {Digest.of(TARS[1])}, as for the same layer before, got {Digest.of(TARS[2])}",
    )


def _set_diff_ids(tars: list[bytes]) -> Any:
    return lambda config: config["rootfs"].update(diff_ids=[str(Digest.of(tar)) for tar in tars])


# Interrupted


def test_layers_that_are_there_are_not_fetched_again(registry: FakeRegistry, out: Path) -> None:
    reference = IMAGE.serve(registry, "library/app", "1")
    registry.misbehave(IMAGE.layers[1].digest.encoded, Fault(status=400))
    with pytest.raises(Exception, match="400"):
        pull(reference, out, platform=AMD64, jobs=1, decompress=True)
    registry.behave()
    registry.requests.clear()
    result = pull(reference, out, platform=AMD64, jobs=1, decompress=True)
    assert not [path for path in registry.paths() if IMAGE.layers[0].digest.encoded in path]
    assert result.reused_blobs >= 1
    assert os.listdir(out.parent) == [out.name]


def test_cut_layer_leaves_nothing(out: Path) -> None:
    class Broken(type(IMAGE.source())):  # type: ignore[misc]
        def open_blob(self, descriptor: Any, offset: int = 0) -> Any:
            raw = super().open_blob(descriptor, offset).read()[: descriptor.size // 2]
            return _Cut(raw)

    image = build_image(TARS[:1])
    with pytest.raises(TransferError):
        pull(Broken(image, ImageName("1", NAME)), out, platform=AMD64, decompress=True)
    assert os.listdir(out.parent) == []


class _Cut(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            raise TransferError("connection lost")
        return chunk


def test_two_writers_of_one_archive_take_turns(tmp_path: Path) -> None:
    def write() -> None:
        pull(source_of(), tmp_path / "a.tar", platform=AMD64, decompress=True)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["a.tar"]
    assert pull(str(tmp_path / "a.tar"), tmp_path / "layout", platform=AMD64).config_digest == IMAGE.config.digest


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_planted_in_place_of_the_spool_is_refused(tmp_path: Path, kind: str) -> None:
    victim, spool = tmp_path / "victim", tmp_path / "a.tar.partial.layers"
    victim.mkdir()
    (victim / "untouched").write_text("")
    spool.write_text("") if kind == "file" else spool.symlink_to(victim)
    with pytest.raises(UsageError) as caught:
        pull(source_of(), tmp_path / "a.tar", platform=AMD64, decompress=True)
    assert str(caught.value) == f"'{spool}': expected a directory, got something else"
    assert os.listdir(victim) == ["untouched"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_spool_of_somebody_else_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "a.tar.partial.layers"
    spool.mkdir()
    os.chown(spool, 12345, 12345)
    with pytest.raises(UsageError) as caught:
        pull(source_of(), tmp_path / "a.tar", platform=AMD64, decompress=True)
    assert str(caught.value) == f"'{spool}': expected a directory of this user, got another user's"


# The command


def test_command_tells_that_the_digest_is_another(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "library/app", "1")
    ended = run_command("pull", "--decompress", reference, "-o", tmp_path / "layout", home=tmp_path)
    name, _, digest = ended.stdout.strip().partition("@")
    assert (ended.returncode, name) == (0, reference)
    lines = ended.stderr.splitlines()
    assert (
        f"ociexport: {reference}: manifest {digest} was made for decompressed layers, "
        f"the published one is {IMAGE.digest}"
    ) in lines
    assert lines[-1].startswith(f"ociexport: pulled {reference} to {tmp_path / 'layout'}: {digest[:19]}, ")


def test_layers_that_old_engines_can_not_read_are_told(tmp_path: Path) -> None:
    """Seen with docker 20.10: "ApplyLayer exit status 1 stdout:  stderr: unexpected EOF"."""
    write_layout(tmp_path / "source", {NAME: IMAGE})
    told = (
        f"ociexport: {tmp_path / 'source'}:{NAME}: has layers in zstd, which docker before 23 can't load; "
        "--decompress stores them as plain tars"
    )
    for words, is_told in ((), True), (("--decompress",), False):
        command = ("pull", *words, tmp_path / "source", "--platform", "linux/amd64", "-o", tmp_path / "a.tar")
        assert (told in run_command(*command, home=tmp_path).stderr.splitlines()) is is_told


def test_dry_run_can_not_know_sizes(tmp_path: Path) -> None:
    ended = run_command("pull", "alpine", "--decompress", "--dry-run", "-o", tmp_path / "layout", home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            "ociexport: error: --dry-run: expected no --decompress, got it",
            "hint: the size of a decompressed layer is unknown until it is fetched",
        ],
    )


def test_layers_for_a_pipe_wait_among_temporary_files(tmp_path: Path) -> None:
    write_layout(tmp_path / "source", {NAME: IMAGE})
    (tmp_path / "tmp").mkdir()
    environment = command_environment(tmp_path, TMPDIR=str(tmp_path / "tmp"))
    command = command_line("pull", "--decompress", tmp_path / "source", "--platform", "linux/amd64", "-o", "-")
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert f"ociexport: layers are decompressed in {tmp_path}/tmp/ociexport-".encode() in ended.stderr
    assert os.listdir(tmp_path / "tmp") == []
    expected = io.BytesIO()
    copy_to_archive([IMAGE.source("1", NAME)], expected, PullOptions(AMD64, decompress=True))
    assert ended.stdout == expected.getvalue()


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_full_disk_of_temporary_files_is_told_with_its_place(tmp_path: Path) -> None:
    write_layout(tmp_path / "source", {NAME: IMAGE})
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        ended = run_command(
            "pull", "-q", "--decompress", tmp_path / "source", "--platform", "linux/amd64", "-o", "-",
            home=tmp_path, variables={"TMPDIR": str(disk)},
        )  # fmt: skip
        assert ended.returncode == 9
        assert ended.stderr.startswith(f"ociexport: error: {disk}/ociexport-")
        error, hint = ended.stderr.splitlines()
        assert error.endswith(": No space left on device")
        assert hint == f"hint: check the free space: df -h {disk}"
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
