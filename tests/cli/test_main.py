"""cli: every error is one line and has its exit code, whichever module raised it."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import ociexport
from ociexport import errors
from ociexport.cli import exit_codes
from ociexport.cli.commandline import COMMANDS
from ociexport.cli.errors import report_error
from ociexport.cli.exit_codes import exit_code_of
from ociexport.cli.main import main
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member


@pytest.fixture(autouse=True)
def _signals() -> object:
    """`main` takes SIGTERM and SIGHUP for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError(""), 2),
        (errors.InvalidReferenceError(""), 2),
        (errors.InvalidDigestError(""), 2),
        (errors.NotFoundError(""), 3),
        (errors.RegistryNotFoundError(""), 3),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 3),
        (errors.AuthenticationError(""), 4),
        (errors.TransferError(""), 5),
        (errors.RateLimitError(""), 6),
        (errors.DigestMismatchError(""), 7),
        (errors.SizeMismatchError(""), 7),
        (errors.InvalidImageError(""), 8),
        (errors.UnsupportedMediaTypeError(""), 8),
        (errors.UnsafeEntryError(""), 8),
        (errors.LimitExceededError(""), 8),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 9),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 9),
        (errors.NoMatchingPlatformError(""), 10),
        (errors.RegistryError(""), 1),
        (errors.OciexportError(""), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """CONVENTIONS, "Exit codes, ours, stable"."""
    assert exit_code_of(error) == code


@pytest.mark.parametrize(("options", "late"), [([], ""), (["-W", "error"], "late\n"), (["-X", "dev"], "late\n")])
def test_process_ends_at_once_but_for_those_who_want_warnings(options: list[str], late: str, tmp_path: Path) -> None:
    script = (
        "import atexit, sys; atexit.register(print, 'late'); sys.argv = ['ociexport', '--version']\n"
        "from ociexport.cli.main import run; run()"
    )
    ended = subprocess.run(
        [sys.executable, *options, "-c", script],
        env=command_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == (f"ociexport {ociexport.__version__}\n{late}", "")


def test_exit_codes_are_those_of_the_conventions() -> None:
    codes = {name: value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert codes == {
        "OK": 0,
        "OTHER_FAILURE": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "AUTHENTICATION": 4,
        "NETWORK": 5,
        "QUOTA": 6,
        "INTEGRITY": 7,
        "MALFORMED_IMAGE": 8,
        "DISK": 9,
        "NO_SUCH_PLATFORM": 10,
        "HUNG_UP": 129,
        "INTERRUPTED": 130,
        "READER_GONE": 141,
        "TERMINATED": 143,
    }


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.OciexportError("two\nlines"), "ociexport: error: two lines\n"),
        (errors.OciexportError("bad", hint="do\x07 this"), "ociexport: error: bad\nhint: do\\x07 this\n"),
        (OSError(errno.ENOSPC, "Disk full", "a\x1b[31m"), "ociexport: error: a\\x1b[31m: Disk full\n"),
        (OSError(errno.EXDEV, "Other device", b"a\xff", None, "b"), "ociexport: error: a\\xff: b: Other device\n"),
        (OSError("odd"), "ociexport: error: odd\n"),
        (OSError(), "ociexport: error: OSError\n"),
    ],
)  # fmt: skip
def test_error_is_one_line_that_no_terminal_obeys(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    report_error(error)
    assert capsys.readouterr() == ("", said)


def test_host_that_a_redirect_named_is_quoted_in_a_command_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    """A registry chooses the host of a redirect, so its name must not be interpreted by a shell."""
    report_error(errors.TransferError("no connection", url="http://x;id;/storage"))
    assert capsys.readouterr().err == (
        "ociexport: error: no connection\nhint: check whether the server can be reached from here: curl -I 'http://x;id;/v2/'\n"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"ociexport {ociexport.__version__}\n", "")


def test_module_is_a_command_too(tmp_path: Path) -> None:
    ended = run_command("--version", home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"ociexport {ociexport.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "ociexport: expected COMMAND, got none"),
        (["pull", "--frob", "x", "-o", "y"], "pull: unknown option '--frob'"),
        (["pull", "-w", "x", "-o", "y"], "pull: unknown option '-w'"),
        (["pull"], "pull: expected IMAGE and -o/--out, got none"),
        (["pull", "x", "--ou", "y"], "pull: unknown option '--ou'"),
        (["pull", "x", "--out"], "-o/--out: expected PATH, got nothing"),
        (["inspect", "x", "--raw", "--json"], "--json: not allowed with argument --raw"),
    ],
)
def test_usage_error_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"ociexport: error: {said}"
    assert [line.partition(":")[0] for line in lines[1:]] == ["hint"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_quiet(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "--help"]) == 0
    assert "-q, --quiet" in capsys.readouterr().out
    module = importlib.import_module(f"ociexport.cli.commands.{name.replace('-', '_')}")
    assert callable(module.run)
    assert callable(module.add_arguments)


def test_public_names_are_there() -> None:
    """Every name in `__all__` loads; only these names are public."""
    for name in ociexport.__all__:
        assert getattr(ociexport, name) is not None
    assert dir(ociexport) == sorted(ociexport.__all__)
    with pytest.raises(AttributeError, match="module 'ociexport' has no attribute 'absent'"):
        _ = ociexport.absent


@pytest.mark.parametrize(
    ("terminal", "columns", "bars"), [("xterm", 100, True), ("xterm", 0, True), ("dumb", 100, False)]
)
def test_bars_are_for_terminals(tmp_path: Path, terminal: str, columns: int, bars: bool) -> None:
    image = build_image([[member("a", os.urandom(100_000))]])
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        with FakeRegistry() as registry:
            command = command_line("pull", image.serve(registry, "a/b"), "--out", tmp_path / "out")
            environment = command_environment(tmp_path, TERM=terminal)
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs, timeout=60, check=True)
        os.set_blocking(ours, False)
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("layer 1/1" in said, "100%" in said) == (True, bars)
