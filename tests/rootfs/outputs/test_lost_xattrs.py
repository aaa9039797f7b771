"""Attributes that a disk image can't store: left out and counted by default, an error with `--xattrs strict`."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.rootfs.disk.metadata import XattrMode
from ociexport.rootfs.outputs.layers.erofs_files import EROFS_FILES
from ociexport.rootfs.outputs.layers.unpack import unpack_layers
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.disk_images import AMD64
from tests.support.disk_images import mounted as mounted_image
from tests.support.memory_source import MemorySource, member, tar_of

ACL_NAME = "system.posix_acl_access"
ACL = struct.pack("<I" + 5 * "HHI", 2, 1, 7, 2**32 - 1, 2, 5, 9, 4, 5, 2**32 - 1, 16, 5, 2**32 - 1, 32, 0, 2**32 - 1)
SMALL = {"user.small": b"kept", "security.capability": bytes.fromhex("0100000200200000000000000000000000000000")}
MANY = {f"user.{number:04}": b"v" * (500 + (number == 7)) for number in range(600)}
# Per format: the attributes of a file that are left out, beside `SMALL`, which is kept.
TOO_LARGE = [
    ("ext4", {"user.large": b"v" * 60_000}),
    ("ext4", {"user.large": b"v" * 4100, "user.larger": b"v" * 65_536}),
    ("erofs", {"user.large": b"v" * 65_536}),
    ("squashfs", {ACL_NAME: ACL}),
    ("ext4", {"unknown.name": b"v", "user.": b"v"}),
    ("erofs", {"unknown.name": b"v", "user." + "n" * 251: b"v"}),
    ("squashfs", {"unknown.name": b"v", ACL_NAME: b"no ACL"}),
    ("cpio", SMALL),
]


def write(path: Path, format: str, xattrs: dict[str, bytes], mode: XattrMode) -> list[str]:
    source = MemorySource(
        [tar_of([member("d/other", xattrs=SMALL if format != "cpio" else {}), member("d/f", xattrs=xattrs)])]
    )
    result = unpack(source, path, platform=AMD64, options=UnpackOptions(format=format, xattrs=mode))
    return list(result.losses.lines())


@pytest.mark.system
@pytest.mark.parametrize(("format", "lost"), TOO_LARGE)
def test_attributes_that_cannot_be_stored_are_left_out_alone_and_counted(
    tmp_path: Path, format: str, lost: dict[str, bytes]
) -> None:
    path = tmp_path / "image"
    (line,) = write(path, format, SMALL | lost, XattrMode.WARN)
    assert line.startswith(f"xattrs: {len(lost)} ")
    if format != "cpio":
        with mounted_image(path, format) as tree:
            kept = {name: os.getxattr(tree / "d/f", name) for name in os.listxattr(tree / "d/f")}
        assert kept == SMALL


@pytest.mark.parametrize(("format", "lost"), TOO_LARGE)
def test_strict_names_the_first_of_them(tmp_path: Path, format: str, lost: dict[str, bytes]) -> None:
    with pytest.raises(InvalidImageError, match=r"^'d/f': xattr '") as raised:
        write(tmp_path / "image", format, SMALL | lost, XattrMode.STRICT)
    assert raised.value.hint == "--xattrs warn leaves it out"
    assert os.listdir(tmp_path) == []


@pytest.mark.system
def test_largest_of_many_attributes_are_left_out(tmp_path: Path) -> None:
    """In EROFS, four bytes each for 65,534 parts; in ext4, one block and what an inode of 256 bytes has left."""
    for format, least in (("ext4", 8), ("erofs", 500)):
        path = tmp_path / format
        (line,) = write(path, format, SMALL | MANY, XattrMode.WARN)
        with mounted_image(path, format) as tree:
            kept = {name: os.getxattr(tree / "d/f", name) for name in os.listxattr(tree / "d/f")}
        assert line.startswith(f"xattrs: {len(SMALL | MANY) - len(kept)} left out, which this format can't store: ")
        assert kept.items() >= SMALL.items()
        assert least < len(kept) < len(MANY)
        assert "user.0007" not in kept


@pytest.mark.parametrize("format", ["ext4", "erofs"])
def test_what_fits_is_no_error_with_strict(tmp_path: Path, format: str) -> None:
    xattrs = SMALL | {"user.v": b"v" * (4000 if format == "ext4" else 65_535)}
    assert write(tmp_path / "image", format, xattrs, XattrMode.STRICT) == []


def test_layer_in_a_file_is_strict_too(tmp_path: Path) -> None:
    source = MemorySource([tar_of([member("d/f", xattrs={"user.v": b"v" * 65_536})])])
    with pytest.raises(InvalidImageError, match=r"^'d/f': xattr 'user.v': "):
        unpack_layers(
            source, tmp_path, kind=EROFS_FILES, platform=AMD64, options=UnpackOptions(xattrs=XattrMode.STRICT)
        )
    assert os.listdir(tmp_path / "sha256") == []
