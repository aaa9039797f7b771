"""threads: how long a thread has waited for a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ociexport.system import threads
from ociexport.system.threads import processor_wait_seconds


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="needs the statistics of Linux")
def test_wait_for_a_processor_grows_while_others_have_it() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        # The child has the same processor, and so has this thread.
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
            before, until = processor_wait_seconds(), time.monotonic() + 1
            while time.monotonic() < until:
                pass
            waited = processor_wait_seconds() - before
            spinning.kill()
    finally:
        os.sched_setaffinity(0, allowed)
    assert 0.1 < waited < 1.1


def test_wait_for_a_processor_is_0_where_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, "", "1", "a b c"):
        if content is not None:
            (tmp_path / "schedstat").write_text(content)
        monkeypatch.setattr(threads, "_SCHEDULER_STATISTICS", str(tmp_path / "schedstat"))
        assert processor_wait_seconds() == 0.0
