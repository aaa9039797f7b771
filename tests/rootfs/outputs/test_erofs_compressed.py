"""EROFS with compression: the kernel reads the same tree, and a kernel that can't read it is refused."""

from __future__ import annotations

import os
import platform
import random
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.rootfs.outputs.erofs.compression import algorithm_of
from ociexport.rootfs.outputs.erofs.writer import write_erofs
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import unpack
from tests.rootfs.outputs.test_erofs import shapes
from tests.support.disk_images import AMD64, hard_source, mounted, write_image
from tests.support.memory_source import Member, MemorySource, member, tar_of
from tests.support.sparse_members import sparse_member

_EXTENT = 128 * 1024
_KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])
needs_kernel = pytest.mark.skipif(
    os.geteuid() != 0 or _KERNEL < (6, 10), reason="only root mounts file systems, and Linux reads these from 6.10 on"
)


def contents() -> list[Member]:
    """Return files whose extents are compressed, stored as they are, or both, with each kind of end."""
    noise = random.Random(5).randbytes(500_000)
    text = b"".join(b"line %d\n" % number for number in range(60_000))
    files = {
        "text": text,
        "noise": noise,
        "mixed": noise[:200_000] + text + noise[:70_000] + text[:9000],
        "noise-then-little": noise[:_EXTENT] + b"a",
        "noise-then-block": noise[:_EXTENT] + b"a" * 4097,
        "text-then-noise": text[:_EXTENT] + noise[:5000],
        "zeros": bytes(3 * _EXTENT),
        **{f"size-{size}": text[:size] for size in (_EXTENT - 1, _EXTENT, _EXTENT + 1, 2 * _EXTENT)},
    }
    attributes = {"user.odd": b"x" * 5}  # the maps behind them are still aligned
    return [
        *(member(f"c/{name}", content, xattrs=attributes) for name, content in files.items()),
        *(member(f"c/small-noise-{number}", noise[number * 9000 :][:9000]) for number in range(20)),
        sparse_member("c/sparse", 10_000_000, {5000: text[:5000], 9_000_000: text[:1_000_000]}),
    ]


@needs_kernel
@pytest.mark.parametrize("algorithm", ["zstd", "deflate"])
def test_mounted_image_is_the_tree(tmp_path: Path, algorithm: str) -> None:
    source = MemorySource([tar_of([*shapes(), *contents()])])
    unpack(source, tmp_path / "tree", platform=AMD64)
    tree = hash_tree(tmp_path / "tree", mtimes=True)
    plain = write_image(tmp_path / "plain", write_erofs, source)
    options = DiskImageOptions(compression=algorithm, kernel=(6, 10), threads=2)
    image = write_image(tmp_path / "image", write_erofs, source, options)
    assert image.stat().st_size < plain.stat().st_size * 0.7
    with mounted(image, "erofs") as root:
        assert hash_tree(root, mtimes=True) == tree


@pytest.mark.parametrize("members", [[member("f", b"x")], [member("f", os.urandom(100_000))], []])
@needs_kernel
def test_image_with_little_to_compress_is_the_tree(tmp_path: Path, members: list[Member]) -> None:
    source = MemorySource([tar_of(members)])
    unpack(source, tmp_path / "tree", platform=AMD64)
    options = DiskImageOptions(compression="zstd", kernel=(6, 10))
    with mounted(write_image(tmp_path / "image", write_erofs, source, options), "erofs") as root:
        assert hash_tree(root, mtimes=True) == hash_tree(tmp_path / "tree", mtimes=True)


def test_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    first, second = (
        write_image(
            tmp_path / f"{threads}",
            write_erofs,
            hard_source(),
            DiskImageOptions(compression="zstd", kernel=(6, 10), threads=threads),
        ).read_bytes()
        for threads in (1, 4)
    )
    assert first == second


@needs_kernel
def test_kernel_that_reads_no_holes_gets_zeros(tmp_path: Path) -> None:
    source = MemorySource([tar_of([sparse_member("f", 1_000_000, {5000: b"x"})])])
    sizes = []
    for kernel in ((5, 14), (5, 15)):
        image = write_image(tmp_path / "image", write_erofs, source, DiskImageOptions(kernel=kernel))
        sizes.append(image.stat().st_size)
        with mounted(image, "erofs") as root:
            assert (root / "f").read_bytes() == bytes(5000) + b"x" + bytes(994_999)
    assert sizes[0] > 1_000_000 > sizes[1]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"kernel": (5, 3)}, "EROFS: expected a kernel of 5.4 or newer, got 5.3", None),
        ({"compression": "lzo"}, "EROFS: expected compression deflate or zstd, got 'lzo'", None),
        (
            {"compression": "zstd"},
            "EROFS with zstd: expected the version of the kernel that mounts the image, got none",
            "name it by --kernel; Linux reads zstd from 6.10 on",
        ),
        (
            {"compression": "zstd", "kernel": (6, 9)},
            "EROFS with zstd: expected a kernel of 6.10 or newer, got 6.9",
            "this kernel reads deflate",
        ),
        (
            {"compression": "deflate", "kernel": (6, 5)},
            "EROFS with deflate: expected a kernel of 6.6 or newer, got 6.5",
            "this kernel reads EROFS without compression",
        ),
        (
            {"compression": "zstd", "kernel": (6, 10), "level": 23},
            "EROFS with zstd: expected a level from 1 to 22, got 23",
            None,
        ),
    ],
)
def test_what_the_kernel_cannot_read_is_refused(options: dict[str, object], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        algorithm_of(DiskImageOptions(**options))  # type: ignore[arg-type]
    assert (str(caught.value), caught.value.hint) == (message, hint)
