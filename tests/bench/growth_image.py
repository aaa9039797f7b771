"""An image of very many tiny files, or of many layers, for measuring how time and memory grow.

python -m tests.bench.growth_image LAYOUT LAYERS FILES_IN_EACH
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member


def write_tiny_image(layout: Path, layers: int, files: int) -> None:
    """Write an OCI layout of one image; each layer has ``files`` files of a few bytes, a hundred in a directory."""
    tars = [_tiny_files(files, f"layer{number}/") for number in range(layers)]
    write_layout(layout, {"1": build_image(tars)})


def _tiny_files(count: int, prefix: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            info, content = member(f"{prefix}d{number // 100}/f{number}", b"tiny %d" % number)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


if __name__ == "__main__":
    write_tiny_image(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
