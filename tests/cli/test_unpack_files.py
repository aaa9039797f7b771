"""`ociexport unpack`: the files written beside the tree."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.system_parts import OCIEXPORT, run
from tests.support.unpack_process import LAYERS


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"one": build_image(LAYERS)})
    return tmp_path / "layout"


@pytest.mark.parametrize(
    ("option", "place", "code", "reason"),
    [
        ("--receipt", "no/file", 3, "No such file or directory"),
        ("--run-files", "no/run", 3, "No such file or directory"),
        ("--owners", "no/o", 3, "No such file or directory"),
        ("--receipt", "", 9, "Is a directory"),
        ("--run-files", "layout/index.json", 9, "Not a directory"),
        ("--owners", "", 9, "Is a directory"),
    ],
)
def test_what_can_not_be_written_is_known_before_the_tree_is_begun(
    layout: Path, tmp_path: Path, option: str, place: str, code: int, reason: str
) -> None:
    words = ("-q", "--platform=linux/amd64", str(layout), str(tmp_path / "rootfs"), option, str(tmp_path / place))
    result = subprocess.run([*OCIEXPORT, "unpack", *words], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr == f"ociexport: error: {tmp_path / place}: {reason}\n"
    assert not (tmp_path / "rootfs").exists()


def test_files_may_be_in_a_bundle_beside_its_tree(layout: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    words = ("--receipt", bundle / "receipt.json", "--run-files", bundle / "run")
    for more in ((), ("--replace",)):
        run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", layout, bundle, "--bundle", *words, *more)
        assert json.loads((bundle / "receipt.json").read_bytes())["rootfs"] == str(bundle)
        assert sorted(path.name for path in bundle.iterdir()) == ["config.json", "receipt.json", "rootfs", "run"]
