"""The memory of a command that allocates and frees chunk after chunk."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_CHURN = """
import resource, sys, threading
{before}
def churn():
    for _ in range(50):
        # As when files are made more slowly than chunks, and the other way round.
        chunks = [b"x" * 2**20 for _ in range(12)]
        del chunks
thread = threading.Thread(target=churn)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def _page_faults(before: str) -> int:
    command = [sys.executable, "-c", _CHURN.format(before=before)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_chunks_come_from_memory_that_was_freed() -> None:
    """mallopt(3): 600 MiB in chunks touch few new pages; each chunk has 256."""
    reuse = "from ociexport.cli.process import reuse_freed_memory; reuse_freed_memory()"
    assert _page_faults(reuse) < 20_000
    assert _page_faults("") > 60_000
