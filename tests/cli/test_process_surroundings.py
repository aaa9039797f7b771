"""What a process inherits: signals, a umask, a limit on threads. None causes a traceback or leaves partial results."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import command_environment, command_line
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.ordinary_user import open_place, run_as_ordinary_user
from tests.support.system_parts import require

LAYERS = [[directory("d"), member("d/f", b"1" * 100_000)], [member("g", b"2" * 100_000)]]
# Each command line, with the files that it leaves when it succeeds.
COMMANDS = {
    "unpack": ("unpack", "LAYOUT", "WORK/rootfs"),
    "unpack --to-tar": ("unpack", "LAYOUT", "--to-tar", "WORK/x.tar"),
    "unpack --receipt": ("unpack", "LAYOUT", "WORK/rootfs", "--receipt", "WORK/receipt", "--owners", "WORK/owners"),
    "pull": ("pull", "LAYOUT", "--out", "WORK/copy"),
    "pull to an archive": ("pull", "LAYOUT", "--out", "WORK/x.tar"),
    "pull --decompress": ("pull", "LAYOUT", "--out", "WORK/x.tar", "--decompress"),
    "pull from a registry": ("pull", "127.0.0.1:1/app", "--out", "WORK/copy", "--retry-times=0"),
    "verify": ("verify", "LAYOUT"),
    "verify --deep": ("verify", "--deep", "LAYOUT"),
    "ls": ("ls", "LAYOUT", "/"),
    "cat": ("cat", "LAYOUT", "g"),
    "diff": ("diff", "LAYOUT", "LAYOUT"),
    "which-layer": ("which-layer", "LAYOUT", "g"),
}

_NO_THREADS = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); os.environ.clear()"


def words_of(command: str, place: Path) -> list[str]:
    return [
        word.replace("LAYOUT", str(place / "layout")).replace("WORK", str(place / "work")) for word in COMMANDS[command]
    ]


@pytest.mark.parametrize("limit", [48, 256])
def test_few_open_files_are_enough_for_wide_and_deep_trees(tmp_path: Path, limit: int) -> None:
    """A batch system or a login may set `ulimit -n`; directories that are kept open follow it."""
    deep = "/".join(["deep"] * 200)
    wide = [member(f"wide/{number}/f", b"x") for number in range(600)]
    layers = [[*wide, member(f"{deep}/f"), member(f"gone/{deep}/f")], [*wide, member(".wh.gone"), member(f"{deep}/g")]]
    layout, rootfs = tmp_path / "layout", tmp_path / "rootfs"
    write_layout(layout, {"1": build_image(layers)})
    for words in (
        ("unpack", layout, rootfs),
        ("unpack", layout, rootfs, "--replace"),
        ("diff", rootfs, layout),
        ("treehash", rootfs),
        ("rm", rootfs),
    ):
        ended = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command_line(*words, "-q")],
            env=command_environment(tmp_path), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, ""), words
    assert os.listdir(tmp_path) == ["layout"]


@pytest.mark.parametrize("command", COMMANDS)
def test_where_no_thread_can_be_started_it_is_one_line(command: str) -> None:
    """A batch system or a container may set `ulimit -u`."""
    require(root=True)
    with open_place(LAYERS) as place:
        ended = run_as_ordinary_user(
            *words_of(command, place),
            "-q",
            begin=_NO_THREADS,
        )
        if ended.returncode:
            line = "ociexport: error: a thread: expected one more, got none from the system\n"
            assert (ended.returncode, ended.stderr.splitlines(keepends=True)[0][-len(line) :]) == (1, line)
            assert not os.listdir(place / "work") or command.startswith("pull")
            assert not [name for name in os.listdir(place / "work") if "partial" in name]
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("diff", "pull from a registry")])
@pytest.mark.parametrize("umask", ["0o777", "0o700", "0o277"])
def test_umask_that_takes_all_from_the_user_keeps_nothing_from_being_made(command: str, umask: str) -> None:
    require(root=True)
    with open_place(LAYERS) as place:
        ended = run_as_ordinary_user(*words_of(command, place), "-q", begin=f"os.umask({umask})")
        assert (ended.returncode, ended.stderr) == (0, "")
        for path in (place / "work").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_nohup_is_respected(tmp_path: Path) -> None:
    script = (
        "import os, signal; from ociexport.cli import main as program\n"
        "def parse(words): os.kill(os.getpid(), signal.SIGHUP); print('goes on')\n"
        "program._parse = parse; raise SystemExit(program.main([]))"
    )
    for is_ignored, code, said in ((True, 0, "goes on\n"), (False, 129, "")):
        ended = subprocess.run(
            [sys.executable, "-c", script],
            env=command_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if is_ignored else None,
        )
        assert (ended.returncode, ended.stdout) == (code, said)


MODULES = (
    "cli.main",
    "cli.process",
    "cli.exit_codes",
    "errors",
    "cli.commandline",
    "cli.commands.ls",
    "cli.errors",
    "storage.layout.layout",
)


@pytest.mark.parametrize("module", MODULES)
def test_interrupt_while_it_is_loaded_is_one_line(module: str, tmp_path: Path) -> None:
    """Ctrl-C right after Enter."""
    script = f"""
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "ociexport.{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.argv = ["ociexport", "ls", "./none"]
from ociexport.__main__ import run
run()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=command_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (130, "ociexport: error: interrupted\n")


def test_command_begins_where_an_interrupt_is_caught(tmp_path: Path) -> None:
    ended = subprocess.run(
        command_line("--version"), env=command_environment(tmp_path), capture_output=True, timeout=60, check=True
    )
    assert ended.stdout.startswith(b"ociexport ")
    assert "ociexport = ociexport.__main__:run" in (Path(__file__).parent.parents[1] / "setup.cfg").read_text()
