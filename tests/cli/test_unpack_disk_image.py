"""`ociexport unpack` to a disk image: the name or --format says which, and options that do not fit are refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.cli.configuration import _OF_OTHER_COMMANDS
from ociexport.cli.options.out import _FORMATS
from ociexport.rootfs.outputs.formats import NAMES
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.system_parts import mounted, require

IMAGE = build_image([[directory("d"), member("d/f", b"content\n", uid=7, xattrs={"user.a": b"1"})]])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    return tmp_path / "layout"


def unpack(layout: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command("unpack", f"{layout}", "--platform=linux/amd64", *words, home=layout.parent, variables=variables)


def names_in(path: Path) -> list[str]:
    return sorted(set(os.listdir(path)) - {"layout"})


def test_name_says_the_format_and_the_result_has_it(layout: Path, tmp_path: Path) -> None:
    target = tmp_path / "root.cpio.gz"
    receipt = str(tmp_path / "receipt")
    ended = unpack(layout, str(target), "--json", "--compression=gzip:9", "--receipt", receipt, "--sync", "--replace")
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert (printed["rootfs"], printed["tar"]) == (str(target), None)
    assert printed["diskImage"] == {"format": "cpio.gz", "size": target.stat().st_size, "verity": None}
    assert printed["losses"] == ["xattrs: 1 left out, which this format can't store: user.a"]
    assert ended.stderr.splitlines()[-1].startswith(f"ociexport: unpacked {layout}:1 to {target}: sha256:")
    assert gzip.decompress(target.read_bytes())[:6] == b"070701"
    assert json.loads((tmp_path / "receipt").read_text())["rootfs"] == str(target)
    assert names_in(tmp_path) == ["receipt", "root.cpio.gz"]


def test_directory_of_that_name_stays_one(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "there.ext4").mkdir()
    for words in (("there.ext4",), ("made.ext4", "--format=tree"), ("slash.ext4/",)):
        ended = unpack(layout, f"{tmp_path}/{words[0]}", *words[1:], "-q")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert (tmp_path / words[0] / "d/f").read_bytes() == b"content\n"
    ended = unpack(layout, f"{tmp_path}/there.ext4", "--format=cpio")
    assert (ended.returncode, ended.stderr) == (9, f"ociexport: error: {tmp_path}/there.ext4: Is a directory\n")


def test_archives_go_to_standard_output_and_pipes(layout: Path, tmp_path: Path) -> None:
    archives: dict[str, bytes] = {}
    for format, target in (("tar.gz", "-"), ("tar.gz", "/dev/stdout"), ("cpio", "-"), ("cpio", "/dev/stdout")):
        ended = subprocess.run(
            command_line("unpack", layout, target, "--format", format, "--platform=linux/amd64", "--json"),
            env=command_environment(tmp_path),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (ended.returncode, b'"size": null' in ended.stderr) == (0, True), ended.stderr
        assert archives.setdefault(format, ended.stdout) == ended.stdout
    with tarfile.open(fileobj=io.BytesIO(archives["tar.gz"])) as tar:
        assert tar.getnames() == [".", "d", "d/f"]
    assert archives["cpio"][:6] == b"070701"
    refused = unpack(layout, "/dev/stdout", "--format=ext4")
    assert (refused.returncode, refused.stderr) == (
        2,
        "ociexport: error: '/dev/stdout': expected a file for ext4, which is not written in order, got a stream\n"
        "hint: a cpio archive or a tar can be written to a stream\n",
    )
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("flag", ["--bundle", "--run-files=x", "--owners=x", "--userns", "--rootless", "--sparse"])
def test_options_of_a_tree_are_refused(layout: Path, tmp_path: Path, flag: str) -> None:
    ended = unpack(layout, f"{tmp_path}/x.cpio", flag)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"ociexport: error: {flag.partition('=')[0]}: expected a directory to unpack into, got the format cpio\n"
        "hint: --format tree makes a directory of any name\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "--free=1M"), "--free: expected a disk image to write, got a directory"),
        (("x.erofs", "--no-journal"), "--no-journal: expected the format ext4, got erofs"),
        (("x", "--verity-beside"), "--verity-beside: expected a disk image to write, got a directory"),
        (("--to-tar=x", "--compression=gzip"), "--compression: expected a disk image to write, got --to-tar"),
        (("--to-tar=x", "--format=cpio"), "--format: expected ROOTFS beside it, got --to-tar"),
        (("x.erofs", "--kernel=six"), "--kernel: expected a version such as 6.6, got 'six'"),
        (("x.cpio", "--compression=zstd:x"), "--compression: expected a name, and a level after a colon, got 'zstd:x'"),
        (("x.cpio", "--receipt=x.cpio"), "--receipt 'x.cpio': expected a place outside ROOTFS, got one in it"),
        (("x.cpio", "--uid-map=0:5"), "uid map: expected a range with uid 7 of 'd/f', got none"),
    ],
)
def test_what_does_not_go_together_is_refused(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = unpack(layout, *words, "-q")
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")
    assert names_in(tmp_path) == []


def test_full_disk_is_one_line_and_leaves_nothing(layout: Path, tmp_path: Path) -> None:
    require(root=True)
    write_layout(tmp_path / "large", {"1": build_image([[member("f", bytes(2_000_000))]])})
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as disk:
        ended = unpack(tmp_path / "large", f"{disk}/x.cpio", "-q")
        assert (ended.returncode, os.listdir(disk)) == (9, [])
        assert ended.stderr == (
            f"ociexport: error: {disk}/x.cpio: No space left on device (the disk image and the data of its files need "
            f"room at once)\nhint: check the free space: df -h {disk}\n"
        )


def test_configured_formats_of_other_commands_do_not_matter(layout: Path, tmp_path: Path) -> None:
    assert _OF_OTHER_COMMANDS["format"] == {*NAMES, *_FORMATS}
    ended = unpack(layout, f"{tmp_path}/x", "-q", OCIEXPORT_FORMAT="oci-archive", OCIEXPORT_FREE="1M")
    assert (ended.returncode, ended.stderr, (tmp_path / "x").is_dir()) == (0, "", True)
    ended = unpack(layout, f"{tmp_path}/y", "-q", OCIEXPORT_FORMAT="tar", OCIEXPORT_BUNDLE="1")
    assert (ended.returncode, ended.stderr, tarfile.is_tarfile(tmp_path / "y")) == (0, "", True)
    ended = run_command(
        "pull", str(layout), "-o", f"{tmp_path}/copy", "-q", home=tmp_path, variables={"OCIEXPORT_FORMAT": "erofs"}
    )
    assert (ended.returncode, ended.stderr, (tmp_path / "copy/index.json").exists()) == (0, "", True)


def test_list_makes_a_file_for_each_image(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("example.org/x.tar:1\nexample.org/y:1\n")
    write_layout(tmp_path / "layout", {"example.org/x.tar:1": IMAGE, "example.org/y:1": IMAGE})
    for format, ending in ((None, ""), ("cpio.zst", ".cpio.zst")):
        words = ("--list", f"{tmp_path}/list", f"{tmp_path}/out", *(["--format", format] if format else []))
        ended = unpack(layout, *words, "-q")
        assert ended.returncode == 0, ended.stderr
        made = [path for path in (tmp_path / "out").iterdir() if path.is_dir() != bool(ending)]
        assert [path.name.endswith(ending) for path in made] == [True, True]
