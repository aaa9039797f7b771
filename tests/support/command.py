"""The real command, run in its own process as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

# Variables that a developer may have set and that would change the tests.
_FOREIGN_VARIABLES = (
    "DOCKER_CONFIG",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_DEFAULT_PLATFORM",
    "REGISTRY_AUTH_FILE",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_COLOR",
    "CI",
)


def command_environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment without any user settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in _FOREIGN_VARIABLES and not name.startswith("OCIEXPORT_")
    }
    return {**kept, "HOME": str(home), "COLUMNS": "100", **variables}


def clear_foreign_variables(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Give `main` in this process the environment that `command_environment` gives a command."""
    for name in [*os.environ]:
        if name.upper() in _FOREIGN_VARIABLES or name.startswith("OCIEXPORT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


def command_line(*arguments: str | os.PathLike[str]) -> list[str]:
    """Return the words that start the command, with warnings as errors."""
    return [sys.executable, "-W", "error", "-m", "ociexport", *(os.fspath(argument) for argument in arguments)]


def run_command(
    *arguments: str | os.PathLike[str],
    home: Path,
    variables: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``ociexport`` with ``arguments`` and return its result."""
    return subprocess.run(
        command_line(*arguments),
        env=command_environment(home, **(variables or {})),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
