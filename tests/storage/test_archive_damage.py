"""archive.reader: a damaged archive, or a file that is not an archive, gives an `OciexportError`."""

from __future__ import annotations

import contextlib
import gzip
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    OciexportError,
)
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.reader import open_archive_image
from ociexport.transfer.pull import pull
from tests.support.image_builder import AMD64
from tests.support.saved_archives import (
    CONFIG_ID,
    GENERATIONS,
    IMAGE,
    V1_IDS,
    docker_manifest,
    link,
    of_docker_1_9,
    of_skopeo,
    tree_of,
    write_tar,
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rootfs = tmp_path_factory.mktemp("expected") / "rootfs"
    unpack(IMAGE.source(), rootfs, platform=AMD64)
    return tree_of(rootfs)


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
    """A link leads to a name in the archive; a circle of links leads to no file."""
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
    """A PAX header that declares gigabytes would be read at once."""
    item = tarfile.TarInfo("x")
    item.type, item.size = tarfile.XHDTYPE, 8 * 1024**3 - 1
    with (tmp_path / "a").open("wb") as file:
        file.write(item.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(9 * 1024**3)
    with pytest.raises(InvalidImageError, match="extended header: expected at most 1048576 bytes, got 8589934591"):
        open_archive_image(str(tmp_path / "a"))


def test_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.storage.archive.members._MAX_UNSUSPECTED_BYTES", 1024 * 1024)
    (tmp_path / "a").write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(LimitExceededError, match="a: expected at most 100 times the compressed size, got more"):
        open_archive_image(str(tmp_path / "a"))


def test_circle_of_parents_is_told(tmp_path: Path) -> None:
    files = of_docker_1_9() | {f"{V1_IDS[0]}/json": json.dumps({"parent": V1_IDS[1]}).encode()}
    with pytest.raises(InvalidImageError, match="expected at most 1024 layers"):
        open_archive_image(str(write_tar(tmp_path / "a", files)))


@settings(max_examples=150)
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
