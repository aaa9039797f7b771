"""The peak memory of the command, measured by the kernel; run as a program, this module is that command."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.command import command_environment


class Measured(NamedTuple):
    """The result of a command, and how many bytes more than the interpreter it took."""

    status: int
    stderr: str
    peak_bytes: int


def peak_of(*arguments: str | os.PathLike[str], home: Path, cwd: Path | None = None) -> Measured:
    """Run ``ociexport`` with ``arguments`` in its own process."""
    project = Path(__file__).parent.parent.parent
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.peak_memory", *(os.fspath(argument) for argument in arguments)],
        env=command_environment(home, PYTHONPATH=str(project)),
        cwd=cwd or project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    stderr, _, peak = ended.stderr.rstrip().rpartition("\n")
    return Measured(ended.returncode, stderr, int(peak))


def _status_bytes(member: str) -> int:
    # Not getrusage: its maximum includes the process that this one was forked from.
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(member))


if __name__ == "__main__":
    before = _status_bytes("VmRSS")
    from ociexport.cli.main import main

    status: object = 1
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:
        status = end.code
    finally:
        print(_status_bytes("VmHWM") - before, file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 1)
