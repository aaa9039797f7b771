"""A command in a user namespace whose ids a test chooses, as containers have them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.system_parts import require

_WAIT = 'read _ && exec "$@"'


def run_in_namespace(
    *command: str | Path, uid_map: str, gid_map: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new user namespace, whose creator is root outside; it begins when the maps are written.

    Args:
        uid_map: lines with the first id inside, the first outside, and the count.
        gid_map: the same for groups; None for the same ranges.
    """
    require("unshare", root=True)
    words = ["unshare", "-U", "sh", "-c", _WAIT, "sh", *map(str, command)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=cwd) as process:
        outside, deadline = os.readlink("/proc/self/ns/user"), time.monotonic() + 20
        while process.poll() is None and os.readlink(f"/proc/{process.pid}/ns/user") == outside:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if process.poll() is not None:
            pytest.skip(f"no user namespace: {process.communicate()[1]}")
        for name, lines in (("uid_map", uid_map), ("gid_map", gid_map or uid_map)):
            Path(f"/proc/{process.pid}/{name}").write_text(lines)
        out, err = process.communicate("go\n", timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)
