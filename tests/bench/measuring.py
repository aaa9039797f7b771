"""Timing of commands in turn, so that noise affects all alike, and comparison by medians."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Args:
        name: for the table.
        command: the command; its output is discarded.
        prepare: called before each run, not timed.
    """

    name: str
    command: Sequence[str]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Timing:
    """The result of one contender's runs: medians of wall and CPU seconds, and the largest memory peak."""

    wall: float
    processor: float
    peak_mib: float


def compare(title: str, contenders: Sequence[Contender], *, runs: int = 5) -> dict[str, Timing]:
    """Run all contenders in turn, ``runs`` times; print a table of medians and of ratios to the first."""
    samples: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    for number in range(runs):
        # The order changes from run to run, since a large removal changes the memory that the next contender gets.
        shift = number % len(contenders)
        for contender in [*contenders[shift:], *contenders[:shift]]:
            contender.prepare()
            samples[contender.name].append(_time(contender.command))
    timings = {
        name: Timing(
            statistics.median(sample.wall for sample in taken),
            statistics.median(sample.processor for sample in taken),
            max(sample.peak_mib for sample in taken),
        )
        for name, taken in samples.items()
    }
    first = timings[contenders[0].name]
    print(f"\n{title} (median of {runs}, in turn)\n")
    print("| job | seconds | CPU seconds | peak MiB | ratio of the first to this |")
    print("|---|---|---|---|---|")
    for name, timing in timings.items():
        ratio = first.wall / timing.wall
        print(
            f"| {name} | {timing.wall:.3f} | {timing.processor:.3f} | {timing.peak_mib:.0f} | {ratio:.2f} |", flush=True
        )
    return timings


def _time(command: Sequence[str]) -> Timing:
    before = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr is not None else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: exit {process.returncode}: {errors.decode(errors='replace')}")
    return Timing(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def removing(*paths: Path) -> Callable[[], None]:
    """Return a function that removes ``paths`` before a run."""

    def remove() -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    return remove
