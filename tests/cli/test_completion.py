"""commands.completion: real shells complete commands, options, values and files with the printed script."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import command_environment, run_command
from tests.support.system_parts import require

# The text typed before Tab, and the completed line.
_TYPED = [
    ("ociexport unpac", "ociexport unpack "),
    ("ociexport pull x --digestf", "ociexport pull x --digestfile "),
    ("ociexport help cred", "ociexport help credentials "),
    ("ociexport unpack ./lay", "ociexport unpack ./layout/"),
    ("ociexport pull imag", "ociexport pull images.tar "),
    ("ociexport pull x --out ./lay", "ociexport pull x --out ./layout/"),
    ("ociexport pull x --platform linux/s3", "ociexport pull x --platform linux/s390x "),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with something to complete."""
    (tmp_path / "layout").mkdir()
    (tmp_path / "images.tar").touch()
    (tmp_path / "scripts").mkdir()
    return tmp_path


def script(shell: str, home: Path) -> Path:
    ended = run_command("completion", shell, home=home)
    assert (ended.returncode, ended.stderr) == (0, "")
    # zsh finds the script by this name.
    path = home / "scripts" / "_ociexport"
    path.write_text(ended.stdout)
    return path


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, arguments: list[str], home: Path) -> None:
        environment = command_environment(home, TERM="dumb", PS1="> ", LC_ALL="C.UTF-8")
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            arguments,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
        os.close(follower)

    def type(self, text: str, until: Callable[[str], bool]) -> str:
        """Type ``text``, and return the line once it is as expected, or once no more output arrives."""
        os.write(self._leader, text.encode())
        seen, deadline = b"", time.monotonic() + 20
        while time.monotonic() < deadline and not until(seen.decode(errors="replace")):
            if select.select([self._leader], [], [], 0.1)[0]:
                seen += os.read(self._leader, 65536)
        return seen.decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        os.close(self._leader)


@pytest.mark.system
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_completes_what_is_typed(shell: str, home: Path) -> None:
    require(shell)
    path = script(shell, home)
    if shell == "bash":
        arguments, begin = ["bash", "--norc", "-i"], f"source {path}"
    else:
        arguments, begin = ["zsh", "-f", "-i"], f"fpath=({path.parent} $fpath); autoload -Uz compinit; compinit -u -D"
    terminal = Shell(arguments, home)
    try:
        terminal.type(f"{begin}; echo rea''dy\n", lambda seen: "ready\r\n" in seen)
        for typed, completed in _TYPED:
            # Ctrl-U clears the line.
            shown = terminal.type(f"\x15{typed}\t", lambda seen, completed=completed: completed in seen)  # type: ignore[misc]
            assert completed in shown
    finally:
        terminal.close()


@pytest.mark.system
def test_fish_completes_what_is_typed(home: Path) -> None:
    require("fish")
    path = script("fish", home)
    for typed, completed in _TYPED:
        ended = subprocess.run(
            ["fish", "--no-config", "-c", f"source {path}; complete -C '{typed}'"],
            env=command_environment(home),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        words = [line.partition("\t")[0] for line in ended.stdout.splitlines()]
        assert completed.split()[-1] in words
