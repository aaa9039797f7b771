"""rootfs, under fakeroot(1): files have the owners of the image, as in the tree that root makes.

fakeroot shows a new file as root's until the file gets an attribute; then it is its true owner's, unless its owner was
set before. Run by root, in a namespace where the true owner is user 5.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from ociexport.rootfs.unpack import unpack
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import MemorySource, directory, member, symlink, tar_of
from tests.support.namespaces import run_in_namespace
from tests.support.system_parts import OCIEXPORT, require

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root writes the map of a namespace")

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
CAPABLE, NOTED = {"security.capability": CAPABILITY}, {"user.note": b"1"}
LAYERS = [
    [
        directory("d", xattrs=NOTED),
        member("d/f", b"1", xattrs=NOTED),
        member("cap", b"1", xattrs=CAPABLE),
        member("closed", b"1", mode=0o600, xattrs=NOTED),
        member("su", b"1", mode=0o4755, xattrs=CAPABLE),
        member("theirs", b"1", uid=7, gid=8, mode=0o2755, xattrs=NOTED),
        member("plain", b"1"),
        member("plain of theirs", b"1", uid=7, gid=8),
        symlink("link", "d"),
    ]
]
ROOTS = dict.fromkeys(("", "cap", "closed", "d", "d/f", "link", "plain", "su"), "0:0")


@pytest.mark.parametrize(("option", "has_root"), [("-q", True), ("--rootless", True), ("--rootless", False)])
def test_files_with_attributes_keep_their_owners(tmp_path: Path, option: str, has_root: bool) -> None:
    """Also where the namespace has no root, who then can't be made the owner."""
    require("fakeroot", "find", root=True)
    write_layout(tmp_path / "layout", {"1": build_image(LAYERS)})
    command = shlex.join(OCIEXPORT)
    script = (
        f"{command} unpack -q --platform=linux/amd64 {option} ./layout r && find r -printf '%U:%G %P\\n'"
        f" && {command} diff -q --platform=linux/amd64 r ./layout"
    )
    others = "0 5000 1\n7 5007 2\n" if has_root else "7 5007 2\n"
    result = run_in_namespace(
        *("fakeroot", "sh", "-c", script),
        uid_map=f"5 0 1\n{others}",
        gid_map=f"5 0 1\n{others}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    owners = dict(line.split(" ", 1)[::-1] for line in result.stdout.splitlines()[1:])
    theirs = "0:0" if option == "--rootless" else "7:8"
    assert owners == {**ROOTS, "theirs": theirs, "plain of theirs": theirs}


def test_files_with_attributes_keep_setuid(tmp_path: Path) -> None:
    """Setting an owner drops it, also where the owner stays the same."""
    layer = [
        member("su", b"1", mode=0o6755, xattrs=NOTED),
        member("theirs", b"1", mode=0o4711, uid=3, xattrs=CAPABLE),
        directory("d", 0o2775, xattrs=NOTED),
    ]
    unpack(MemorySource([tar_of(layer)]), tmp_path / "r")
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "r").iterdir()}
    assert modes == {"su": 0o6755, "theirs": 0o4711, "d": 0o2775}
    assert os.getxattr(tmp_path / "r" / "theirs", "security.capability") == CAPABILITY
