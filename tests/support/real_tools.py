"""Tools that load what we write and save what we read, each with its own store, which is removed afterwards.

with podman() as run: run("load", "-i", archive)
with containerd() as ctr: ctr("images", "import", archive)
with dockerd() as docker: docker("load", "-i", archive)
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest

from tests.support.system_parts import require, run

Run: TypeAlias = Callable[..., str]

# The time that a daemon may need to start on a busy machine.
_START_SECONDS = 60
# podman and buildah need configuration files, which the tests do not have.
_UNWANTED = ("CONTAINERS_REGISTRIES_CONF", "DOCKER_CONFIG")


@contextmanager
def _short_directory(prefix: str) -> Iterator[Path]:
    """Yield a directory with a short path: podman refuses over 50 characters, and sockets over about 100."""
    with TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)


@contextmanager
def podman(program: str = "podman") -> Iterator[Run]:
    """Yield a function that runs podman, or buildah, as root with its own store; ``environment`` adds variables."""
    require(program, root=True)
    with _short_directory("store-") as store:
        options = ("--root", store / "root", "--runroot", store / "run", "--storage-driver", "vfs")
        yield lambda *words, environment=None: _run(program, *options, *words, environment=environment)


@contextmanager
def containerd() -> Iterator[Run]:
    """Run containerd, and yield a function that runs ``ctr`` on it."""
    require("containerd", "ctr", root=True)
    with _short_directory("containerd-") as store:
        socket = store / "socket"
        command = ["containerd", "--root", store / "root", "--state", store / "state", "--address", socket]
        with _daemon(command, socket, store / "log"):
            yield lambda *words: _run("ctr", "--address", socket, *words)


@contextmanager
def dockerd() -> Iterator[Run]:
    """Run docker's daemon without a network, and yield a function that runs ``docker`` on it.

    If the daemon can't start, the test is skipped, in CI too: not every machine permits it.
    """
    require("dockerd", "docker", "containerd", root=True)
    with _short_directory("docker-") as store:
        socket = store / "socket"
        command = ["dockerd", "--data-root", store / "data", "--exec-root", store / "exec", "--pidfile", store / "pid"]
        command += ["--host", f"unix://{socket}", "--storage-driver", "vfs", "--bridge", "none"]
        command += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        with ExitStack() as stack:
            try:
                stack.enter_context(_daemon(command, socket, store / "log"))
            except _NotStartedError as error:
                pytest.skip(f"needs a dockerd that starts: {error}")
            yield lambda *words: _run("docker", "--host", f"unix://{socket}", *words)


class _NotStartedError(Exception):
    """A daemon ended, or opened no socket in time; the message is its last output."""


@contextmanager
def _daemon(command: list[object], socket: Path, log: Path) -> Iterator[None]:
    with (
        log.open("wb") as output,
        subprocess.Popen([str(word) for word in command], stdout=output, stderr=output) as daemon,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not socket.exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise _NotStartedError(log.read_text(errors="replace").splitlines()[-1:])
                time.sleep(0.05)
            yield
        finally:
            daemon.terminate()


def _run(*words: object, environment: Mapping[str, str] | None = None) -> str:
    variables = {name: value for name, value in os.environ.items() if name not in _UNWANTED} | dict(environment or {})
    ended = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=200, env=variables, check=False
    )
    assert ended.returncode == 0, f"{words}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def skopeo_copy(source: str, target: str, *options: str, words: Sequence[str] = ()) -> None:
    """Run ``skopeo copy``.

    Args:
        options: global options of skopeo.
        words: arguments of ``copy``.
    """
    require("skopeo")
    run("skopeo", *options, "copy", *words, source, target)
