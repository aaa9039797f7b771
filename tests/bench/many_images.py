"""A layout of many small images, each with one layer of its own and one shared by all.

python -m tests.bench.many_images LAYOUT COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

_SHARED = [member("etc/shared", b"shared " * 20_000)]


def write_many_images(layout: Path, count: int) -> None:
    """Write ``count`` images, named ``registry.example/bench/image-N:1``."""
    images = {
        f"registry.example/bench/image-{number}:1": build_image([_SHARED, [member(f"own-{number}", b"x" * 1000)]])
        for number in range(count)
    }
    write_layout(layout, images)


if __name__ == "__main__":
    write_many_images(Path(sys.argv[1]), int(sys.argv[2]))
