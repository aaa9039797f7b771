"""`ociexport unpack` as a process, and an image of two layers for it, with a whiteout and an unreadable directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.memory_source import directory, member, symlink
from tests.support.system_parts import OCIEXPORT

LAYERS = [[directory("d", 0o555), member("d/f", b"1"), member("gone", b"1")], [member(".wh.gone"), symlink("l", "d")]]


def unpack(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OCIEXPORT, "unpack", "--platform=linux/amd64", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
