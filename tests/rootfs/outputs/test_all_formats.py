"""Every format of disk images: the attacks, limits and accidents that `unpack` stands stand here too."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError, OciexportError
from ociexport.images.source import ImageSource
from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.formats import FORMATS, DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.rootfs.outputs.test_disk_image import KILLED, small
from tests.support.command import run_command
from tests.support.disk_images import AMD64
from tests.support.disk_images import mounted as mounted_image
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.ordinary_user import open_place, run_as_ordinary_user
from tests.support.system_parts import mounted, require, run

NAMES = [one.name for one in FORMATS if "." not in one.name]
FILE_SYSTEMS = [one.name for one in FORMATS if one.is_file_system]


def write(path: Path, source: ImageSource, format: str, **options: object) -> None:
    unpack(source, path, platform=AMD64, options=UnpackOptions(format=format, **options))  # type: ignore[arg-type]


def image_of(*layers: list[Member]) -> MemorySource:
    return MemorySource([tar_of(layer) for layer in layers])


# Layers that lead out of the tree, or would if a name in the image were a path on the host.
HOSTILE: dict[str, list[list[Member]]] = {
    "dot dot": [[member("../outside/file", b"evil")]],
    "absolute dot dot": [[member("/../outside/file", b"evil")]],
    "hard link": [[hard_link("stolen", "../outside/file")]],
    "hard link to nothing": [[hard_link("x", "absent")]],
    "bare whiteout": [[member("d/.wh.")]],
    "root as a file": [[member("./.", b"x")]],
    "name of 256 bytes": [[member("n" * 256)]],
    "long name behind a link": [[symlink("d/l", "z" * 256), member("d/l/x/y")]],
    "long name behind a link of a lower layer": [[symlink("l", "a/" + "z" * 4000 + "/b")], [directory("l/x")]],
    "device": [[member("x", type=tarfile.CHRTYPE, devmajor=4096, devminor=1)]],
    "deep": [[member("/".join("d" * 50))]],
    "large": [[member("a", bytes(90_000)), member("b", bytes(90_000))]],
}
LIMITS = Limits(max_depth=40, max_bytes=150_000)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_the_same_error_as_in_a_tree(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"mine")
    place = tmp_path / "place"
    place.mkdir()
    said = set()
    for format in ("tree", *NAMES):
        with pytest.raises(InvalidImageError) as caught:
            write(place / "x", image_of(*HOSTILE[name]), format, limits=LIMITS)
        said.add(str(caught.value))
        assert os.listdir(place) == []
    assert len(said) == 1
    assert (os.listdir(outside), (outside / "file").read_bytes()) == (["file"], b"mine")


def test_whiteout_behind_a_link_to_a_long_name_hides_nothing(tmp_path: Path) -> None:
    source = image_of([symlink("l", "z" * 300), member("f", b"kept")], [member("l/.wh.f")])
    for format in ("tree", *NAMES):
        write(tmp_path / format, source, format)
    assert sorted(os.listdir(tmp_path / "tree")) == ["f", "l"]
    with tarfile.open(tmp_path / "tar") as tar:
        assert sorted(tar.getnames()) == [".", "f", "l"]


def odd_names(outside: Path) -> MemorySource:
    """Return an image whose names are of use against whoever takes them for paths, lines or ends."""
    names = [b"new\nline", b"tab\tbell\x07", b"\xff\xfe", b"...", b" ", b"-rf", b"TRAILER!!!", b"*", b"\\", b"%s"]
    lower = [member(f"{parent}{os.fsdecode(name)}", name) for name in names for parent in ("", "d/")]
    planted = [symlink("evil", str(outside)), symlink("up", "../../../../../../.."), member("evil/file", b"evil")]
    return image_of(lower, planted, [member("up/tmp/evil", b"evil"), hard_link("twin", "TRAILER!!!")])


@pytest.mark.system
def test_odd_names_are_names_and_links_lead_within(tmp_path: Path) -> None:
    require("mount", "cpio", root=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"mine")
    source = odd_names(outside)
    write(tmp_path / "tree", source, "tree")
    expected = hash_tree(tmp_path / "tree")
    for format in FILE_SYSTEMS:
        write(tmp_path / "x", source, format)
        with mounted_image(tmp_path / "x", format) as place:
            assert (format, hash_tree(place)) == (format, expected)
    for format, command in (("cpio", ["cpio", "-idm", "--quiet"]), ("tar", ["tar", "-xp", "--numeric-owner"])):
        write(tmp_path / "x", source, format)
        (tmp_path / format).mkdir()
        subprocess.run(command, input=(tmp_path / "x").read_bytes(), cwd=tmp_path / format, check=True)
        assert (format, hash_tree(tmp_path / format)) == (format, expected)
    assert (os.listdir(outside), (outside / "file").read_bytes()) == (["file"], b"mine")
    assert not os.path.lexists("/tmp/evil")


@pytest.mark.parametrize("format", FILE_SYSTEMS)
def test_killed_process_leaves_nothing(tmp_path: Path, format: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED.format(begin=""), str(tmp_path / "x"), format], timeout=60, check=False
    )
    assert (ended.returncode, os.listdir(tmp_path)) == (-signal.SIGKILL, [])


def test_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    """The spool fills the disk, or the image after it."""
    require(root=True)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as disk:
        for format in FILE_SYSTEMS:
            for count in (180, 600):
                files = [member(f"{number}", os.urandom(5000)) for number in range(count)]
                with pytest.raises(OSError, match=r"room at once") as caught:
                    write(disk / "x", image_of(files), format, preflight=False)
                assert (format, caught.value.errno, caught.value.filename) == (format, errno.ENOSPC, f"{disk}/x")
                assert os.listdir(disk) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("sole_ordinary_user")
@pytest.mark.parametrize("format", FILE_SYSTEMS)
def test_ordinary_user_and_root_and_threads_give_the_same_bytes(tmp_path: Path, format: str) -> None:
    members = [
        directory("closed", 0o000, uid=9),
        member("closed/suid", b"x" * 9000, mode=0o6755, uid=70_000, xattrs={"user.a": b"1"}),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    ]
    with open_place([members]) as place:
        target = place / "work" / f"x.{format}"
        ended = run_as_ordinary_user("unpack", place / "layout", target, "--verity", "-q", begin="pass")
        assert (ended.returncode, ended.stderr) == (0, "")
        for threads in (1, 3):
            write(
                tmp_path / "x", build_image([members]).source(), format,
                disk_image=DiskImageOptions(threads=threads, verity="append"),
            )  # fmt: skip
            assert target.read_bytes() == (tmp_path / "x").read_bytes()


@pytest.mark.system
def test_command_writes_hash_trees_that_veritysetup_verifies(tmp_path: Path) -> None:
    require("veritysetup")
    write_layout(tmp_path / "layout", {"1": build_image([[member("f", os.urandom(50_000))]])})
    words = ("unpack", f"{tmp_path}/layout", "--platform=linux/amd64", "-q")
    for format in FILE_SYSTEMS:
        image = tmp_path / f"x.{format}"
        ended = run_command(*words, image, "--verity", "--json", home=tmp_path)
        verity = json.loads(ended.stdout)["diskImage"]["verity"]
        offset = f"--hash-offset={verity['hashOffset']}"
        run("veritysetup", "verify", image, image, verity["rootHash"], offset)
        shown = run("veritysetup", "dump", offset, image)
        assert verity["uuid"] in shown
        assert verity["salt"] in shown
        beside = tmp_path / f"y.{format}"
        ended = run_command(*words, beside, "--verity-beside", home=tmp_path)
        digest, root_hash, kernel, systemd = ended.stdout.splitlines()
        assert (digest[:7], root_hash) == ("sha256:", f"roothash={verity['rootHash']}")
        assert f"root=/dev/dm-0 rootfstype={format} ro" in kernel
        assert systemd.startswith(f"{root_hash} systemd.verity_root_data=")
        run("veritysetup", "verify", beside, f"{beside}.verity", f"--root-hash-file={beside}.roothash")
        assert image.read_bytes()[: verity["hashOffset"]] == beside.read_bytes()


def test_late_errors_leave_no_hash_tree(tmp_path: Path) -> None:
    source = small()
    source.blobs[source.layers[1].digest] = b"damaged"
    for format in FILE_SYSTEMS:
        with pytest.raises(OciexportError):
            write(tmp_path / "x", source, format, disk_image=DiskImageOptions(verity="beside"))
    assert os.listdir(tmp_path) == []
