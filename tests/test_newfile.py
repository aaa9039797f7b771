"""A new file takes its name when it is complete; what no file may take the place of is written to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ociexport.newfile import new_file
from tests.command import command_environment, command_line, run_command
from tests.image_builder import build_image, write_layout
from tests.memory_source import member
from tests.system_parts import require


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


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), new_file(str(tmp_path)) as file:
        file.write(b"new")


@pytest.mark.parametrize("words", [("unpack", "--to-tar"), ("pull", "--format", "oci-archive", "--out")])
@pytest.mark.parametrize("kind", ["device", "link to it"])
def test_device_stays_one(tmp_path: Path, words: tuple[str, ...], kind: str) -> None:
    """As ``/dev/null``, which was a file of root's afterwards."""
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
