"""The real programs that system tests use: docker-registry, skopeo, umoci, mmdebstrap, chroot.

If one is missing, a test is skipped and names it; in CI, which installs them all, the test fails.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OCIEXPORT = (sys.executable, "-m", "ociexport")


def require(*names: str, root: bool = False) -> None:
    """Return if all programs exist, and the user is root if ``root`` is set."""
    missing = [name for name in names if shutil.which(name) is None]
    if root and os.geteuid() != 0:
        missing.append("root")
    if not missing:
        return
    reason = f"needs {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command that must succeed; return its standard output."""
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, f"{command}: exit {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


@contextmanager
def mounted(directory: Path, *words: str) -> Iterator[Path]:
    """Yield ``directory`` with a file system mounted on it; ``words`` are arguments of mount(8)."""
    require("mount", "umount", root=True)
    directory.mkdir()
    run("mount", *words, directory)
    try:
        yield directory
    finally:
        run("umount", directory)


def wait_for_port(port: int) -> None:
    """Return when a server listens on loopback at ``port``."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"no server listens on port {port}")


@contextmanager
def docker_registry(directory: Path, *, proxy_of: str | None = None, schema1: bool = False) -> Iterator[str]:
    """Run Debian's docker-registry on loopback; yield its ``host:port``.

    Args:
        directory: for its blobs.
        proxy_of: URL of the registry for which it is a pull-through cache.
        schema1: whether it accepts and signs manifests of schema 1.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    proxy = f"proxy: {{remoteurl: '{proxy_of}'}}\n" if proxy_of else ""
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{directory}/data'}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{proxy}"
        f"compatibility: {{schema1: {{enabled: {str(schema1).lower()}}}}}\n"
    )
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_for_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
