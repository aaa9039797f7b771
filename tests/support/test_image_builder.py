"""image_builder: other tools accept the images that the tests build."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.image_builder import AMD64, ARM64, build_image, build_index, write_layout
from tests.support.memory_source import directory, member
from tests.support.system_parts import require


@pytest.mark.system
def test_skopeo_reads_what_was_built(tmp_path: Path) -> None:
    """image-spec 1.1 image-layout.md; skopeo checks each digest that it reads."""
    require("skopeo")
    image = build_image(
        [[directory("etc"), member("etc/a", b"1")], [member("etc/.wh.a")], [member("b", b"2")]],
        compression=["gzip", "zstd", "plain"],
    )
    write_layout(tmp_path / "layout", {"1.0": image})
    command = ["skopeo", "inspect", "--config", f"oci:{tmp_path / 'layout'}:1.0"]
    config = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert config["rootfs"]["diff_ids"] == [str(diff_id) for diff_id in image.diff_ids]


def test_same_literals_make_the_same_image() -> None:
    def build() -> str:
        layer = [member("a", b"1")]
        return str(build_index([build_image([layer], platform=AMD64), build_image([layer], platform=ARM64)]).digest)

    assert build() == build()
