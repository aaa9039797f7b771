"""A signal ends the command also if it arrives where library code holds a lock; see `ociexport.cli.interruption`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import command_environment

SCRIPT = """
import os, queue, sys, threading, time
from argparse import Namespace
from ociexport.cli import interruption, main

interruption._LOOK_SECONDS = 0.2
jobs = queue.LifoQueue()

def run(options):
    HELD = {
        "in a queue": jobs.mutex,
        "in a condition": threading.Condition(threading.Lock()),
        "nowhere": threading.RLock(),
    }
    lock = HELD[sys.argv[1]]
    lock.acquire()  # and the signal arrives before the block that gives it back
    try:
        os.write(1, b"ready\\n")
        time.sleep(60)
    finally:
        if lock is jobs.mutex:
            jobs.put(None)
        else:
            with lock:
                time.sleep(float(sys.argv[2]))
        print("cleaned up", flush=True)

main._parse = lambda words: Namespace(run=run)
main.run()
"""


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("place", ["in a queue", "in a condition"])
def test_signal_ends_a_command_that_waits_for_its_own_lock(
    tmp_path: Path, number: signal.Signals, code: int, line: str, place: str
) -> None:
    assert ended(tmp_path, number, place, 0) == (code, False, f"ociexport: error: {line}\n")


def test_clean_up_that_takes_long_is_not_interrupted(tmp_path: Path) -> None:
    assert ended(tmp_path, signal.SIGTERM, "nowhere", 1.0) == (143, True, "ociexport: error: terminated\n")


def ended(home: Path, number: signal.Signals, place: str, seconds: float) -> tuple[int, bool, str]:
    """Send a signal to a command that holds a lock; returns its code, whether it cleaned up, and its messages."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, place, str(seconds)],
        env=command_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    return process.returncode, out == "cleaned up\n", err
