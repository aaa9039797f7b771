"""The command under test, installed as by a user, and a place in memory for its work."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.system_parts import run

_INSTALLED_DIRECTORY = Path(".bench-installed")


@functools.cache
def installed_ociexport() -> str:
    """Return the command installed as by a user; run from the tree it would take longer to start."""
    run(sys.executable, "-m", "venv", "--clear", _INSTALLED_DIRECTORY)
    run(_INSTALLED_DIRECTORY / "bin" / "python", "-m", "pip", "install", "--quiet", ".")
    return str(_INSTALLED_DIRECTORY.absolute() / "bin" / "ociexport")


@contextmanager
def memory_directory() -> Iterator[Path]:
    """Give a directory in a memory file system, where there is one; it is removed at the end."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(prefix="ociexport-bench-", dir=base) as directory:
        yield Path(directory)
