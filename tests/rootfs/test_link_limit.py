"""rootfs: what a file system can't store is its own limit; files with too many hard links for it are copied."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ociexport.cli.errors import one_line
from ociexport.cli.exit_codes import DISK, exit_code_of
from ociexport.errors import LimitExceededError
from ociexport.layers.limits import Limits
from tests.support.memory_source import Member, directory, hard_link, member, symlink
from tests.support.unpacker import Unpacker

MAX_LINKS = 3
CONTENT = b"1" + bytes(20_000) + b"2"


@pytest.fixture
def few_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that allows three names for a file, where ext4 allows 65,000 and NTFS 1,024."""
    true_link = os.link

    def link(source: bytes, name: bytes, *, src_dir_fd: int, **more: Any) -> None:
        if os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_nlink >= MAX_LINKS:
            if os.access(name, os.F_OK, dir_fd=more["dst_dir_fd"], follow_symlinks=False):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source)
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), source)
        true_link(source, name, src_dir_fd=src_dir_fd, **more)

    monkeypatch.setattr(os, "link", link)


def names_by_inode(rootfs: Path) -> list[int]:
    return sorted(Counter(path.stat().st_ino for path in rootfs.rglob("*") if path.is_file()).values())


@pytest.mark.usefixtures("few_links")
@pytest.mark.parametrize("mode", [0o4755, 0o444, 0])
def test_file_with_too_many_names_is_copied_with_its_metadata(unpacker_of_any_user: Unpacker, mode: int) -> None:
    unpacker = unpacker_of_any_user
    file = member("a", CONTENT, mode=mode, uid=3, gid=4, xattrs={"user.x": b"1"}, mtime=7)
    links = [hard_link(f"d{number}/f", "a") for number in range(7)]
    result = unpacker([file, directory("d0"), *links])
    assert names_by_inode(unpacker.rootfs) == [2, 3, 3]
    looks = set()
    for path in (unpacker.rootfs / "a", *unpacker.rootfs.glob("d*/f")):
        status = path.stat()
        xattrs = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
        looks.add((status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, path.read_bytes(), xattrs))
    assert len(looks) == 1
    assert next(iter(looks))[4] == CONTENT
    assert list(result.losses.lines())[-1] == (
        "hard links: 2 made as copies, since the file system allows no more for one file"
    )


@pytest.mark.usefixtures("few_links")
def test_copy_is_never_that_of_another_file(unpacker: Unpacker) -> None:
    """Names come and go: the kernel gives the inode number of a removed file to a new one."""
    layers: list[list[Member]] = []
    for content in (b"1", b"2", b"3"):
        links = [hard_link(f"l{number}", "a") for number in range(7)]
        layers.append([member("a", content), *links, *[hard_link(f"l{number}", "a") for number in range(7)]])
        unpacker.rootfs = unpacker.rootfs.with_name(f"rootfs{len(layers)}")
        unpacker(*layers)
        assert set(unpacker.tree().values()) == {content.decode()}


@pytest.mark.usefixtures("few_links")
def test_copies_count_as_size(unpacker: Unpacker) -> None:
    """Otherwise a small image could fill a disk with copies."""
    layer = [member("a", CONTENT), *[hard_link(str(number), "a") for number in range(40)]]
    with pytest.raises(LimitExceededError, match=r"copies for hard links: expected at most 100000 bytes, got more$"):
        unpacker(layer, limits=Limits(max_bytes=100_000))
    unpacker.assert_refused_without_trace()


@pytest.mark.usefixtures("few_links")
def test_owners_file_has_the_owners_of_copies(unpacker: Unpacker, tmp_path: Path) -> None:
    layer = [member("a", uid=3, gid=4), *[hard_link(f"l{number}", "a") for number in range(7)]]
    unpacker(layer, owners_file=str(tmp_path / "owners"))
    assert (tmp_path / "owners").read_text().count("uid=3 gid=4") == 8


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EINVAL, errno.EMLINK, errno.EILSEQ])
def test_limit_of_the_file_system_is_told_as_such(
    unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As names beyond 143 bytes on eCryptfs, colons on FAT, long targets of links on XFS."""

    def refuse(target: bytes, name: bytes, **_more: object) -> None:
        raise OSError(number, os.strerror(number), target, None, name)

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        unpacker([symlink("d/l", "x")])
    assert exit_code_of(caught.value) == DISK
    caught.value.filename2 = None
    assert one_line(caught.value) == (
        f"{unpacker.rootfs}/d/l: {os.strerror(number)}: this file system can't store the entry"
    )
    unpacker.assert_refused_without_trace()
