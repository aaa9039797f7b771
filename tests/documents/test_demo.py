"""`make demo` pulls, unpacks and lists its sample image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.command import command_environment
from tests.support.document_blocks import PROJECT


def test_demo_shows_the_unpacked_tree(tmp_path: Path) -> None:
    """A later layer hides ``/etc/obsolete``."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.demo"],
        cwd=tmp_path,
        env=command_environment(tmp_path / "home", PYTHONPATH=str(PROJECT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "/etc/message -> motd\n" in ended.stdout
    assert "obsolete" not in ended.stdout
