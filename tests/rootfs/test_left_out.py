"""compare: `diff` right after `unpack` tells nothing, whatever this file system or this user could not store."""

from __future__ import annotations

import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ociexport.layers.limits import Limits
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY
from ociexport.rootfs import compare
from ociexport.rootfs.changes import Change
from ociexport.rootfs.compare import compare_tree
from ociexport.rootfs.disk.trial import MetadataTrial, may_make_devices
from tests.rootfs.test_link_limit import few_links
from tests.support.image_builder import AMD64, build_image, write_layout
from tests.support.memory_source import Member, directory, hard_link, member, symlink
from tests.support.ordinary_user import open_place, run_as_ordinary_user
from tests.support.system_parts import OCIEXPORT, mounted, require, run
from tests.support.unpacker import Unpacker

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.usefixtures("sole_ordinary_user"),
]
__all__ = ["few_links"]

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
CAPABILITY_OF_ROOT_0 = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 0)
FIFO: dict[str, Any] = {"type": tarfile.FIFOTYPE}
NULL: dict[str, Any] = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
NOBODY = 2**32 - 1
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, name)
    for tag, rights, name in (
        (1, 6, 2**32 - 1),
        (2, 7, 1000),
        (4, 4, 2**32 - 1),
        (16, 7, 2**32 - 1),
        (32, 4, 2**32 - 1),
    )
)
KINDS: dict[str, list[Member]] = {
    "no namespace": [member("f", b"x", xattrs={"com.apple.provenance": b"1"})],
    "empty name": [member("f", b"x", xattrs={"": b"1"})],
    "invalid value": [member("f", b"x", xattrs={"security.capability": b"nonsense"})],
    "long name": [member("f", b"x", xattrs={"user." + "n" * 300: b"1"})],
    "large value": [member("f", b"x", xattrs={"user.big": b"v" * 70_000})],
    "many large values": [member("f", b"x", xattrs={f"user.{number}": b"v" * 3000 for number in range(30)})],
    "user attribute of a link": [symlink("l", "t", pax_headers={"SCHILY.xattr.user.x": "1"})],
    "user attribute of a pipe": [member("p", xattrs={"user.x": b"1"}, **FIFO)],
    "other form of a value": [member("f", b"x", xattrs={"security.capability": CAPABILITY_OF_ROOT_0})],
    "capability": [member("f", b"x", mode=0o755, xattrs={"security.capability": CAPABILITY})],
    "trusted": [member("f", b"x", xattrs={"trusted.x": b"1"}), directory("d", xattrs={"trusted.x": b"1"})],
    "ACL": [member("f", b"x", mode=0o640, xattrs={"system.posix_acl_access": ACL})],
    "default ACL": [directory("d", xattrs={"system.posix_acl_default": ACL}), member("d/f", b"x")],
    "early time": [member("f", b"x", mtime=-(2**40))],
    "late times": [member("f", b"x", mtime=2**40), member("p", mtime=2**40, **FIFO)],
    "fine time": [member("f", b"x", pax_headers={"mtime": "1700000000.123456789"})],
    "owners": [member("f", b"x", mode=0o4755, uid=1000, gid=5), directory("d", uid=7), symlink("l", "f", uid=9)],
    "devices": [directory("dev"), member("dev/null", mode=0o666, uid=3, **NULL), hard_link("null", "dev/null")],
    "device in a closed root": [directory(".", 0o555), directory("d", 0o555), member("d/null", **NULL)],
    "attribute in a closed root": [directory(".", 0o555), member("f", b"x", xattrs={"odd": b"1"})],
}  # fmt: skip
FILE_SYSTEMS = {
    "no attributes of users": ("-t", "ramfs", "ramfs"),
    "whole seconds until 2038": ("-o", "loop", "IMAGE"),
}


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place([]) as place:
        yield place


def unpack_and_diff(layout: Path, rootfs: Path, *words: str, as_user: bool) -> subprocess.CompletedProcess[str]:
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("unpack", "-q", "--platform=linux/amd64", *words, layout, rootfs),
        ("diff", "-q", "--platform=linux/amd64", rootfs, layout),
    )
    for command in commands:
        if as_user:
            result = run_as_ordinary_user(*command)
        else:
            result = subprocess.run(
                [*OCIEXPORT, *map(str, command)], capture_output=True, text=True, timeout=60, check=False
            )
        assert result.returncode in (0, 1), result.stderr
    return result


def told(result: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_told_right_after_unpack(place: Path, kind: str, as_user: bool) -> None:
    write_layout(place / "image", {"1": build_image([KINDS[kind]])})
    assert told(unpack_and_diff(place / "image", place / "work" / "rootfs", as_user=as_user)) == (0, "", "")


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_nothing_is_told_on_file_systems_that_store_less(place: Path, file_system: str, as_user: bool) -> None:
    kinds = ["capability", "early time", "late times", "fine time", "owners", "devices", "user attribute of a pipe"]
    layers = [[(info.replace(name=f"{number}/{info.name}", deep=False), content) for info, content in KINDS[kind]]
              for number, kind in enumerate(kinds)]  # fmt: skip
    for layer in layers:
        for info, _ in layer:
            if info.islnk():
                info.linkname = f"{info.name.partition('/')[0]}/{info.linkname}"
    write_layout(place / "image", {"1": build_image(layers)})
    words = FILE_SYSTEMS[file_system]
    if "IMAGE" in words:
        require("mkfs.ext4")
        with (place / "disk").open("wb") as file:
            file.truncate(30 * 1024 * 1024)
        run("mkfs.ext4", "-q", "-I", "128", place / "disk")
    with mounted(place / "mount", *(str(place / "disk") if word == "IMAGE" else word for word in words)):
        (place / "mount").chmod(0o777)
        result = unpack_and_diff(place / "image", place / "mount" / "rootfs", as_user=as_user)
        assert told(result) == (0, "", "")


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_empty_files_in_place_of_devices_are_no_change(place: Path, as_user: bool) -> None:
    write_layout(place / "image", {"1": build_image([KINDS["devices"]])})
    rootfs = place / "work" / "rootfs"
    result = unpack_and_diff(place / "image", rootfs, "--devices=placeholder", as_user=as_user)
    assert told(result) == (0, "", "")
    if as_user:
        (rootfs / "dev" / "null").write_bytes(b"x")
        result = run_as_ordinary_user("diff", "-q", "--platform=linux/amd64", rootfs, place / "image")
        assert told(result) == (1, "T dev/null\nT null\n", "")


def test_what_root_could_store_is_still_told(place: Path) -> None:
    """Root makes devices and sets attributes and times; where they are missing, somebody removed them."""
    layer = [
        *KINDS["devices"],
        *KINDS["capability"],
        member("late", b"x", mtime=2**40),
        member("odd", b"x", xattrs={"odd": b"1"}),
    ]
    write_layout(place / "image", {"1": build_image([layer])})
    rootfs = place / "work" / "rootfs"
    unpack_and_diff(place / "image", rootfs, as_user=False)
    (rootfs / "dev" / "null").unlink()
    os.removexattr(rootfs / "f", "security.capability")
    os.utime(rootfs / "late", (1, 1))
    os.setxattr(rootfs / "odd", "user.odd", b"1")
    os.chmod(rootfs / "odd", 0o600)
    result = unpack_and_diff_again(place, rootfs)
    assert told(result) == (1, "D dev/null\nM f  (xattrs)\nM late  (mtime)\nM odd  (mode, xattrs)\n", "")


def unpack_and_diff_again(place: Path, rootfs: Path, *, as_user: bool = False) -> subprocess.CompletedProcess[str]:
    words = ("diff", "-q", "--platform=linux/amd64", str(rootfs), str(place / "image"))
    if as_user:
        return run_as_ordinary_user(*words)
    return subprocess.run([*OCIEXPORT, *words], capture_output=True, text=True, timeout=60, check=False)


def test_what_the_user_could_store_is_still_told(place: Path) -> None:
    layer = [
        member("f", b"x", uid=3, gid=4),
        member("g", b"x", xattrs={"user.note": b"1", "trusted.x": b"1"}),
        member("h", b"x", mode=0o4755),
    ]
    write_layout(place / "image", {"1": build_image([layer])})
    rootfs = place / "work" / "rootfs"
    assert unpack_and_diff(place / "image", rootfs, as_user=True).returncode == 0
    os.removexattr(rootfs / "f", "user.rootlesscontainers")
    os.removexattr(rootfs / "g", "user.note")
    os.chmod(rootfs / "h", 0o755)
    result = unpack_and_diff_again(place, rootfs, as_user=True)
    assert told(result) == (1, "M f  (owner)\nM g  (xattrs)\nM h  (mode)\n", "")


def test_user_is_told_what_a_tree_of_roots_lacks(place: Path) -> None:
    """Root has unpacked it, with devices and capabilities; that this user could not have is no excuse."""
    write_layout(place / "image", {"1": build_image([KINDS["devices"], KINDS["capability"]])})
    rootfs = place / "work" / "rootfs"
    unpack_and_diff(place / "image", rootfs, as_user=False)
    (rootfs / "dev" / "null").unlink()
    os.removexattr(rootfs / "f", "security.capability")
    result = unpack_and_diff_again(place, rootfs, as_user=True)
    assert told(result) == (1, "D dev/null\nM f  (xattrs)\n", "")


def test_root_without_the_right_to_make_devices_has_left_them_out(place: Path) -> None:
    """As in most pods."""
    require("setpriv")
    write_layout(place / "image", {"1": build_image([KINDS["devices"]])})
    rootfs = place / "work" / "rootfs"
    without = ["setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod", "--", *OCIEXPORT]
    run(*without, "unpack", "-q", "--platform=linux/amd64", place / "image", rootfs)
    assert not (rootfs / "dev" / "null").exists()
    assert run(*without, "diff", "-q", "--platform=linux/amd64", rootfs, place / "image") == ""
    assert unpack_and_diff_again(place, rootfs).stdout == "D dev/null\nD null\n"
    assert may_make_devices()


@pytest.mark.usefixtures("few_links")
def test_copies_beyond_the_limit_of_links_are_no_change(unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_MANY_LINKS", 3)
    layer = [member("a", b"content"), *[hard_link(f"n{number}", "a") for number in range(7)]]
    unpacker(layer)
    source = build_image([layer]).source()

    def changes() -> list[Change]:
        return compare_tree(str(unpacker.rootfs), source, platform=AMD64, limits=Limits())

    assert changes() == []
    copy = min(unpacker.rootfs / f"n{number}" for number in (2, 3, 4))
    times = copy.stat()
    copy.write_bytes(b"CONTENT")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [change.kind for change in changes()] == ["M"]
    assert [change.what for change in changes()] == [("content",)]


def test_tree_is_not_changed_by_a_trial(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    before = rootfs.stat()
    fd = os.open(rootfs, os.O_RDONLY)
    entry = IMPLIED_DIRECTORY._replace(xattrs={b"user.x": b"1", b"odd": b"1"}, mtime_ns=2**62 * 10**9, mode=0)
    tried = MetadataTrial(fd).of(entry, fd, records_owner=False)
    os.close(fd)
    assert tried is not None
    assert (tried.mode, tried.xattrs) == (0, {b"user.x": b"1"})
    assert os.listdir(rootfs) == []
    assert (rootfs.stat().st_mtime_ns, rootfs.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_all_is_told_where_nothing_can_be_tried(place: Path) -> None:
    """On a read-only file system, a difference may be a change or not."""
    write_layout(place / "image", {"1": build_image([KINDS["no namespace"]])})
    with mounted(place / "mount", "-t", "tmpfs", "tmpfs") as mount:
        assert unpack_and_diff(place / "image", mount / "rootfs", as_user=False).returncode == 0
        run("mount", "-o", "remount,ro", mount)
        assert told(unpack_and_diff_again(place, mount / "rootfs")) == (1, "M f  (xattrs)\n", "")
