"""A new file gets its name when it is complete; a stream is written to and not replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ociexport.system.files import new_file, spool_for
from ociexport.system.partial_names import STAGED_MARK, hidden_name, partial_name, random_name
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import mounted, require


@pytest.mark.parametrize("name", [b"a" * 199 + "ü".encode() * 28, b"\xff" * 255, "好".encode() * 85])
def test_long_name_of_a_file_that_is_resumed_is_cut_between_characters(name: bytes) -> None:
    partial = os.fsencode(partial_name(os.fsdecode(b"dir/" + name))).removeprefix(b"dir/")
    kept = partial.removesuffix(b".partial")[:-13]
    assert name.startswith(kept)
    assert 196 < len(kept) <= 200
    assert len(partial) <= 255 - len(".layers")
    assert os.fsdecode(kept).isprintable() or name[0] == 0xFF


def test_names_that_older_versions_left_on_disk_are_still_those_in_use() -> None:
    """A version that changes one does not resume, or remove, what an older version left."""
    assert partial_name("dir/a.tar") == "dir/a.tar.partial"
    assert hidden_name("a.tar") == ".a.tar.partial"
    assert hidden_name("ü" * 127) == f".{'ü' * 100}.partial"
    assert re.fullmatch(r"\.a\.tar\.partial-[0-9a-f]{12}", random_name(hidden_name("a.tar")))
    assert STAGED_MARK == ".partial-"


def test_name_is_that_of_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(str(path)) as file:
        file.write(b"new")
        assert not path.exists()
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (b"new", ["file"])


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), new_file(str(path)) as file:
        file.write("no bytes")  # type: ignore[call-overload]
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (b"old", ["file"])


def test_link_to_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "link"
    outside.write_bytes(b"of others")
    path.symlink_to(outside)
    with new_file(str(path)) as file:
        file.write(b"new")
    assert (outside.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"of others", b"new", False)


@pytest.mark.parametrize("words", [("unpack", "--to-tar"), ("pull", "--format", "oci-archive", "--out")])
@pytest.mark.parametrize("kind", ["device", "link to it"])
def test_device_stays_one(tmp_path: Path, words: tuple[str, ...], kind: str) -> None:
    """Such as ``/dev/null``, which was replaced by a file of root."""
    require(root=True)
    write_layout(tmp_path / "layout", {"1": build_image([[member("a", b"1")]])})
    device, link = tmp_path / "null", tmp_path / "link.tar"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    link.symlink_to(device)
    target = device if kind == "device" else link
    command, *options = words
    ended = run_command(command, f"{tmp_path}/layout", *options, target, home=tmp_path)
    assert (ended.returncode, stat.S_ISCHR(device.lstat().st_mode), link.is_symlink()) == (0, True, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "link.tar", "null"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_a_name_too(tmp_path: Path, name: str) -> None:
    write_layout(tmp_path / "layout", {"1": build_image([[member("a", b"1")]])})
    before = os.readlink("/dev/stdout")
    for output in (tmp_path / "x.tar", subprocess.PIPE):
        with open(output, "wb") if isinstance(output, Path) else open(os.devnull, "wb") as file:
            ended = subprocess.run(
                command_line("unpack", f"{tmp_path}/layout", "--to-tar", name, "--quiet"),
                env=command_environment(tmp_path),
                stdout=file if isinstance(output, Path) else output,
                check=False,
                timeout=60,
            )
        written = output.read_bytes() if isinstance(output, Path) else ended.stdout
        assert (ended.returncode, b"ustar" in written, os.readlink("/dev/stdout")) == (0, True, before)
        assert written.endswith(bytes(1024))


def test_pipe_gets_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = subprocess.Popen([sys.executable, "-c", f"print(open({str(path)!r}).read())"], stdout=subprocess.PIPE)
    with new_file(str(path)) as file:
        file.write(b"new")
    assert reader.communicate(timeout=60)[0] == b"new\n"
    assert stat.S_ISFIFO(path.lstat().st_mode)


KILLED_WHILE_WRITING = """
import os, signal, sys
from ociexport.system.files import new_file
with new_file(sys.argv[1]) as file:
    file.write(b"secret")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=["nameless", "named"])
def can_be_nameless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """On file systems with nameless files, and on others."""
    is_nameless: bool = request.param == "nameless"
    if not is_nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    return is_nameless


def killed_while_writing(path: Path, *, is_nameless: bool) -> None:
    code = KILLED_WHILE_WRITING if is_nameless else "import os\ndel os.O_TMPFILE\n" + KILLED_WHILE_WRITING
    ended = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_killed_process_leaves_nothing_that_lasts(tmp_path: Path, can_be_nameless: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for _ in range(2):
        killed_while_writing(path, is_nameless=can_be_nameless)
        left = [entry for entry in tmp_path.iterdir() if entry != path]
        assert [entry.name for entry in left] == ([] if can_be_nameless else [".file.partial"])
        assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in left)
    assert path.read_bytes() == b"old"
    with new_file(str(path)) as file:
        file.write(b"new")
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (b"new", ["file"])


def test_where_nobody_may_make_links_a_copy_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Android, whose SELinux denies them."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "link", denied)
    path = tmp_path / "file"
    content = random.randbytes(3_000_000)
    for _ in range(2):
        with new_file(str(path), mode=0o640) as file:
            file.write(content)
        assert (path.read_bytes() == content, stat.S_IMODE(path.stat().st_mode)) == (True, 0o640)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path, can_be_nameless: bool) -> None:
    path = tmp_path / "file"
    with new_file(str(path)) as one:
        one.write(b"one")
        with new_file(str(path)) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (b"one", ["file"])


def test_one_that_is_taken_for_a_leftover_before_it_is_locked_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file was renamed by a name that the other process's file had taken: a part of that became the result."""
    monkeypatch.delattr(os, "O_TMPFILE")
    lock, others = fcntl.flock, ExitStack()
    path = tmp_path / "file"

    def lock_late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        others.enter_context(new_file(str(path))).write(b"a part")
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with others:
        with new_file(str(path)) as file:
            file.write(b"whole")
        assert path.read_bytes() == b"whole"
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (b"a part", ["file"])


@pytest.mark.usefixtures("can_be_nameless")
@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_only_has_the_name_of_a_leftover_is_not_followed(tmp_path: Path, kind: str) -> None:
    outside, aside, path = tmp_path / "outside", tmp_path / ".file.partial", tmp_path / "file"
    outside.write_bytes(b"of others")
    path.write_bytes(b"old")
    if kind == "link":
        aside.symlink_to(outside)
    else:
        aside.mkdir()
    with new_file(str(path)) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert outside.read_bytes() == b"of others"


@pytest.mark.usefixtures("can_be_nameless")
def test_directory_is_refused_by_the_name_that_was_given(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = f"{place}/../place"
    with pytest.raises(IsADirectoryError) as caught, new_file(path) as file:
        file.write(b"new")
    assert (caught.value.filename, caught.value.filename2) == (path, None)
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.usefixtures("can_be_nameless")
def test_nobody_else_reads_what_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(str(path), mode=0o640) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.usefixtures("can_be_nameless")
@pytest.mark.parametrize(
    ("umask", "mode", "complete"),
    [
        (0o022, 0o644, 0o644),
        (0o027, 0o644, 0o640),
        (0o077, 0o644, 0o600),
        (0o002, 0o600, 0o600),
        (0o777, 0o644, 0),
    ],
)
def test_complete_file_lacks_the_bits_of_the_umask(tmp_path: Path, umask: int, mode: int, complete: int) -> None:
    """A disk image contains files that only root may read in the image."""
    path = tmp_path / "file"
    old = os.umask(umask)
    try:
        with new_file(str(path), mode=mode) as file:
            file.write(b"content")
        assert stat.S_IMODE(path.stat().st_mode) == complete
        assert os.umask(umask) == umask
    finally:
        os.umask(old)


@pytest.mark.usefixtures("can_be_nameless")
def test_file_whose_mode_can_not_be_set_is_named_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(PermissionError) as caught, new_file(f"{tmp_path}/file"):
        pass
    assert (caught.value.filename, os.listdir(tmp_path)) == (f"{tmp_path}/file", [])


@pytest.mark.usefixtures("can_be_nameless")
def test_full_disk_names_the_file_as_it_was_given(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "none"):
        path = f"{tmp_path}/small/../small/file"
        with pytest.raises(OSError, match="No space left") as caught, new_file(path) as file:
            file.write(bytes(1 << 20))
        assert (caught.value.filename, os.listdir(tmp_path / "small")) == (path, [])


@pytest.mark.usefixtures("can_be_nameless")
def test_new_file_and_its_spool_can_be_read_at_any_offset(tmp_path: Path) -> None:
    """Writers of disk images and their hash trees need that."""
    path = tmp_path / "file"
    with spool_for(str(path)) as spool, new_file(str(path)) as file:
        for fd in (spool.fileno(), file.fileno()):
            os.pwrite(fd, b"later", 5)
            os.pwrite(fd, b"first", 0)
            assert os.pread(fd, 10, 0) == b"firstlater"
        assert os.stat(spool.fileno()).st_dev == os.stat(tmp_path).st_dev
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"firstlater", ["file"])


@pytest.mark.usefixtures("can_be_nameless")
def test_spool_names_the_file_that_it_is_for(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "none"):
        path = f"{tmp_path}/small/file"
        with pytest.raises(OSError, match="No space left") as caught, spool_for(path) as spool:
            os.posix_fallocate(spool.fileno(), 0, 1 << 20)
        assert (caught.value.filename, os.listdir(tmp_path / "small")) == (path, [])
    with pytest.raises(FileNotFoundError) as missing, spool_for(f"{tmp_path}/none/file"):
        pass
    assert missing.value.filename == f"{tmp_path}/none/file"
