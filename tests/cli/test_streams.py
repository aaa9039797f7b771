"""process: a command with a standard stream that is closed, full, not read, or not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import command_environment, command_line
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import mounted

IMAGE = build_image([[member("etc/os-release", b"ID=test\n")], [member("ö", b"2")]])
# A locale of ASCII only, and an interpreter that follows it.
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    return tmp_path / "layout"


def run_in_shell(
    script: str, *arguments: str | Path, home: Path, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the shell ``script``, where ``"$@"`` is the command with ``arguments``; the command ends as for users."""
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-m", "ociexport", *arguments],
        env=command_environment(home, **variables),
        cwd=home,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["pull", "--help-all"], ["help", "sources"], ["inspect", "./layout"]],
    ids=" ".join,
)
def test_reader_that_has_read_enough_ends_the_command_without_a_word(
    layout: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """`head` does so; by then the command may or may not have written everything."""
    ended = run_in_shell('"$@" | :; exit ${PIPESTATUS[0]}', *arguments, home=tmp_path)
    assert (ended.returncode in (0, 141), ended.stderr) == (True, b"")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["help", "sources"], ["tags", "./layout"]], ids=" ".join
)
def test_output_that_can_not_be_written_is_an_error(layout: Path, tmp_path: Path, arguments: list[str]) -> None:
    ended = run_in_shell('"$@" >/dev/full', *arguments, home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        9,
        b"ociexport: error: standard output: No space left on device\n",
    )


@pytest.mark.parametrize(
    "arguments", [["unpack", "./large", "--to-tar", "-"], ["cat", "./large", "big", "--stream"]], ids=" ".join
)
def test_output_that_fails_amid_a_layer_is_no_fault_of_the_entry(tmp_path: Path, arguments: list[str]) -> None:
    write_layout(tmp_path / "large", {"1": build_image([[member("big", os.urandom(3_000_000))]])})
    words = [*arguments, "--platform=linux/amd64", "-q"]
    ended = run_in_shell('"$@" | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}', *words, home=tmp_path)
    assert (ended.returncode, ended.stderr) == (141, b"")
    ended = run_in_shell('"$@" >/dev/full', *words, home=tmp_path)
    assert (ended.returncode, ended.stderr) == (9, b"ociexport: error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    "place",
    ["- --format tar", "- --format cpio", "--to-tar /dev/stdout"],
)
def test_disk_image_on_a_full_stream_names_the_stream(tmp_path: Path, place: str) -> None:
    """It named the entry that was being written, as if it were a file here, or nothing."""
    write_layout(tmp_path / "large", {"1": build_image([[member("big", os.urandom(3_000_000))]])})
    words = ["unpack", "./large", *place.split(), "--platform=linux/amd64", "-q"]
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "none"):
        for output in ("/dev/full", "small/file"):
            ended = run_in_shell(f'"$@" >{output}', *words, home=tmp_path)
            assert (ended.returncode, ended.stderr) == (9, b"ociexport: error: /dev/stdout: No space left on device\n")
    ended = run_in_shell('"$@" | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}', *words, home=tmp_path)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_closed_output_is_an_error_and_closed_messages_are_none(layout: Path, tmp_path: Path) -> None:
    """The result is lost, which is an error; and no other file may get the descriptor's number and be written to."""
    ended = run_in_shell('"$@" >&-', "tags", "./layout", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (9, b"ociexport: error: standard output: Bad file descriptor\n")
    ended = run_in_shell('"$@" 2>&-', "unpack", "./layout", "rootfs", "--platform=linux/amd64", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"{IMAGE.digest}\n".encode())
    assert (tmp_path / "rootfs/etc/os-release").read_bytes() == b"ID=test\n"


@pytest.mark.parametrize("stream", ["/dev/full", ">(:)"])
def test_messages_that_nobody_takes_do_not_end_the_work(layout: Path, tmp_path: Path, stream: str) -> None:
    ended = run_in_shell(f'"$@" 2> {stream}', "unpack", "./layout", "rootfs", "--platform=linux/amd64", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"{IMAGE.digest}\n".encode())
    ended = run_in_shell(f'"$@" 2> {stream}', "tags", "./none", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, b"")


def test_closed_input_is_an_empty_one(tmp_path: Path) -> None:
    ended = run_in_shell('"$@" <&-', "login", "reg.example", "-u", "me", "--password-stdin", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        b"ociexport: error: --password-stdin: expected a password, got nothing\nhint: --password-stdin <password.txt\n",
    )


def test_password_that_is_no_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    ended = run_in_shell(r'printf "\xffab" | "$@"', "login", "x.example", "-u", "me", "--password-stdin", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        b"ociexport: error: --password-stdin: expected a password in UTF-8, got other bytes\n",
    )


def test_output_that_somebody_made_non_blocking_is_written_whole(tmp_path: Path) -> None:
    """ssh and node do so to terminals and pipes that they share."""
    write_layout(tmp_path / "layout", {"1": build_image([[member("big", os.urandom(3_000_000))]])})
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    arguments = command_line("unpack", tmp_path / "layout", "--to-tar", "-", "--platform=linux/amd64", "-q")
    with (
        open(reader, "rb") as output,
        subprocess.Popen(arguments, env=command_environment(tmp_path), stdout=writer) as process,
    ):
        os.close(writer)
        assert len(output.read()) > 3_000_000
        assert process.wait(60) == 0


def test_names_go_out_as_they_are_whatever_the_locale(layout: Path, tmp_path: Path) -> None:
    home = tmp_path
    ended = run_in_shell('"$@"', "unpack", "./layout", "rööt", "--platform=linux/amd64", home=home, **NO_UTF8)
    assert ended.returncode == 0
    (tmp_path / "rööt" / "ä").write_bytes(b"")
    (Path(os.fsdecode(os.fsencode(tmp_path) + "/rööt/".encode() + b"\xff"))).write_bytes(b"")
    ended = run_in_shell('"$@"', "diff", "rööt", "./layout", "--platform=linux/amd64", home=home, **NO_UTF8)
    assert (ended.returncode, ended.stdout) == (1, "A ä\nA \\xff\n".encode())
    ended = run_in_shell('"$@"', "help", "references", home=home, **NO_UTF8)
    assert (ended.returncode, "ghcr.io/team/app@sha256:…".encode() in ended.stdout) == (0, True)


def test_working_directory_that_is_gone_is_told(layout: Path, tmp_path: Path) -> None:
    script = 'mkdir gone; cd gone; rmdir ../gone; "$@"'
    ended = run_in_shell(script, "unpack", layout, "rootfs", "--platform=linux/amd64", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        3,
        b"ociexport: error: the working directory: No such file or directory\n"
        b"hint: it was removed; cd to another directory\n",
    )
    # Commands that don't need it work.
    ended = run_in_shell(script, "unpack", layout, tmp_path / "rootfs", "--platform=linux/amd64", home=tmp_path)
    assert ended.returncode == 0


def test_name_that_the_locale_can_not_write_is_told(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[unpack]\nevents = 'ü'\n")
    variables = {"OCIEXPORT_CONFIG": f"{tmp_path}/my.toml", **NO_UTF8}
    ended = run_in_shell(
        '"$@"', "unpack", "./layout", "rootfs", "--platform=linux/amd64", "-q", home=tmp_path, **variables
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        b"ociexport: error: '\\xfc': expected a name that the locale can write, got one beyond ascii\n"
        b"hint: PYTHONUTF8=1 makes names UTF-8 whatever the locale\n",
    )


def test_events_that_can_not_be_written_are_told(layout: Path, tmp_path: Path) -> None:
    ended = run_in_shell('"$@"', "verify", "./layout", "--events", "/dev/full", "-q", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (9, b"ociexport: error: /dev/full: No space left on device\n")
    ended = run_in_shell('"$@" 7>/dev/full', "verify", "./layout", "--events", "7", "-q", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (9, b"ociexport: error: file descriptor 7: No space left on device\n")


def test_file_that_can_not_be_begun_is_told_by_its_own_name(layout: Path, tmp_path: Path) -> None:
    ended = run_in_shell('"$@"', "pull", "./layout", "--out", "x", "--digestfile", "none/d", "-q", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (3, b"ociexport: error: none/d: No such file or directory\n")
