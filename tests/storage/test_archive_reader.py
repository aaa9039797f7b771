"""archive.reader: archives of all versions and tools are read as images, recognised by their files; nothing else is."""

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
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.errors import (
    NotFoundError,
    UsageError,
)
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.storage.archive.reader import open_archive_image
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import AMD64, BuiltImage, build_image, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.real_tools import containerd, podman
from tests.support.saved_archives import (
    FULL_NAME,
    GENERATIONS,
    IMAGE,
    TARS,
    of_crane,
    of_docker_1_9,
    of_docker_1_10,
    of_docker_25,
    of_skopeo,
    tree_of,
    write_tar,
)
from tests.support.system_parts import require

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


OTHER = build_image([tar_of([member("other", b"2")])], compression="plain")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rootfs = tmp_path_factory.mktemp("expected") / "rootfs"
    unpack(IMAGE.source(), rootfs, platform=AMD64)
    return tree_of(rootfs)


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_image_of_every_generation_is_the_same(
    tmp_path: Path, expected: list[str], generation: str, prefix: str
) -> None:
    """skopeo 999 and 2782, stereoscope 492, go-containerregistry 2109: ``./``, no directories, kinds mixed up."""
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
    copy_to_archive(
        [IMAGE.source("1", FULL_NAME), OTHER.source("2", None)], str(tmp_path / "a.tar"), PullOptions(AMD64)
    )
    assert pull(f"{tmp_path / 'a.tar'}:app:1", tmp_path / "b.tar", platform=AMD64).manifest_digest == IMAGE.digest
    assert pull(f"{tmp_path / 'a.tar'}:2", tmp_path / "l", platform=AMD64).manifest_digest == OTHER.digest
    fresh = io.BytesIO()
    copy_to_archive([IMAGE.source("1", FULL_NAME)], fresh, PullOptions(AMD64))
    assert (tmp_path / "b.tar").read_bytes() == fresh.getvalue()


def test_image_of_docker_before_1_10_is_converted(tmp_path: Path) -> None:
    """moby image/spec/v1.md; docker does the same with such an archive: it computes diff_ids, and takes the history
    from each layer."""
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
        f"ociexport: {archive}:{FULL_NAME}: a docker archive contains no manifest, so a new one was made: {digest}"
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
        (f"@{Digest.of(b'')}", NotFoundError, f"{{}}: expected the image {Digest.of(b'')}, got an archive without it"),
    ],
)
def test_ambiguous_and_unknown_names_list_what_there_is(
    two: Path, name: str | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        open_archive_image(str(two), name)
    listed = f"{FULL_NAME}, ghcr.io/team/app:2, @{Digest.of(b'other.json')}"
    assert str(caught.value) == message.format(two, listed=listed)


# The command, and other tools' archives


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
    copy_to_archive(sources, str(tmp_path / "a.tar"), PullOptions(AMD64))
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
    copy_to_archive(sources, str(tmp_path / "a.tar"), PullOptions(AMD64))
    with containerd() as ctr:
        ctr("images", "import", "--no-unpack", tmp_path / "a.tar")
        lines = ctr("images", "ls").splitlines()[1:]
    listed = {line.split()[0]: line.split()[2] for line in lines}
    assert listed == {FULL_NAME: str(IMAGE.digest), "ghcr.io/team/docker:2": str(docker.digest)}
