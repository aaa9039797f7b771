"""compare, `ociexport diff`: what changed in a root filesystem since it was unpacked."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.system_parts import OCIEXPORT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners and makes devices")

SPARSE, _ = member("sparse")
SPARSE.pax_headers = {"GNU.sparse.map": "4096,4", "GNU.sparse.size": "20000"}
SPARSE.size = 4
LAYERS = [
    [
        directory("d"),
        member("d/f", b"content" * 1000),
        member("gone", b"x"),
        hard_link("d/link", "d/f"),
        symlink("s", "d"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("x", b"x", xattrs={"user.note": b"1", "security.selinux": b"foreign"}),
        member("old", b"1"),
        (SPARSE, b"data"),
    ],
    [member(".wh.gone"), member("old", b"2"), member("implied/f", b"3")],
]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": build_image(LAYERS)})
    words = ["unpack", "-q", "--platform=linux/amd64", str(tmp_path / "layout"), str(tmp_path / "rootfs")]
    subprocess.run([*OCIEXPORT, *words], check=True, capture_output=True)
    return tmp_path / "rootfs"


def diff(rootfs: Path, *words: str) -> tuple[int, list[str]]:
    result = subprocess.run(
        [*OCIEXPORT, "diff", "-q", "--platform=linux/amd64", *words, str(rootfs), str(rootfs.parent / "layout")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


def test_tree_as_it_was_unpacked_has_no_changes(unpacked: Path) -> None:
    assert diff(unpacked) == (0, [])


def test_each_change_is_told(unpacked: Path) -> None:
    (unpacked / "new").write_text("new")
    (unpacked / "implied" / "f").unlink()
    (unpacked / "s").unlink()
    (unpacked / "s").mkdir()
    times = os.stat(unpacked / "d" / "f")
    with (unpacked / "d" / "f").open("r+b") as file:
        file.seek(5000)
        file.write(b"X")
    os.utime(unpacked / "d" / "f", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.chmod(unpacked / "old", 0o600)
    os.chown(unpacked / "null", 5, 5)
    os.setxattr(unpacked / "x", "user.note", b"2")
    (unpacked / "sparse").write_bytes(b"\0" * 4095 + b"!data" + bytes(20000 - 4100))
    assert diff(unpacked) == (
        1,
        [
            "M d/f  (content)",
            "D implied/f",
            "A new",
            "M null  (owner)",
            "M old  (mode)",
            "T s",
            "M sparse  (content, mtime)",
            "M x  (xattrs)",
        ],
    )


def test_broken_hard_link_is_told(unpacked: Path) -> None:
    content = (unpacked / "d" / "link").read_bytes()
    status = os.stat(unpacked / "d" / "link")
    (unpacked / "d" / "link").unlink()
    (unpacked / "d" / "link").write_bytes(content)
    os.utime(unpacked / "d" / "link", ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert diff(unpacked) == (1, ["M d/link  (links)"])


def test_json_and_owners(unpacked: Path) -> None:
    os.chown(unpacked / "old", 5, 5)
    (unpacked / "caf\udce9").touch()
    code, lines = diff(unpacked, "--json")
    assert (code, json.loads("\n".join(lines))) == (
        1,
        {
            "jsonVersion": 1,
            "command": "diff",
            "changes": [
                {"path": "caf\\xe9", "kind": "A", "what": []},
                {"path": "old", "kind": "M", "what": ["owner"]},
            ],
        },
    )
    (unpacked / "caf\udce9").unlink()
    assert diff(unpacked, "--no-owners") == (0, [])


def test_planted_link_is_not_followed(unpacked: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (unpacked / "implied").rename(outside)
    (unpacked / "implied").symlink_to(outside)
    assert diff(unpacked) == (1, ["T implied"])


def test_missing_tree_is_told(tmp_path: Path) -> None:
    result = subprocess.run([*OCIEXPORT, "diff", str(tmp_path / "x"), "y"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (
        3,
        f"ociexport: error: '{tmp_path}/x': expected a directory, got none\n",
    )
