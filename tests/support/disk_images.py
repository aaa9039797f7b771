"""What the tests of all formats of disk images share: an image with the hard cases, how it is written and mounted."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.flat_image import FlatImage, flat_image
from ociexport.rootfs.outputs.formats import DiskImageOptions, DiskImageWriter
from ociexport.spec.platforms import parse_platform
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of

AMD64 = parse_platform("linux/amd64")
_LOWER: list[Member] = [
    directory("./", 0o711, mtime=4),
    directory("d", 0o3775, uid=5, gid=6, mtime=5),
    member("d/f", b"old"),
    member("d/gone", b"x" * 5000),
    member("kept", b"k" * 20_000, uid=3_000_000, gid=70_000, pax_headers={"mtime": "7.000000001"}),
    hard_link("d/link-to-kept", "kept"),
    symlink("s", "d", mtime=9),
    symlink("long", "t" * 4000),
    symlink("middling", "t" * 70),
    member("n" * 255, b"long", xattrs={"user.note": b"v\x01\xff", "security.selinux": b"foreign"}),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    member("loop", type=tarfile.BLKTYPE, devmajor=259, devminor=300_000),
    member("pipe", type=tarfile.FIFOTYPE, mode=0o600),
    member("caf\udce9", b"no UTF-8"),
    member("implied/deep/f", b"y" * 4096),
    member("empty"),
    member("suid", b"#!", mode=0o6755),
    member("capable", b"x" * 4097, xattrs={"security.capability": b"\x01\x01\x01\x02\x01\x20" + b"\x01" * 14}),
    member("many-attributes", b"x", xattrs={f"user.a{number}": b"v" * number for number in range(1, 40)}),
    *(directory(f"dirs/{number}") for number in range(100)),
    *(member(f"many/{number:05}", b"%d" % number) for number in range(3000)),
    member("tail", bytes(range(256)) * 1000 + b"tail"),
    member("zeros", bytes(300_000) + b"end"),
    member("old", mtime=-5),
    member("late", mtime=5_000_000_000),
    directory("opaque"),
    member("opaque/gone", b"x"),
]
_UPPER: list[Member] = [
    member("s/f", b"new"),
    member("d/.wh.gone"),
    member(".wh.kept"),
    member("opaque/.wh..wh..opq"),
    member("opaque/new", b"n" * 150_000),
    hard_link("opaque/twin", "opaque/new"),
]


def hard_source() -> MemorySource:
    """Return an image with what formats store in different ways."""
    return MemorySource([tar_of(_LOWER), tar_of(_UPPER)])


@contextmanager
def flattened(
    source: MemorySource, *, max_mtime_ns: int | None = None, limits: Limits | None = None
) -> Iterator[FlatImage]:
    """Give the flattened image, its data in a temporary file."""
    with (
        tempfile.TemporaryFile() as spool,
        flat_image(
            source, spool.fileno(), platform=AMD64, limits=limits or Limits(), max_mtime_ns=max_mtime_ns
        ) as image,
    ):
        yield image


def write_image(
    path: Path, writer: DiskImageWriter, source: MemorySource, options: DiskImageOptions | None = None
) -> Path:
    """Write a disk image to ``path``."""
    with flattened(source) as image, open(path, "w+b") as file:
        writer(image, file.fileno(), options or DiskImageOptions())
    return path


@contextmanager
def mounted(image: Path, file_system: str, *options: str) -> Iterator[Path]:
    """Mount a disk image read-only by a loop device, and give the mount point."""
    with tempfile.TemporaryDirectory() as name:
        chosen = ",".join(("loop", "ro", *options))
        subprocess.run(["mount", "-t", file_system, "-o", chosen, image, name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)
            assert not os.path.ismount(name)
