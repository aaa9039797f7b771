"""unpack() with a format: one file, which appears whole under its name or not at all."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.errors import DiffIdMismatchError, InvalidImageError, UsageError
from ociexport.layers.limits import Limits
from ociexport.rootfs.disk.metadata import IdMap, XattrMode
from ociexport.rootfs.outputs.formats import FORMATS, NAMES, DiskImageOptions, format_of
from ociexport.rootfs.outputs.tar import flatten
from ociexport.rootfs.unpack import UnpackOptions, UnpackResult, unpack
from ociexport.spec.platforms import parse_platform
from ociexport.system.zstd import zstd
from tests.rootfs.outputs.test_cpio import entries_of
from tests.support.disk_images import AMD64
from tests.support.image_builder import build_image
from tests.support.memory_source import MemorySource, directory, member, tar_of
from tests.support.ordinary_user import open_place, run_as_ordinary_user
from tests.support.system_parts import mounted, require

UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress, ".tgz": gzip.decompress, ".wsl": gzip.decompress, ".zst": zstd.decompress,
    ".tzst": zstd.decompress, ".xz": lzma.decompress, ".txz": lzma.decompress,
}  # fmt: skip
SMALL = [[directory("d"), member("d/f", b"content\n", uid=7, gid=8, mode=0o640)], [member("g", b"x" * 5000, mtime=9)]]


def small() -> MemorySource:
    return MemorySource([tar_of(layer) for layer in SMALL])


def image(path: Path, source: MemorySource | None = None, format: str | None = None, **options: object) -> UnpackResult:
    """Write a disk image in the format that its name asks for."""
    chosen = UnpackOptions(format=format or format_of(str(path)), **options)  # type: ignore[arg-type]
    return unpack(source or small(), path, platform=AMD64, options=chosen)


def plain(path: Path) -> bytes:
    unpacked = UNPACKERS.get(path.suffix, bytes)(path.read_bytes())
    assert isinstance(unpacked, bytes)
    return unpacked


def flat_tar(source: MemorySource) -> bytes:
    buffer = io.BytesIO()
    flatten(source, buffer.write, platform=AMD64, limits=Limits())
    return buffer.getvalue()


def test_names_of_formats_are_all_there() -> None:
    asked = {one.name: {format_of(f"root{suffix}") for suffix in one.suffixes} for one in FORMATS if one.suffixes}
    assert asked == {name: {name} for name in asked}
    assert set(NAMES) - set(asked) == {"tree", "incus"}
    assert {format_of(name) for name in ("rootfs", "root.ext4/", "ext4", "x.gz", "x.tar.bz2")} == {"tree"}


def test_archives_have_the_same_content_in_each_compression(tmp_path: Path) -> None:
    tar = flat_tar(small())
    for suffix in (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".wsl"):
        result = image(tmp_path / f"r{suffix}")
        assert (suffix, plain(tmp_path / f"r{suffix}") == tar) == (suffix, True)
        assert result.disk_image is not None
        assert result.disk_image.size == (tmp_path / f"r{suffix}").stat().st_size
    image(tmp_path / "r.cpio")
    for suffix in (".cpio.gz", ".cpio.zst", ".cpio.xz"):
        image(tmp_path / f"r{suffix}")
        assert plain(tmp_path / f"r{suffix}") == (tmp_path / "r.cpio").read_bytes()
    image(tmp_path / "named", format="cpio", disk_image=DiskImageOptions("gzip", 9))
    assert gzip.decompress((tmp_path / "named").read_bytes()) == (tmp_path / "r.cpio").read_bytes()


@pytest.mark.parametrize(
    ("name", "format", "options", "message"),
    [
        ("x.tar.gz", "tar.gz", {"compression": "zstd"},
         "--compression: expected gzip for the format tar.gz, got 'zstd'"),
        ("x.tar.gz", "tar", {"compression": "zstd"},
         "--compression: expected gzip for '{}x.tar.gz', got zstd"),
        ("x", "cpio", {"compression": "lzo"},
         "--compression: expected none or gzip or zstd or xz for the format cpio, got 'lzo'"),
        ("x", "tar.zst", {"level": 23}, "--compression: expected a level from 1 to 22 for zstd, got 23"),
        ("x", "cpio", {"level": 1}, "--compression: expected no level for none, got 1"),
        ("x", "ext4", {"level": 1}, "level 1: expected a compression beside it, got none"),
        ("x", "cpio", {"free_bytes": 1}, "--free: expected the format ext4, got cpio"),
        ("x", "ext4", {"kernel": (6, 6)}, "--kernel: expected the format erofs, got ext4"),
        ("x", "cpio", {"verity": "append"}, "--verity: expected the format erofs or squashfs or ext4, got cpio"),
        ("x", "ext4", {"verity": "before"}, "verity: expected append or beside, got 'before'"),
        ("x", "vfat", {}, f"format: expected {', '.join(NAMES[:-1])} or wsl, got 'vfat'"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    tmp_path: Path, name: str, format: str, options: dict[str, object], message: str
) -> None:
    source = small()
    source.blobs.clear()
    with pytest.raises(UsageError) as caught:
        image(tmp_path / name, source, format, disk_image=DiskImageOptions(**options))  # type: ignore[arg-type]
    assert str(caught.value) == message.replace("{}", f"{tmp_path}/")
    assert os.listdir(tmp_path) == []


def test_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.cpio").mkdir()
    for name in ("x.cpio", "y/x.cpio"):
        with pytest.raises(OSError, match=r"Is a directory|No such file") as caught:
            image(tmp_path / name)
        assert caught.value.filename == f"{tmp_path}/{name}"


@pytest.mark.parametrize("name", ["x.cpio.gz", "x.tar.zst", "x.erofs"])
def test_damaged_layer_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    source = MemorySource([tar_of(layer) for layer in SMALL], diff_ids=["sha256:" + "0" * 64] * 2)
    with pytest.raises(DiffIdMismatchError):
        image(tmp_path / name, source)
    assert (os.listdir(tmp_path), (tmp_path / name).read_bytes()) == ([name], b"old")


def test_file_of_that_name_is_replaced_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"of others")
    (tmp_path / "x.cpio").symlink_to("outside")
    image(tmp_path / "x.cpio")
    assert ((tmp_path / "outside").read_bytes(), (tmp_path / "x.cpio").is_symlink()) == (b"of others", False)


def test_times_are_clamped_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "10")
    image(tmp_path / "x.cpio")
    assert {name: entry.mtime for name, entry in entries_of((tmp_path / "x.cpio").read_bytes())} == {
        b".": 0, b"d": 10, b"d/f": 10, b"g": 9,
    }  # fmt: skip
    image(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert {info.name: info.mtime for info in tar} == {".": 0, "d": 10, "d/f": 10, "g": 9}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "8589934592")
    with pytest.raises(UsageError, match="seconds since 1970, at most 8589934591, got '8589934592'"):
        image(tmp_path / "y.cpio")


def test_image_that_only_this_format_can_not_hold_is_not_called_invalid(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match="as e2fsck requires") as caught:
        image(tmp_path / "x.ext4", MemorySource([tar_of([member("lost+found", b"a file")])]))
    assert caught.value.hint == "a limit of ext4; another --format may hold the image"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.cpio", "x.tar"])
def test_ids_are_mapped_for_any_user(tmp_path: Path, name: str) -> None:
    wide, narrow = IdMap(((0, 100_000, 100),)), IdMap(((0, 5, 1),))
    image(tmp_path / name, uid_map=wide, gid_map=wide)
    if name == "x.tar":
        with tarfile.open(tmp_path / name) as tar:
            owners = {info.name: (info.uid, info.gid) for info in tar}
    else:
        owners = {path.decode(): entry[2:4] for path, entry in entries_of((tmp_path / name).read_bytes())}
    assert owners == {".": (100_000, 100_000), "d": (100_000,) * 2, "d/f": (100_007, 100_008), "g": (100_000,) * 2}
    with pytest.raises(UsageError, match=r"^uid map: expected a range with uid 7 of 'd/f', got none$"):
        image(tmp_path / name, uid_map=narrow)


def test_attributes_are_left_out_or_refused_as_asked(tmp_path: Path) -> None:
    source = MemorySource([tar_of([member("f", xattrs={"user.a": b"1", "security.selinux": b"x"})])])
    with pytest.raises(InvalidImageError) as caught:
        image(tmp_path / "x.cpio", source, xattrs=XattrMode.STRICT)
    assert str(caught.value) == "'f': xattr 'user.a': expected none in the format cpio, which stores none"
    for name in ("x.cpio", "x.tar"):
        result = image(tmp_path / name, source, xattrs=XattrMode.NONE)
        assert list(result.losses.lines()) == []
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [info.pax_headers for info in tar] == [{}, {}]


def test_room_is_checked_for_the_spool_and_the_image(tmp_path: Path) -> None:
    require(root=True)
    source = MemorySource([tar_of([member("f", os.urandom(600_000))])])
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as disk:
        for name, preflight in (("x.cpio", True), ("x.cpio", False), ("x.cpio.gz", False)):
            with pytest.raises(OSError, match=r"room") as caught:
                image(disk / name, source, preflight=preflight)
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{disk}/{name}")
            expected = "expected room for at least 1.2 MB, got 1.0 MB free (--no-preflight skips this check)"
            if not preflight:
                expected = "No space left on device (the disk image and the data of its files need room at once)"
            assert caught.value.strerror == expected
            assert os.listdir(disk) == []
        image(disk / "x.tar", source)  # needs no spool
        assert os.listdir(disk) == ["x.tar"]


KILLED = """
import io, os, pathlib, signal, sys
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.rootfs.outputs.test_disk_image import AMD64, small
{begin}
source = small()
open_blob = source.open_blob
def killed(descriptor, offset=0):
    if descriptor == source.layers[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_blob(descriptor, offset)
source.open_blob = killed
unpack(source, sys.argv[1], platform=AMD64, options=UnpackOptions(format=sys.argv[2]))
"""


@pytest.mark.parametrize("format", ["cpio", "tar", "erofs"])
@pytest.mark.parametrize("begin", ["", "del os.O_TMPFILE"])
def test_killed_process_leaves_nothing_that_lasts(tmp_path: Path, format: str, begin: str) -> None:
    code = KILLED.format(begin=begin)
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x"), format], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ([".x.partial"] if begin and format != "cpio" else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("sole_ordinary_user")
def test_ordinary_user_gets_the_same_bytes(tmp_path: Path) -> None:
    members = [*SMALL[0], member("n", type=tarfile.CHRTYPE, devmajor=1, devminor=3), directory("closed", 0o000)]
    with open_place([members]) as place:
        for name in ("x.cpio.zst", "x.tar.gz", "x.erofs"):
            ended = run_as_ordinary_user("unpack", place / "layout", place / "work" / name, begin="pass")
            assert ended.returncode == 0, ended.stderr
            image(tmp_path / name, build_image([members]).source())  # type: ignore[arg-type]
            assert (name, (place / "work" / name).read_bytes()) == (name, (tmp_path / name).read_bytes())


def incus_members(path: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return {
            info.name: (info, (tar.extractfile(info) or io.BytesIO()).read() if info.isfile() else b"") for info in tar
        }


def test_incus_tar_has_metadata_and_the_root_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incus, "Image format": metadata.yaml with architecture and creation_date, and rootfs/."""
    yaml = pytest.importorskip("yaml")
    labels = {"org.opencontainers.image.title": 'a "b"\n\u0085\U0001f600: #', "org.opencontainers.image.version": "12"}
    for platform, architecture in (
        ("amd64", "x86_64"),
        ("arm/v6", "armv6l"),
        ("m68k", "m68k"),
    ):
        name, _, variant = platform.partition("/")
        built = build_image(
            SMALL,
            edit_config=lambda config, name=name, variant=variant: config.update(  # type: ignore[misc]
                architecture=name, variant=variant or None, created="2024-05-06T07:08:09.123456789Z",
                config={"Labels": labels},
            ),
        )  # fmt: skip
        target = tmp_path / "x.tar.zst"
        result = unpack(
            built.source(), target, platform=parse_platform(f"linux/{platform}"), options=UnpackOptions(format="incus")
        )
        (tmp_path / "x.tar").write_bytes(plain(target))
        found = incus_members(tmp_path / "x.tar")
        assert list(found) == ["metadata.yaml", "rootfs", "rootfs/d", "rootfs/d/f", "rootfs/g"]
        metadata = yaml.safe_load(found["metadata.yaml"][1])
        assert metadata == {
            "architecture": architecture,
            "creation_date": 1714979289,
            "properties": {
                "architecture": architecture,
                "os": "linux",
                "description": f"OCI image {result.config_digest}",
                "name": labels["org.opencontainers.image.title"],
                "release": "12",
            },
        }
        assert found["rootfs/d/f"][1] == b"content\n"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    image(tmp_path / "y", format="incus")
    assert b"\ncreation_date: 1\n" in incus_members(tmp_path / "y")["metadata.yaml"][1]
