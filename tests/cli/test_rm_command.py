"""`ociexport rm` and `treehash` as a script meets them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ociexport.spec.digest import Digest
from tests.support.image_builder import build_image, write_layout
from tests.support.system_parts import OCIEXPORT, run
from tests.support.unpack_process import LAYERS, unpack


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"one": build_image(LAYERS)})
    return tmp_path / "layout"


def test_rm_removes_what_its_owner_may_not_write(tmp_path: Path, layout: Path) -> None:
    rootfs = tmp_path / "place" / "rootfs"
    rootfs.parent.mkdir()
    assert unpack(layout, rootfs).returncode == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    os.chmod(rootfs / "d", 0o755)
    os.symlink(outside, rootfs / "d" / "out")
    os.chmod(rootfs / "d", 0o555)
    run(*OCIEXPORT, "rm", str(rootfs))
    assert (os.listdir(rootfs.parent), os.listdir(outside)) == ([], ["file"])


def test_rm_refuses_what_it_must(tmp_path: Path) -> None:
    for path, code, message in (
        ("/", 2, "'/': expected a directory that can be removed, got one without a name of its own"),
        ("..", 2, "'..': expected a directory that can be removed, got one without a name of its own"),
        (
            "/proc",
            2,
            "'/proc': expected a directory that can be removed, got a mount point\n"
            "hint: unmount it first; the mounted file system is left alone",
        ),
        (str(tmp_path / "absent"), 3, f"'{tmp_path}/absent': not there"),
        (str(tmp_path / "absent" / "too"), 3, f"'{tmp_path}/absent/too': not there"),
    ):
        result = subprocess.run([*OCIEXPORT, "rm", tmp_path, path], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (code, f"ociexport: error: {message}\n")
    assert tmp_path.exists()


def test_treehash_is_the_same_for_layout_and_again(layout: Path, tmp_path: Path) -> None:
    unpack(layout, tmp_path / "one")
    unpack(layout, tmp_path / "two")
    first = run(*OCIEXPORT, "treehash", "--mtimes", str(tmp_path / "one"))
    assert first == run(*OCIEXPORT, "treehash", "--mtimes", str(tmp_path / "two"))
    assert Digest.parse(first.strip())


def test_treehash_of_nothing_is_told(tmp_path: Path) -> None:
    result = subprocess.run([*OCIEXPORT, "treehash", tmp_path / "absent"], capture_output=True, text=True, check=False)
    message = f"'{tmp_path}/absent': expected a directory, got none"
    assert (result.returncode, result.stdout, result.stderr) == (3, "", f"ociexport: error: {message}\n")
