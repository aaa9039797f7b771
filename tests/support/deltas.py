"""Two versions of an image whose layers were all built anew, and the ways in which these may be compressed."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from isal import igzip

from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.zstd import zstd
from tests.support.image_builder import BuiltImage, Compression, build_image, write_layout
from tests.support.memory_source import Member, member
from tests.support.updates import NAME, noise

Compressor = Callable[[bytes, Compression], bytes]


def library(version: int) -> list[Member]:
    """Return the lowest layer: of twelve files three differ between versions, by some bytes."""
    files = []
    for number in range(12):
        content = noise(f"library {number}", 30_000)
        patch = b"version %d" % version if number % 4 == 0 else b""
        files.append(member(f"usr/lib/lib{number}.so", content[:10_000] + patch + content[10_000:]))
    return files


def program(version: int) -> list[Member]:
    """Return the layer above: one file is the same, one differs by some bytes, one is new."""
    content = noise("program", 60_000)
    return [
        member("app/data", noise("data", 40_000)),
        member("app/program", content[:30_000] + b"version %d" % version + content[30_000:]),
        member(f"app/new-{version}", noise(f"new {version}", 1_000)),
    ]


def version(number: int, compress: Compressor | None = None, kind: Compression = "gzip") -> BuiltImage:
    """Return the image of a version."""
    return build_image([library(number), program(number)], compress=compress, compression=kind)


def by_python(tar: bytes, _kind: Compression) -> bytes:
    """Compress as Python's gzip module does; the header has a name and a time."""
    buffer = io.BytesIO()
    with gzip.GzipFile("layer.tar", "wb", 9, buffer, mtime=1_700_000_000) as file:
        file.write(tar)
    return buffer.getvalue()


def by_another(tar: bytes, _kind: Compression) -> bytes:
    """Compress with neither zlib nor zstd, as Go's gzip does: nobody can repeat it."""
    return bytes(igzip.compress(tar, 1))


def by_zstd_in_pieces(tar: bytes, _kind: Compression) -> bytes:
    """Compress as a program does that reads the tar from a pipe."""
    compressor = zstd.ZstdCompressor(level=9)
    pieces = (tar[start : start + 100_000] for start in range(0, len(tar), 100_000))
    return b"".join(map(compressor.compress, pieces)) + compressor.flush()


def by_zstd_command(tar: bytes, _kind: Compression) -> bytes:
    """Compress with the zstd command, whose library may be of another version than ours."""
    assert shutil.which("zstd") is not None
    return subprocess.run(["zstd", "-q", "-c", "-7"], input=tar, stdout=subprocess.PIPE, check=True).stdout


REPEATABLE: Mapping[str, tuple[Compressor | None, Compression]] = {
    "plain": (None, "plain"),
    "zlib": (None, "gzip"),
    "Python's gzip": (by_python, "gzip"),
    "zstd library, as a whole": (None, "zstd"),
    "zstd library, in pieces": (by_zstd_in_pieces, "zstd"),
}


def write_versions(
    place: Path, compress: Compressor | None = None, kind: Compression = "gzip"
) -> tuple[BuiltImage, BuiltImage]:
    """Write layouts ``v1`` and ``v2``, and a ``far`` side that has ``v1``; return both images."""
    images = version(1, compress, kind), version(2, compress, kind)
    for number, image in enumerate(images, start=1):
        write_layout(place / f"v{number}", {f"{NAME}:{number}": image})
    shutil.copytree(place / "v1", place / "far")
    return images


def flip_a_byte(layout: Path, image: BuiltImage, number: int = 0) -> None:
    """Change one byte of a layer in a layout."""
    path = Path(ImageLayout(layout).blob_path(image.layers[number].digest))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
