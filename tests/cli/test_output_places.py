"""Output files on the host: neither an image nor another user decides which file is written."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.system.files import begin_file, is_stream, new_file, open_stream
from ociexport.system.host_paths import real_path, real_target, verify_outside
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member, symlink
from tests.support.ordinary_user import GID, UID
from tests.support.system_parts import require

MINE = b"mine"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": build_image([[member("a", b"1")]])})
    return tmp_path / "layout"


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file and a directory of this user, which must stay unchanged."""
    place = tmp_path / "victim"
    (place / "etc").mkdir(parents=True)
    path = place / "file"
    path.write_bytes(MINE)
    path.chmod(0o600)
    yield path
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (MINE, 0o600)
    assert os.listdir(place / "etc") == []


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that all users may write to, like /tmp."""
    require(root=True)
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def of_another(path: Path) -> None:
    os.chown(path, UID, GID, follow_symlinks=False)


def plant_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def plant_link_to_device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/full")


def plant_link_to_open_file(path: Path, victim: Path) -> None:
    path.symlink_to("/proc/self/fd/2")


def plant_hard_link(path: Path, victim: Path) -> None:
    # The file still belongs to this user, who is the victim.
    path.hardlink_to(victim)


def plant_fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path, 0o666)


def plant_device(path: Path, victim: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))


def plant_file(path: Path, victim: Path) -> None:
    path.touch(0o666)


REPLACED = [plant_link, plant_link_to_device, plant_link_to_open_file, plant_hard_link, plant_file]
REFUSED = [plant_fifo, plant_device]
# Commands that write to PLACE, each with the file that it then writes.
OPTIONS = {
    "unpack --receipt": ("unpack", "LAYOUT", "ROOTFS", "--receipt", "PLACE"),
    "unpack --owners": ("unpack", "LAYOUT", "ROOTFS", "--owners", "PLACE"),
    "unpack --run-files": ("unpack", "LAYOUT", "ROOTFS", "--run-files", "DIRECTORY"),
    "unpack --events": ("unpack", "LAYOUT", "ROOTFS", "--events", "PLACE"),
    "unpack --to-tar": ("unpack", "LAYOUT", "--to-tar", "PLACE"),
    "pull --out": ("pull", "LAYOUT", "--format", "oci-archive", "--out", "PLACE"),
    "pull --digestfile": ("pull", "LAYOUT", "--out", "COPY", "--digestfile", "PLACE"),
    "pull --events": ("pull", "LAYOUT", "--out", "COPY", "--events", "PLACE"),
    "ls --events": ("ls", "LAYOUT", "--events", "PLACE"),
    "verify --events": ("verify", "LAYOUT", "--events", "PLACE"),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("plant", REPLACED + REFUSED)
def test_what_another_user_planted_is_replaced_or_refused(
    tmp_path: Path, layout: Path, shared: Path, victim: Path, option: str, plant: Callable[[Path, Path], None]
) -> None:
    place = shared / "env"
    plant(place, victim)
    if plant is not plant_hard_link:
        of_another(place)
    planted = place.lstat()
    names = {"LAYOUT": layout, "ROOTFS": tmp_path / "rootfs", "COPY": tmp_path / "copy", "PLACE": place}
    words = [names.get(word, word) for word in OPTIONS[option]]
    words = [shared if word == "DIRECTORY" else word for word in words]
    ended = run_command(*words, home=tmp_path)
    is_file = stat.S_ISREG(place.lstat().st_mode)
    if option == "pull --out" and plant in (plant_link_to_device, plant_link_to_open_file):
        # A link to something other than a regular file is not taken for an archive.
        assert (ended.returncode, os.path.samestat(place.lstat(), planted)) == (2, True)
        return
    if plant in REFUSED and option != "unpack --run-files":
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-2] == (
            f"ociexport: error: '{place}': expected a file, or a stream of this user, got a stream of user {UID}"
        )
        assert os.path.samestat(place.lstat(), planted)
    else:
        assert (ended.returncode, is_file, place.stat().st_uid, place.stat().st_nlink) == (0, True, os.geteuid(), 1)
        assert place.stat().st_size or option == "pull --digestfile"
    assert os.listdir(shared) == ["env"] or option == "unpack --run-files"


@pytest.mark.parametrize("option", ["--receipt", "--run-files", "--owners", "--events"])
@pytest.mark.parametrize(
    ("way", "state"),
    [
        *product(("in", "through its link", "through a link to it", "itself", "by .."), ("absent", "replaced")),
        ("by a bind mount", "replaced"),
    ],
)
def test_place_that_the_image_decides_is_refused_before_anything_is_written(
    tmp_path: Path, victim: Path, option: str, way: str, state: str
) -> None:
    """With --replace, links in the old tree lead out of it."""
    entries = [directory("run"), symlink("run/x", str(victim)), symlink("etc", str(victim.parent / "etc"))]
    write_layout(tmp_path / "layout", {"1": build_image([entries])})
    rootfs, other = tmp_path / "rootfs", tmp_path / "other"
    if state == "replaced":
        assert run_command("unpack", tmp_path / "layout", rootfs, home=tmp_path).returncode == 0
    other.mkdir()
    (other / "link").symlink_to(rootfs)
    before = rootfs.stat() if rootfs.exists() else None
    places: dict[str, str | Path] = {
        "in": rootfs / "run" / "x",
        "through its link": rootfs / "etc" / "x",
        "through a link to it": other / "link" / "run" / "x",
        "itself": rootfs,
        "by ..": f"{other}/../rootfs/etc/x",
        "by a bind mount": other / "run" / "x",
    }
    place = places[way]
    words = ("unpack", tmp_path / "layout", rootfs, "--replace", option, place)
    if way == "by a bind mount":
        require("unshare", "mount", root=True)
        script = 'mount --bind "$0" "$1" && shift && exec "$@"'
        ended = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, rootfs, other, *command_line(*words)],
            env=command_environment(tmp_path), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    else:
        ended = run_command(*words, home=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == (
        f"ociexport: error: {option} '{place}': expected a place outside ROOTFS, got one in it"
    )
    assert (rootfs.stat() if rootfs.exists() else None) == before
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


def test_events_of_diff_are_not_written_into_the_tree(tmp_path: Path, layout: Path, victim: Path) -> None:
    rootfs = tmp_path / "rootfs"
    run_command("unpack", layout, rootfs, home=tmp_path)
    (rootfs / "x").symlink_to(victim)
    ended = run_command("diff", rootfs, layout, "--events", rootfs / "x", home=tmp_path)
    assert (ended.returncode, (rootfs / "x").is_symlink()) == (2, True)


@pytest.mark.parametrize("place", ["rootfs/x", "rootfs", "sub/x", "link/x"])
def test_only_what_is_directly_in_a_bundle_is_none_of_the_images(tmp_path: Path, place: str) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "link").symlink_to(tmp_path)
    tree = str(bundle / "rootfs")
    verify_outside(str(bundle / "x"), tree, "--receipt", bundle=str(bundle))
    with pytest.raises(UsageError):
        verify_outside(str(bundle / place), tree, "--receipt", bundle=str(bundle))


@pytest.mark.parametrize("more", [(), ("--replace",)])
def test_rootfs_and_directory_for_run_files_are_no_links_of_another_user(
    tmp_path: Path, layout: Path, shared: Path, victim: Path, more: tuple[str, ...]
) -> None:
    """`os.path.realpath` reads links itself, so the kernel's fs.protected_symlinks does not protect."""
    place = shared / "place"
    place.symlink_to(victim.parent / "etc")
    of_another(place)
    said = f"ociexport: error: '{place}': expected no link of another user, got '{place}' of user {UID}"
    runs: tuple[tuple[str | Path, ...], ...] = ((place, *more), (tmp_path / "rootfs", *more, "--run-files", place))
    for words in runs:
        ended = run_command("unpack", layout, *words, home=tmp_path)
        assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, said)
    assert not (tmp_path / "rootfs").exists()


def to_nothing(path: str, place: Path) -> str:
    return f"'{path}': expected a directory or no file, got a link to '{place}', which does not exist"


@pytest.mark.parametrize("more", [(), ("--replace",), ("--bundle",), ("--userns",), ("--run-files",)])
def test_rootfs_and_directory_for_run_files_are_no_links_to_nothing(
    tmp_path: Path, layout: Path, more: tuple[str, ...]
) -> None:
    """A tree at the place where a stale link leads is a tree that nobody asked for."""
    link = tmp_path / "link"
    link.symlink_to("missing")
    words: tuple[str | Path, ...] = (tmp_path / "rootfs", *more, link) if more == ("--run-files",) else (link, *more)
    ended = run_command("unpack", layout, *words, home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"ociexport: error: {to_nothing(str(link), tmp_path / 'missing')}",
            "hint: name the directory that is to be made, or remove the link",
        ],
    )
    assert sorted(os.listdir(tmp_path)) == ["layout", "link"]


@pytest.mark.parametrize("ending", ["", "/", "/.", "//./"])
@pytest.mark.parametrize("link_target", ["missing", "missing/", "second", "{tmp_path}/missing", "no/missing"])
def test_link_to_nothing_is_one_however_it_is_typed(tmp_path: Path, link_target: str, ending: str) -> None:
    (tmp_path / "second").symlink_to("missing")
    (tmp_path / "link").symlink_to(link_target.format(tmp_path=tmp_path))
    named = f"{tmp_path}/link{ending}"
    with pytest.raises(UsageError) as caught:
        real_target(named)
    place = tmp_path / "no" / "missing" if link_target == "no/missing" else tmp_path / "missing"
    assert str(caught.value) == to_nothing(named, place)


@pytest.mark.parametrize("path", ["d", "d/", "link", "link/", "link/new", "missing", "missing/", "d/../missing", "."])
def test_directory_to_be_made_may_be_behind_a_link_that_leads_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    assert real_target(path) == os.path.realpath(path)


def test_own_links_are_followed(tmp_path: Path, layout: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "rootfs").symlink_to("target")
    assert run_command("unpack", layout, tmp_path / "rootfs", "--replace", home=tmp_path).returncode == 0
    assert os.listdir(tmp_path / "target") == ["a"]


def test_link_of_another_user_on_the_way_is_followed_as_the_kernel_does(shared: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for where in (shared, own):
        (where / "link").symlink_to(tmp_path / "victim")
        of_another(where / "link")
    assert real_path(f"{own}/link/x") == str(tmp_path / "victim" / "x")
    with pytest.raises(UsageError):
        real_path(f"{shared}/link/x")


@pytest.mark.parametrize("path", ["a/../b", "l/../b", "./l/x/..", "/", "l//x/", "loop/x", "no/../no/x"])
def test_real_path_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "l").symlink_to("d/e")
    (tmp_path / "loop").symlink_to("loop")
    if path.startswith("loop"):
        with pytest.raises(OSError, match="symbolic links"):
            real_path(path)
    else:
        assert real_path(path) == os.path.realpath(path)


def test_stream_that_became_a_file_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.mkfifo(path)
    assert is_stream(str(path))
    path.unlink()
    path.write_bytes(MINE)
    with pytest.raises(UsageError, match="expected a stream"):
        open_stream(str(path))
    assert path.read_bytes() == MINE


def test_own_file_is_begun_anew_for_who_has_it_open(tmp_path: Path) -> None:
    """`tail -f` in another window."""
    path = tmp_path / "events"
    path.write_bytes(b"old")
    with path.open("rb") as reader, begin_file(str(path)) as file:
        file.write(b"new")
        assert reader.read() == b"new"


def test_directory_that_is_swapped_meanwhile_gets_nothing(tmp_path: Path, victim: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with new_file(str(place / "file")) as file:
        file.write(b"new")
        place.rename(tmp_path / "moved")
        place.symlink_to(victim.parent)
    assert (tmp_path / "moved" / "file").read_bytes() == b"new"
