"""layout_directory: no command hangs, or reads or writes outside a layout, whatever replaces a file in the layout.

Each file and directory of a layout is replaced in turn by a link to the right content elsewhere, a file with a hard
link elsewhere, a fifo, a device, a directory and a socket. Each command that reads or writes a layout is run on each.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import InvalidImageError
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout_directory import LayoutDirectory
from tests.storage.test_directory import write_directory
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

IMAGE = build_image([[member("a", b"1" * 5000)]])
OTHER = build_image([[member("b", b"2" * 5000)]])
KINDS = ("link", "hard link", "fifo", "device", "directory", "socket")
SECONDS = 30

LAYER = IMAGE.layers[0].digest
DIRECTORIES = ("blobs", "blobs/sha256", ".ociexport", ".ociexport/partial")
PARTIAL = f".ociexport/partial/sha256-{OTHER.layers[0].digest.encoded}"
MANIFEST, CONFIG, LAYER_BLOB = (
    f"blobs/sha256/{digest.encoded}" for digest in (IMAGE.digest, IMAGE.config.digest, LAYER)
)

READING = {
    "inspect": ["inspect", "layout"],
    "ls": ["ls", "layout"],
    "unpack": ["unpack", "layout", "rootfs"],
    "pull": ["pull", "layout", "--out", "copy"],
    "archive": ["pull", "layout", "--out", "x.tar"],
}
OTHERS = {
    "verify": ["verify", "layout"],
    "gc --dry-run": ["gc", "layout", "--dry-run"],
    "gc": ["gc", "layout"],
    "pull another": ["pull", "other", "--out", "layout"],
    "pull the same": ["pull", "same", "--out", "layout"],
    "repair": ["verify", "layout", "--repair", "--from", "same"],
    "cache": ["pull", "same", "--out", "new", "--cache", "layout"],
}
# These read and write what others do, and end as they do.
LIKE = {"prune": "gc --dry-run", "prune --yes": "gc"}
NEW = {
    "prune": ["prune", "layout", "--keep-newest", "1"],
    "prune --yes": ["prune", "layout", "--keep-newest", "1", "--yes"],
    "report": ["report", "layout"],
}
COMMANDS = {**READING, **OTHERS, **NEW}
# What can't be read of an image is a problem in its report.
REPORT_CODES = {"oci-layout": 8, "index.json": 8}

# place: the exit codes of all reading commands, verify, gc and its dry run, a pull of another image, a pull of the
# same, repair, and a pull with this layout as cache.
CODES = {
    "oci-layout": (8, 7, 8, 8, 8, 8, 0, 0),
    "index.json": (8, 7, 8, 8, 8, 8, 7, 0),
    "blobs": (8, 7, 2, 2, 2, 2, 2, 2),
    "blobs/sha256": (8, 7, 2, 2, 2, 2, 2, 2),
    MANIFEST: (8, 7, 8, 8, 0, 0, 0, 0),
    CONFIG: (8, 7, 0, 0, 0, 0, 0, 0),
    LAYER_BLOB: (8, 7, 0, 0, 0, 0, 0, 0),
    ".ociexport": (0, 0, 2, 2, 2, 2, 0, 0),
    ".ociexport/partial": (0, 0, 2, 2, 2, 2, 0, 0),
    ".ociexport/lock": (0, 0, 0, 8, 8, 8, 0, 0),
    ".ociexport/users": (0, 0, 8, 8, 8, 8, 0, 0),
    PARTIAL: (0, 0, 0, 0, 8, 0, 0, 0),
}


def expected_code(place: str, kind: str, command: str) -> int:
    """Return the expected exit code: hard links do no harm, and only a directory prevents writing a new file."""
    if kind == "hard link" or (place == LAYER_BLOB and command == "inspect"):
        return 0
    if command == "report":
        return REPORT_CODES.get(place, 0)
    command = LIKE.get(command, command)
    if kind == "directory" and place in ("oci-layout", MANIFEST, CONFIG, LAYER_BLOB):
        if command == "repair":
            return 9 if place == "oci-layout" else 7
        if command == "pull the same" and place != "oci-layout":
            return 9
    codes = dict(zip(OTHERS, CODES[place][1:], strict=True))
    return CODES[place][0] if command in READING else codes[command]


def plant(path: Path, kind: str, victim: Path) -> None:
    """Replace a file by something of another kind; links lead to ``victim``, which gets the original content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.move(path, victim)
    elif path.name in ("partial", ".ociexport"):
        victim.mkdir()
    else:
        victim.write_bytes(b"untouched")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("needs root")
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made:
            # A socket's name has about a hundred bytes at most.
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                made.bind(f"/proc/self/fd/{directory}/s")
                os.rename(path.parent / "s", path)
            finally:
                os.close(directory)


def content_of(victim: Path) -> list[tuple[str, int, int, bytes | None]]:
    return [
        (str(path), path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted([victim, *victim.rglob("*")])
    ]


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Kill a command that hangs."""

    def fail(*_: object) -> None:
        pytest.fail("hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "kind"),
    # A directory can't have hard links, and is not replaced by a directory.
    [
        (place, kind)
        for place in CODES
        for kind in KINDS
        if place not in DIRECTORIES or kind not in ("hard link", "directory")
    ],
)
def test_no_command_leaves_the_layout(
    place: str,
    kind: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, image in (("layout", IMAGE), ("same", IMAGE), ("other", OTHER)):
        write_layout(tmp_path / name, {"1": image})
    victim = tmp_path / "victim"
    plant(tmp_path / "layout" / place, kind, victim)
    before = content_of(victim)
    monkeypatch.chdir(tmp_path)
    words = [f"./{word}" if (tmp_path / word).is_dir() else word for word in COMMANDS[command]]
    assert main(words) == expected_code(place, kind, command)
    assert content_of(victim) == before
    told = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("ociexport: error: ") for line in told) == (
        expected_code(place, kind, command) not in (0, 7)
    ), told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["version", "manifest.json", IMAGE.config.digest.encoded, LAYER.encoded])
def test_no_file_of_an_image_directory_is_elsewhere(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_directory(tmp_path / "d", IMAGE)
    plant(directory / name, kind, tmp_path / "victim")
    code = main(["unpack", f"dir:{directory}", str(tmp_path / "rootfs")])
    assert (code, (tmp_path / "rootfs").exists()) == ((0, True) if kind == "hard link" else (8, False))
    assert code == 0 or f"{name}: expected a file, got a {kind}" in capsys.readouterr().err


def test_hint_says_how_a_copy_without_links_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layout(tmp_path / "l", {"1": IMAGE})
    plant(tmp_path / "l" / LAYER_BLOB, "link", tmp_path / "victim")
    assert main(["ls", f"oci:{tmp_path}/l"]) == 8
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"hint: links in it are not followed; a copy has files in their place: cp -RL {tmp_path}/l COPY"
    )
    shutil.copytree(tmp_path / "l", tmp_path / "copy")
    assert main(["ls", f"oci:{tmp_path}/copy"]) == 0


def test_layout_itself_may_be_a_link(tmp_path: Path) -> None:
    """The user names it; only its content may come from an untrusted source."""
    write_layout(tmp_path / "l", {"1": IMAGE})
    write_layout(tmp_path / "other", {"2": OTHER})
    (tmp_path / "link").symlink_to("l")
    assert main(["pull", str(tmp_path / "other"), "--out", str(tmp_path / "link")]) == 0
    assert main(["verify", str(tmp_path / "link")]) == 0
    assert len(ImageLayout(tmp_path / "l").read_images()) == 2


def test_partial_blob_with_another_name_is_begun_anew(tmp_path: Path) -> None:
    """A copy of a layout made with hard links is independent: the original keeps its bytes."""
    layout = ImageLayout(tmp_path / "l")
    layout.make_ready()
    descriptor = OTHER.layers[0]
    content = OTHER.blobs[descriptor.digest]
    (tmp_path / "original").write_bytes(content[:100])
    os.link(tmp_path / "original", layout.partial_path(descriptor.digest))
    with layout.new_blob(descriptor) as blob:
        assert blob.offset == 0
        blob.write(content)
    assert (tmp_path / "original").read_bytes() == content[:100]
    assert layout.has_blob(descriptor)


def test_directory_that_becomes_a_link_between_two_calls_is_not_followed(tmp_path: Path) -> None:
    """Earlier checks don't matter, since each call opens its directories anew."""
    layout = ImageLayout(tmp_path / "l")
    (tmp_path / "victim").mkdir()
    with layout.begin() as _, suppress(Exception), layout.new_blob(OTHER.layers[0]) as blob:
        blob.write(OTHER.blobs[OTHER.layers[0].digest])
        (tmp_path / "l" / "blobs" / "sha256").rmdir()
        (tmp_path / "l" / "blobs" / "sha256").symlink_to(tmp_path / "victim")
    assert list((tmp_path / "victim").iterdir()) == []


def test_layout_directory_follows_no_link_in_any_part(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    (tmp_path / "victim" / "b").mkdir(parents=True)
    (tmp_path / "victim" / "b" / "c").write_bytes(b"secret")
    (tmp_path / "l" / "a").symlink_to(tmp_path / "victim")
    directory = LayoutDirectory(str(tmp_path / "l"))
    assert directory.has("a")
    for name in ("a/b", "a/b/c"):
        assert not directory.has(name)
        with pytest.raises(InvalidImageError, match=r"/l/a: expected a directory, got a link$"):
            directory.status(name)
