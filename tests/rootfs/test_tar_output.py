"""outputs.tar, memory_tree, tar.writer: a root filesystem as one tar has the same content as with `unpack`."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ociexport.errors import DigestMismatchError, InvalidImageError, LimitExceededError
from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.tar import FlattenResult, flatten
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import unpack
from ociexport.spec.platforms import parse_platform
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.system_parts import OCIEXPORT, require, run

AMD64 = parse_platform("linux/amd64")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners and makes devices")


def flattened(source: MemorySource, **options: object) -> tuple[bytes, FlattenResult]:
    buffer = io.BytesIO()
    limits = options.pop("limits", Limits())
    result = flatten(source, buffer.write, platform=AMD64, limits=limits, **options)  # type: ignore[arg-type]
    return buffer.getvalue(), result


def extract(tar: bytes, target: Path) -> Path:
    """Extract with GNU tar, which needs an option since a directory's content does not follow it directly."""
    target.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore"]
    subprocess.run(["tar", "-C", str(target), "-xpf", "-", *options], input=tar, check=True, stderr=subprocess.DEVNULL)
    return target


def names_of(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


LAYERS: list[list[Member]] = [
    [
        directory("./", 0o711, mtime=4),
        directory("d", 0o3775, uid=5, gid=6, mtime=5),
        member("d/f", b"old"),
        member("d/gone", b"x"),
        member("kept", b"k" * 2000, uid=3_000_000, pax_headers={"mtime": "7.000000001"}),
        hard_link("d/link-to-kept", "kept"),
        symlink("s", "d", mtime=9),
        member("n" * 150, b"long", xattrs={"user.note": b"v\x00\xff", "security.selinux": b"foreign"}),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("pipe", type=tarfile.FIFOTYPE),
        member("caf\udce9", b"no UTF-8"),
        member("implied/deep/f", b"y"),
    ],
    [
        member("s/f", b"new"),
        member("d/.wh.gone"),
        member(".wh.kept"),
        symlink("long", "t" * 200),
        member("old", mtime=-5),
    ],
]


@needs_root
def test_tar_holds_what_unpack_makes(tmp_path: Path) -> None:
    source = MemorySource([tar_of(layer) for layer in LAYERS])
    tar, result = flattened(source)
    unpack(source, tmp_path / "unpacked")
    extracted = extract(tar, tmp_path / "extracted")
    assert hash_tree(extracted, mtimes=True) == hash_tree(tmp_path / "unpacked", mtimes=True)
    assert list(result.losses.lines()) == [
        "xattrs: 1 left out, specific to the machine that built the image: security.selinux"
    ]
    assert result.written_entries == len(names_of(tar))


def test_attribute_with_an_equals_sign_in_its_name_is_read_again(tmp_path: Path) -> None:
    """The key of a PAX record ends at the first equals sign."""
    layer = [member("f", pax_headers={"LIBARCHIVE.xattr.user.a%3Db%25c": "AAE="})]
    tar, _ = flattened(MemorySource([tar_of(layer)]))
    unpack(MemorySource([tar]), tmp_path / "again")
    assert os.getxattr(tmp_path / "again" / "f", "user.a=b%c") == b"\0\1"
    (tmp_path / "bsdtar").mkdir()
    require("bsdtar", root=True)
    subprocess.run(["bsdtar", "-xp", "--xattrs", "-C", tmp_path / "bsdtar"], input=tar, check=True)
    assert os.getxattr(tmp_path / "bsdtar" / "f", "user.a=b%c") == b"\0\1"


def test_same_image_gives_the_same_bytes_and_nothing_twice() -> None:
    tars = [tar_of(layer) for layer in LAYERS]
    first, second = flattened(MemorySource(tars))[0], flattened(MemorySource(tars))[0]
    assert first == second
    names = names_of(first)
    assert len(names) == len(set(names))
    assert not [name for name in names if ".wh." in name]


def test_hard_link_outlives_the_name_it_was_made_of() -> None:
    tar, _ = flattened(
        MemorySource([tar_of([member("a", b"x"), hard_link("b", "a"), hard_link("c", "a")]), tar_of([member(".wh.a")])])
    )
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        b, c = archive.getmember("b"), archive.getmember("c")
        assert (b.type, b.size, c.type, c.linkname) == (tarfile.REGTYPE, 1, tarfile.LNKTYPE, "b")


def test_hard_links_into_aufs_bookkeeping_are_one_file() -> None:
    plnk = [member(".wh..wh.plnk/1.2", b"x"), hard_link("a", ".wh..wh.plnk/1.2"), hard_link("b", ".wh..wh.plnk/1.2")]
    tar, _ = flattened(MemorySource([tar_of(plnk), tar_of([member("c")])]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert [(item.name, item.size, item.linkname) for item in archive] == [
            (".", 0, ""),
            ("a", 1, ""),
            ("c", 0, ""),
            ("b", 0, "a"),
        ]


def test_symlinks_have_the_mode_that_linux_gives_them() -> None:
    """mke2fs writes the mode in the tar, and some tars contain 0644."""
    tar, _ = flattened(MemorySource([tar_of([symlink("l", "x", mode=0o644)])]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getmember("l").mode == 0o777


def test_sparse_file_is_written_out() -> None:
    info, _ = member("big")
    info.pax_headers = {"GNU.sparse.map": "0,3,100000,4", "GNU.sparse.size": "200000"}
    info.size = 7
    tar, _ = flattened(MemorySource([tar_of([(info, b"abcdefg")])]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        file = archive.extractfile("big")
        assert file is not None
        assert file.read() == b"abc" + bytes(99_997) + b"defg" + bytes(99_996)


def test_endless_holes_are_refused_before_anything_is_written() -> None:
    layer = []
    for name in ("one", "two"):
        info, _ = member(name)
        info.pax_headers = {"GNU.sparse.map": "0,3", "GNU.sparse.size": str(2**40)}
        info.size = 3
        layer.append((info, b"abc"))
    written: list[bytes | memoryview] = []
    with pytest.raises(LimitExceededError, match="files: expected at most"):
        flatten(MemorySource([tar_of(layer)]), written.append, platform=AMD64, limits=Limits())
    assert written == []


@pytest.mark.parametrize(
    ("layers", "bytes_enough"),
    [
        ([[member(f"file{number}") for number in range(30)]], 30 * 1000),
        ([[directory("/".join("d" * 40))]], 40 * 1000 + 500),
        ([[member("a"), *(hard_link(f"link{number}", "a") for number in range(30))]], 31 * 650 + 500),
        ([[member("a", xattrs={"user.x": b"x" * 10_000})]], 11_200),
    ],
    ids=["files", "directories", "hard links", "xattrs"],
)
def test_memory_for_names_is_bounded(layers: list[list[Member]], bytes_enough: int) -> None:
    source = MemorySource([tar_of(layer) for layer in layers])
    flattened(source, limits=Limits(max_name_bytes=bytes_enough))
    with pytest.raises(LimitExceededError) as caught:
        flattened(source, limits=Limits(max_name_bytes=bytes_enough // 2))
    assert caught.value.message == f"expected at most {bytes_enough // 2} bytes of memory for names"
    assert caught.value.hint == "if you trust the image, raise --max-memory"


def test_name_that_is_written_again_takes_no_more_memory() -> None:
    layers = [tar_of([directory("d"), member("d/a", b"%d" % number)]) for number in range(20)]
    flattened(MemorySource(layers), limits=Limits(max_name_bytes=5_000))


def test_newer_times_are_clamped() -> None:
    """SOURCE_DATE_EPOCH works like tar's --clamp-mtime: older times stay."""
    layer = [member("new", mtime=2_000_000_000), member("old", mtime=5)]
    tar, _ = flattened(MemorySource([tar_of(layer)]), max_mtime_ns=1_000_000_000 * 10**9)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert [archive.getmember(name).mtime for name in ("new", "old")] == [1_000_000_000, 5]


def test_wrong_diff_id_is_told() -> None:
    tar = tar_of([member("a")])
    with pytest.raises(DigestMismatchError, match="diff_id mismatch"):
        flattened(MemorySource([tar], diff_ids=[f"sha256:{'a' * 64}"]))


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(member, PATHS, st.binary(max_size=9)),
    st.builds(directory, PATHS, st.sampled_from([0o755, 0o700])),
    st.builds(symlink, PATHS, st.one_of(PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format))),
    st.builds(hard_link, PATHS, PATHS),
    st.builds(lambda path: member(_prefixed(path, ".wh.")), PATHS),
    st.builds(lambda path: member(f"{path}/.wh..wh..opq"), PATHS),
)


def _prefixed(path: str, prefix: str) -> str:
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}{prefix}{name}"


@needs_root
@example([[member("a/a"), hard_link("a", "a/a")]])
@example([[directory("a/a"), hard_link("a", "a/a")]])
@given(st.lists(st.lists(MEMBERS, max_size=6), min_size=1, max_size=3))
@settings(max_examples=150)
def test_any_layers_give_the_tree_that_unpack_makes(layers: list[list[Member]]) -> None:
    """The tree in memory and the tree on disk follow the same rules, errors included."""
    source = MemorySource([tar_of(layer) for layer in layers])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        message = ""
        try:
            unpack(source, work / "unpacked")
        except InvalidImageError as error:
            message = str(error)
        if message:
            with pytest.raises(InvalidImageError, match=f"^{re.escape(message)}$"):
                flattened(source)
            return
        extracted = extract(flattened(source)[0], work / "extracted")
        assert hash_tree(extracted, mtimes=True) == hash_tree(work / "unpacked", mtimes=True)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(
        tmp_path / "layout", {"1": build_image([[directory("d"), member("d/f", b"content\n", uid=7, mode=0o640)]])}
    )
    return tmp_path / "layout"


def test_command_writes_a_file_or_standard_output(layout: Path, tmp_path: Path) -> None:
    words = ("unpack", "-q", "--platform=linux/amd64", str(layout))
    printed = run(*OCIEXPORT, *words, "--to-tar", str(tmp_path / "out.tar"))
    assert printed.startswith("sha256:")
    result = subprocess.run([*OCIEXPORT, *words, "--to-tar", "-"], capture_output=True, check=True)
    assert result.stdout == (tmp_path / "out.tar").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["layout", "out.tar"]


def test_command_refuses_what_does_not_go_together(layout: Path, tmp_path: Path) -> None:
    example = "hint: for example ociexport unpack debian:12 ./rootfs"
    for words, message in (
        (
            [],
            f"unpack: expected either ROOTFS or --to-tar, got neither\n{example}",
        ),
        (
            [str(tmp_path / "r"), "--to-tar", "x"],
            f"unpack: expected either ROOTFS or --to-tar, got both\n{example}",
        ),
        (["--to-tar", "x", "--bundle"], "--bundle: expected ROOTFS beside it, got --to-tar"),
    ):
        result = subprocess.run(
            [*OCIEXPORT, "unpack", str(layout), *words], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (2, f"ociexport: error: {message}\n")


def test_failed_command_leaves_no_file(tmp_path: Path) -> None:
    broken = build_image(
        [[member("a")]], edit_config=lambda config: config["rootfs"].update(diff_ids=[f"sha256:{'a' * 64}"])
    )
    write_layout(tmp_path / "layout", {"1": broken})
    words = [
        *OCIEXPORT,
        "unpack",
        "-q",
        "--platform=linux/amd64",
        str(tmp_path / "layout"),
        "--to-tar",
        str(tmp_path / "x"),
    ]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 7
    assert os.listdir(tmp_path) == ["layout"]


@pytest.mark.system
def test_squashfs_takes_the_tar(layout: Path, tmp_path: Path) -> None:
    require("sqfstar", "unsquashfs")
    tar = tmp_path / "rootfs.tar"
    run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", str(layout), "--to-tar", str(tar))
    with tar.open("rb") as file:
        subprocess.run(["sqfstar", "-quiet", str(tmp_path / "fs.sqfs")], stdin=file, check=True, capture_output=True)
    listed = run("unsquashfs", "-lln", str(tmp_path / "fs.sqfs"))
    assert any(line.startswith("-rw-r----- 7/0") and line.endswith("/d/f") for line in listed.splitlines())


@pytest.mark.system
def test_ext4_is_made_of_the_tree(layout: Path, tmp_path: Path) -> None:
    """mke2fs -d accepts a tar since 1.47.1; older ones accept the directory that tar or unpack makes."""
    require("mke2fs", "debugfs")
    tar, source = tmp_path / "rootfs.tar", tmp_path / "extracted"
    run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", str(layout), "--to-tar", str(tar))
    version = subprocess.run(["mke2fs", "-V"], capture_output=True, text=True, check=True).stderr
    number = tuple(int(part) for part in version.split()[1].split(".") if part.isdigit())
    root = tar if number >= (1, 47, 1) else extract(tar.read_bytes(), source)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, tmp_path / "fs.ext4", "8M")
    assert "content" in run("debugfs", "-R", "cat /d/f", tmp_path / "fs.ext4")


@pytest.mark.system
@pytest.mark.slow
def test_ext4_is_made_of_the_tar(tmp_path: Path) -> None:
    """With the mke2fs of Debian 13 (1.47.2), in its own root, since older ones accept no tar."""
    require("mmdebstrap", "chroot", "debugfs", "e2fsck", root=True)
    debian = tmp_path / "debian"
    command = ["mmdebstrap", "--variant=essential", "--include=e2fsprogs,libarchive13t64", "trixie", str(debian)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs a mirror of Debian 13: {made.stderr.splitlines()[-1:]}")
    layers = [tar_of(layer) for layer in LAYERS]
    (debian / "rootfs.tar").write_bytes(flattened(MemorySource(layers))[0])
    run("chroot", debian, "mke2fs", "-q", "-t", "ext4", "-d", "/rootfs.tar", "/fs.ext4", "16M")
    disk = debian / "fs.ext4"
    subprocess.run(["e2fsck", "-fn", str(disk)], check=True, capture_output=True)
    told = {}
    for path in ("d", "d/f", "d/link-to-kept", "s", "null", "pipe", "n" * 150, "implied/deep", "old"):
        lines = run("debugfs", "-R", f"stat /{path}", disk).split()
        told[path] = tuple(lines[lines.index(key) + 1] for key in ("Type:", "Mode:", "User:", "Group:"))
    assert told == {
        "d": ("directory", "03775", "5", "6"),
        "d/f": ("regular", "0644", "0", "0"),
        "d/link-to-kept": ("regular", "0644", "3000000", "0"),
        "s": ("symlink", "0777", "0", "0"),
        "null": ("character", "0644", "0", "0"),
        "pipe": ("FIFO", "0644", "0", "0"),
        "n" * 150: ("regular", "0644", "0", "0"),
        "implied/deep": ("directory", "0755", "0", "0"),
        "old": ("regular", "0644", "0", "0"),
    }
    assert run("debugfs", "-R", "cat /s/f", disk) == "new"


@needs_root
@pytest.mark.parametrize(
    ("command", "options"),
    [("bsdtar", ["-xpf", "-"]), ("tar", ["--delay-directory-restore", "-xpf", "-"])],
)
def test_tar_programs_give_directories_their_times(tmp_path: Path, command: str, options: list[str]) -> None:
    """GNU tar sets a directory's times as soon as another one follows; bsdtar waits, except for the root."""
    require(command)
    layer = [directory(name, mtime=7) for name in ("a", "a/b", "c")]
    layer += [member(name, mtime=9) for name in ("a/b/f", "c/f", "a/f", "a/b/g")]
    (tmp_path / "tree").mkdir()
    tar = flattened(MemorySource([tar_of(layer)]))[0]
    subprocess.run([command, "-C", str(tmp_path / "tree"), *options], input=tar, check=True)
    assert {path.stat().st_mtime for path in (tmp_path / "tree").rglob("*") if path.is_dir()} == {7.0}


def test_result_tells_the_digest() -> None:
    source = MemorySource([tar_of([member("a")])])
    assert flattened(source)[1].manifest_digest == source.manifest.digest
    assert json.loads(source.blobs[source.manifest.digest])
