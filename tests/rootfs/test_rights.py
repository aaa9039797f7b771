"""disk.rights: root that may not give files away unpacks as an ordinary user does; `--rootless` asks for that.

Run by root, which drops rights.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.rootfs.disk.metadata import ROOTLESS_XATTR, IdMap, encode_rootless_owner
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.namespaces import run_in_namespace
from tests.support.ordinary_user import UID, open_place, run_as_ordinary_user
from tests.support.system_parts import OCIEXPORT, mounted, require

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
LAYERS = [
    [
        directory(".", 0o755),
        directory("d", 0o555, uid=7),
        member("d/f", b"1", mode=0o400, uid=1000, gid=1001),
        member("d/gone", b"1", uid=3),
        directory("closed", 0o000, uid=7),
        member("closed/f", b"1", mode=0o000, gid=5, xattrs={"user.x": b"y"}),
        hard_link("d/link", "d/f"),
        symlink("to d", "d", uid=9, gid=9),
        member("pipe", type=tarfile.FIFOTYPE, uid=12, mode=0o600),
        member("su", b"1", mode=0o4755),
        member("cap", b"x", xattrs={"security.capability": CAPABILITY}),
    ],
    # These are written into, and removed from, directories whose modes don't let their owner do so.
    [member("d/.wh.gone"), member("d/g", b"2", mtime=1_500_000_000), directory("closed/d", 0o500)],
]
OWNERS = 7  # files with owners other than root, the removed one too


def without(*capabilities: str) -> tuple[str, ...]:
    names = ",".join(f"-{name}" for name in capabilities)
    return ("setpriv", f"--bounding-set={names}", f"--inh-caps={names}", "--")


RESTRICTED = {
    "without CAP_CHOWN": without("chown"),
    "without CAP_FOWNER": without("fowner"),
    "without CAP_DAC_OVERRIDE and CAP_CHOWN": without("dac_override", "dac_read_search", "chown"),
    "without capabilities": without("all"),
    "the only user of a namespace": ("unshare", "-r"),
}


def run(prefix: tuple[str, ...], *words: str | Path) -> subprocess.CompletedProcess[str]:
    require(*prefix[:1])
    command = [*prefix, *OCIEXPORT, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if prefix and prefix[0] == "unshare" and result.stderr.startswith("unshare:"):
        pytest.skip(result.stderr)
    return result


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": build_image(LAYERS)})
    return tmp_path / "layout"


def looks(rootfs: Path) -> dict[str, tuple[int, int, int, str, bytes | None]]:
    """Return for each path its type and mode, owner, time, and recorded owner."""
    found = {}
    for path in sorted([rootfs, *rootfs.rglob("*")]):
        status = path.lstat()
        recorded = None
        if ROOTLESS_XATTR.decode() in os.listxattr(path, follow_symlinks=False):
            recorded = os.getxattr(path, ROOTLESS_XATTR)
        owner = f"{status.st_uid}:{status.st_gid}"
        found[str(path.relative_to(rootfs))] = (status.st_mode, status.st_mtime_ns, status.st_nlink, owner, recorded)
    return found


def as_roots(found: dict[str, tuple[int, int, int, str, bytes | None]]) -> object:
    """Return what an ordinary user's tree would be if that user were root."""
    return {name: (*words[:3], "0:0", words[4]) for name, words in found.items()}


@pytest.fixture
def users_tree() -> object:
    with open_place(LAYERS) as place:
        result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "layout", place / "work" / "r")
        assert result.returncode == 0, result.stderr
        found = looks(place / "work" / "r")
        assert {words[3] for words in found.values()} == {f"{UID}:{UID}"}
        assert found["d/f"][4] == encode_rootless_owner(1000, 1001)
        return as_roots(found)


@pytest.mark.usefixtures("sole_ordinary_user")
@pytest.mark.parametrize("how", [*RESTRICTED, "--rootless", "--rootless without capabilities"])
def test_tree_is_that_of_an_ordinary_user(layout: Path, tmp_path: Path, how: str, users_tree: object) -> None:
    rootfs = tmp_path / "r"
    prefix = RESTRICTED.get(how.removeprefix("--rootless "), ())
    option = ["--rootless"] if how.startswith("--rootless") else []
    result = run(prefix, "unpack", "-q", "--platform=linux/amd64", *option, layout, rootfs)
    assert result.returncode == 0, result.stderr
    assert looks(rootfs) == users_tree
    warnings = result.stderr.splitlines()
    begin = f"ociexport: warning: {rootfs}: owners can't be changed here: all files belong to this user, as with --root"
    why = "a rootless unpacking changes no owners" if option else "owners can't be changed here"
    assert warnings[0].startswith(begin) != bool(option)
    assert warnings[not option] == (
        f"ociexport: warning: owners: {OWNERS} files of users other than root belong to this user, since {why}"
    )
    assert all("xattrs: 1 could not be set here: security.capability" in line for line in warnings[1 + (not option) :])
    same = run(prefix, "diff", "-q", "--platform=linux/amd64", rootfs, layout)
    assert [line for line in same.stdout.splitlines() if line != "M cap  (xattrs)"] == []
    os.chown(rootfs / "su", 5, 5)
    changed = run((), "diff", "-q", "--platform=linux/amd64", rootfs, layout)
    assert "M su  (mode, owner)" in changed.stdout.splitlines()
    os.chown(rootfs / "su", 0, 0)
    replaced = run(prefix, "unpack", "-q", "--platform=linux/amd64", *option, "--replace", layout, rootfs)
    assert (replaced.returncode, replaced.stderr) == (0, result.stderr)
    assert sorted(os.listdir(tmp_path)) == ["layout", "r"]
    assert run(prefix, "rm", rootfs).returncode == 0


@pytest.mark.parametrize("how", RESTRICTED)
def test_restricted_root_fills_a_working_directory(layout: Path, tmp_path: Path, how: str) -> None:
    """The move renames directories that their owner may not write."""
    (tmp_path / "r").mkdir()
    prefix = ("sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", str(tmp_path / "r"), *RESTRICTED[how])
    result = run(prefix, "unpack", "-q", "--platform=linux/amd64", layout, ".")
    if result.stderr.startswith("unshare:"):
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path / "r")) == ["cap", "closed", "d", "pipe", "su", "to d"]


def test_root_with_all_rights_sets_owners(layout: Path, tmp_path: Path) -> None:
    result = run((), "unpack", "-q", "--platform=linux/amd64", layout, tmp_path / "r")
    assert (result.returncode, result.stderr) == (0, "")
    assert looks(tmp_path / "r")["d/f"][3:] == ("1000:1001", None)


def test_users_that_a_namespace_has_are_set(tmp_path: Path) -> None:
    """A namespace need not have the ids from 1 on."""
    write_layout(tmp_path / "layout", {"1": build_image([[member("f", uid=1000, gid=1000), member("g")]])})
    words = ("unpack", "-q", "--platform=linux/amd64", tmp_path / "layout", tmp_path / "r")
    result = run_in_namespace(*OCIEXPORT, *words, uid_map="0 0 1\n1000 5000 1\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "r" / "f").stat().st_uid == 5000
    result = run_in_namespace(*OCIEXPORT, *words, "--replace", uid_map="0 0 1\n5 5 1\n")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        2,
        "hint: give this user more subordinate ids, map these with --uid-map and --gid-map, or use --rootless",
    )
    result = run_in_namespace(*OCIEXPORT, *words, "--replace", "--rootless", uid_map="0 0 1\n5 5 1\n")
    assert result.returncode == 0


def test_devices_are_not_made_where_no_root_is_wanted(tmp_path: Path) -> None:
    layer = [
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, uid=3),
        hard_link("zero", "null"),
        member("dev/full", type=tarfile.CHRTYPE, devmajor=1, devminor=7),
        member("pipe", type=tarfile.FIFOTYPE),
    ]
    write_layout(tmp_path / "layout", {"1": build_image([[member("null", b"lower")], layer])})
    words = ("unpack", "-q", "--platform=linux/amd64", "--rootless", tmp_path / "layout")
    result = run((), *words, tmp_path / "r")
    line = "ociexport: warning: devices: 2 left out, since a rootless unpacking makes none\n"
    assert (result.returncode, result.stderr, sorted(os.listdir(tmp_path / "r"))) == (0, line, ["dev", "pipe"])
    result = run((), *words, "--devices=placeholder", "--replace", tmp_path / "r")
    assert result.stderr == line.replace("left out", "made as empty files")
    assert stat.S_ISREG((tmp_path / "r" / "null").stat().st_mode)


def test_devices_that_are_made_count_as_files_of_others(tmp_path: Path) -> None:
    write_layout(
        tmp_path / "layout", {"1": build_image([[member("n", type=tarfile.CHRTYPE, devmajor=1, devminor=3, uid=3)]])}
    )
    result = run(without("chown"), "unpack", "-q", "--platform=linux/amd64", tmp_path / "layout", tmp_path / "r")
    assert "owners: 1 file" in result.stderr
    assert "devices:" not in result.stderr
    assert stat.S_ISCHR((tmp_path / "r" / "n").lstat().st_mode)


def test_owners_file_has_the_owners_of_the_image(layout: Path, tmp_path: Path) -> None:
    texts = []
    for prefix, option in (((), "-q"), ((), "--rootless"), (without("chown"), "-q")):
        rootfs, owners = tmp_path / "r", tmp_path / "owners"
        words = ("unpack", "-q", "--platform=linux/amd64", option, "--replace", f"--owners={owners}", layout, rootfs)
        assert run(prefix, *words).returncode == 0
        texts.append(owners.read_text())
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("how", RESTRICTED)
def test_maps_are_refused_where_they_can_not_be(layout: Path, tmp_path: Path, how: str) -> None:
    words = ("unpack", "-q", "--platform=linux/amd64", "--uid-map=0:100000:65536", layout, tmp_path / "r")
    result = run(RESTRICTED[how], *words)
    assert (result.returncode, result.stderr.splitlines()[0]) == (
        2,
        "ociexport: error: id maps: expected root, who may change owners",
    )
    assert os.listdir(tmp_path) == ["layout"]


def test_rootless_excludes_what_sets_owners(layout: Path, tmp_path: Path) -> None:
    for words, line in (
        (["--uid-map=0:5"], "id maps: expected owners to be set, got --rootless, which sets none"),
        (["--userns"], "--rootless: expected no --userns beside it, which keeps the image's owners"),
        (["--to-tar=-"], "--rootless: expected ROOTFS beside it, got --to-tar"),
    ):
        target = [] if "--to-tar=-" in words else [tmp_path / "r"]
        result = run((), "unpack", "-q", "--platform=linux/amd64", "--rootless", *words, layout, *target)
        assert (result.returncode, result.stderr.splitlines()[0]) == (2, f"ociexport: error: {line}")


def test_library_asks_for_it_too(tmp_path: Path) -> None:
    source = MemorySource([tar_of(layer) for layer in LAYERS])
    result = unpack(source, tmp_path / "r", options=UnpackOptions(rootless=True))
    assert (result.losses.owners, (tmp_path / "r" / "d" / "f").stat().st_uid) == (OWNERS, 0)
    assert os.getxattr(tmp_path / "r" / "d" / "f", ROOTLESS_XATTR) == encode_rootless_owner(1000, 1001)
    options = UnpackOptions(rootless=True, gid_map=IdMap.parse(("0:5",)))
    with pytest.raises(UsageError, match="got --rootless"):
        unpack(source, tmp_path / "s", options=options)


def test_change_of_a_links_owner_is_seen_in_a_tree_with_owners(layout: Path, tmp_path: Path) -> None:
    """In a tree with recorded owners the same link has lost its owner to begin with."""
    run((), "unpack", "-q", "--platform=linux/amd64", layout, tmp_path / "r")
    os.chown(tmp_path / "r" / "to d", 0, 0, follow_symlinks=False)
    changed = run((), "diff", "-q", "--platform=linux/amd64", tmp_path / "r", layout)
    assert changed.stdout == "M to d  (owner)\n"


def test_device_that_was_made_is_not_called_left_out(tmp_path: Path) -> None:
    """An attribute that can't be set on it is an error of its own, which --xattrs=strict does not pass over."""
    device = member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, xattrs={"user.x": b"1"})
    write_layout(tmp_path / "layout", {"1": build_image([[device]])})
    words = ("unpack", "-q", "--platform=linux/amd64", "--xattrs=strict", tmp_path / "layout", tmp_path / "r")
    result = run((), *words)
    line = f"ociexport: error: {tmp_path}/r/null: xattr user.x: Operation not permitted\n"
    assert (result.returncode, result.stderr) == (9, line)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_device_that_the_file_system_lacks_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As exFAT through FUSE, which makes a file first."""

    def mknod(name: bytes, mode: int, _device: int, *, dir_fd: int) -> None:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o777, dir_fd=dir_fd))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mknod", mknod)
    device = member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    result = unpack(MemorySource([tar_of([device])]), tmp_path / "r")
    assert (os.listdir(tmp_path / "r"), result.losses.devices) == ([], 1)
    assert list(result.losses.lines()) == ["devices: 1 left out, since they can't be made here"]


def test_root_on_an_overlay_is_not_told_that_root_may(tmp_path: Path) -> None:
    """overlayfs takes a character device 0:0 for a whiteout, and refuses to make one."""
    layer = [
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("whiteout", type=tarfile.CHRTYPE, devmajor=0, devminor=0),
    ]
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        for name in ("lower", "upper", "work"):
            (disk / name).mkdir()
        options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        with mounted(tmp_path / "overlay", "-t", "overlay", "-o", options, "overlay") as overlay:
            result = unpack(MemorySource([tar_of(layer)]), overlay / "r")
            assert os.listdir(overlay / "r") == ["null"]
    assert list(result.losses.lines()) == ["devices: 1 left out, since they can't be made here"]
