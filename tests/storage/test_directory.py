"""directory: skopeo's ``dir:`` is read as one image, and any other directory is an error that names what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ociexport.errors import DigestMismatchError, InvalidImageError, LimitExceededError, NotFoundError, OciexportError
from ociexport.images.budget import DocumentBudget
from ociexport.images.choose import PlatformChoice
from ociexport.images.source import ImageName
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.storage.directory import ImageDirectory
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.open import open_source
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_attestation,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import directory, member
from tests.support.real_tools import skopeo_copy

IMAGE = build_image([[directory("etc"), member("etc/a", b"1")], [member("b", b"2")]], media_types="docker")
OTHER = build_image([[member("c", b"3")]], platform=ARM64)
INDEX = build_index([IMAGE, OTHER, build_attestation(IMAGE)])


def write_directory(path: Path, image: BuiltImage = IMAGE, version: str | None = "1.1", suffix: str = "") -> Path:
    """Write ``image`` as containers-transports(5) describes."""
    path.mkdir()
    for digest, (raw, _) in image.documents.items():
        (path / ("manifest.json" if digest == image.digest else f"{digest.encoded}.manifest.json")).write_bytes(raw)
    for digest, content in image.blobs.items():
        (path / f"{digest.encoded}{suffix if digest != image.config.digest else ''}").write_bytes(content)
    if version is not None:
        (path / "version").write_text(f"Directory Transport Version: {version}\n")
    return path


@pytest.mark.parametrize(("version", "suffix"), [("1.1", ""), ("1.0", ".tar"), (None, ".tar")])
def test_image_is_copied_byte_for_byte(tmp_path: Path, version: str | None, suffix: str) -> None:
    source = write_directory(tmp_path / "d", IMAGE, version, suffix)
    result = pull(f"dir:{source}", tmp_path / "layout", platform=AMD64)
    assert result.digest == IMAGE.digest
    ((_, name),) = ImageLayout(tmp_path / "layout").read_images()
    assert name == ImageName(None, None)
    assert verify(tmp_path / "layout").findings == ()


def test_index_and_its_manifests_are_copied(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "d", INDEX)
    assert pull(str(source), tmp_path / "all", platform=PlatformChoice()).digest == INDEX.digest
    blobs = {path.name for path in (tmp_path / "all" / "blobs" / "sha256").iterdir()}
    assert blobs == {digest.encoded for digest in INDEX.all_digests}
    assert pull(str(source), tmp_path / "arm", platform=ARM64).manifest_digest == OTHER.digest


def test_every_command_reads_it_by_path_and_by_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single word is the name of an image in a registry."""
    monkeypatch.chdir(tmp_path)
    write_directory(tmp_path / "d", INDEX)
    for number, name in enumerate(("./d", "dir:d", f"{tmp_path}/d")):
        unpacked = run_command("unpack", name, f"r{number}", "-q", "--platform", "linux/amd64", home=tmp_path)
        assert (unpacked.returncode, unpacked.stdout, unpacked.stderr) == (0, f"{IMAGE.digest}\n", "")
        assert (tmp_path / f"r{number}" / "etc" / "a").read_bytes() == b"1"
        raw = run_command("inspect", name, "--raw", home=tmp_path)
        assert raw.stdout.encode() == INDEX.raw
        shown = run_command("inspect", name, "--platform", "linux/amd64", home=tmp_path)
        assert str(IMAGE.config.digest) in shown.stdout
        listed = run_command("tags", name, home=tmp_path)
        assert listed.stdout == f"@{INDEX.digest}\n"
        verified = run_command("verify", name, "-q", home=tmp_path)
        assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_altered_blob_is_told(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "d")
    blob = source / IMAGE.layers[1].digest.encoded
    blob.write_bytes(bytes(len(blob.read_bytes())))
    with pytest.raises(DigestMismatchError):
        pull(str(source), tmp_path / "layout", platform=AMD64)
    assert not (tmp_path / "layout").exists()
    verified = run_command("verify", f"dir:{source}", "-q", home=tmp_path)
    assert verified.returncode == 7
    assert str(IMAGE.layers[1].digest) in verified.stdout


def refused(path: Path) -> OciexportError:
    with pytest.raises(OciexportError) as caught:
        open_source(f"dir:{path}").fetch_manifest()
    return caught.value


def test_what_is_no_such_directory_is_told(tmp_path: Path) -> None:
    absent = refused(tmp_path / "absent")
    assert isinstance(absent, NotFoundError)
    assert str(absent) == f"'{tmp_path}/absent': expected a directory of an image, there is no such directory"
    empty = refused(tmp_path)
    assert isinstance(empty, NotFoundError)
    assert str(empty) == f"{tmp_path}: expected the directory of an image, got no manifest.json in it"


def test_version_to_come_is_told(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "d", version="2.0")
    assert str(refused(source)) == (
        f"{source}/version: expected 'Directory Transport Version: 1.…', got 'Directory Transport Version: 2.0'"
    )


def test_missing_blob_is_told(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "d")
    (source / IMAGE.layers[0].digest.encoded).unlink()
    with pytest.raises(NotFoundError) as caught:
        pull(str(source), tmp_path / "layout", platform=AMD64)
    assert str(caught.value) == f"{source}: blob {IMAGE.layers[0].digest}: not in the directory"


def test_fifo_and_endless_manifest_stop_nobody(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "d")
    (source / "manifest.json").unlink()
    os.mkfifo(source / "manifest.json")
    error = refused(source)
    assert isinstance(error, InvalidImageError)
    assert str(error) == f"{source}/manifest.json: expected a file, got a fifo"
    (source / "manifest.json").unlink()
    with (source / "manifest.json").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    error = refused(source)
    assert isinstance(error, LimitExceededError)
    assert str(error) == f"{source}: manifest: expected at most 4194304 bytes, got 5242880"


def test_layout_stays_a_layout_whatever_else_is_in_it(tmp_path: Path) -> None:
    write_directory(tmp_path / "d", OTHER)
    write_layout(tmp_path / "d", {"1": IMAGE})
    assert open_source(str(tmp_path / "d")).fetch_manifest().digest == IMAGE.digest
    assert open_source(f"dir:{tmp_path / 'd'}").fetch_manifest().digest == OTHER.digest


@pytest.mark.system
@pytest.mark.parametrize("is_index", [False, True])
def test_what_skopeo_writes_is_read(tmp_path: Path, is_index: bool) -> None:
    # skopeo copies from a layout, since older versions find no docker manifest in one.
    image = build_image([[directory("etc"), member("etc/a", b"1")], [member("b", b"2")]])
    image = build_index([image, OTHER]) if is_index else image
    write_layout(tmp_path / "source", {"1": image})
    words = ["--all"] if is_index else []
    skopeo_copy(f"oci:{tmp_path / 'source'}:1", f"dir:{tmp_path / 'd'}", words=words)
    result = pull(str(tmp_path / "d"), tmp_path / "layout", platform=PlatformChoice())
    assert result.digest == image.digest
    unpack(str(tmp_path / "d"), tmp_path / "rootfs", platform=AMD64)
    assert (tmp_path / "rootfs" / "b").read_bytes() == b"2"
    assert Digest.of((tmp_path / "d" / "manifest.json").read_bytes()) == image.digest


def test_only_documents_about_the_image_are_its_referrers(tmp_path: Path) -> None:
    """Files of any other kind or size are no error: the directory may be from anyone."""
    about = build_image([[member("sbom")]], edit_manifest=lambda item: item.update(subject=IMAGE.descriptor.to_json()))
    path = write_directory(tmp_path / "dir", INDEX)
    (path / f"{about.digest.encoded}.manifest.json").write_bytes(about.raw)
    (path / "junk.manifest.json").write_bytes(b"\xff{")
    (path / "large.manifest.json").write_bytes(bytes(5 * 1024 * 1024))
    (path / "below.manifest.json").mkdir()
    (path / "link.manifest.json").symlink_to("manifest.json")
    os.mkfifo(path / "pipe.manifest.json")
    source, budget = ImageDirectory(str(path)), DocumentBudget("dir")
    assert [one.digest for one in source.fetch_referrers(IMAGE.digest, budget)] == [about.digest]
    assert list(source.fetch_referrers(OTHER.digest, budget)) == []
    assert list(source.fetch_tagged("sha256-0.sig")) == []
