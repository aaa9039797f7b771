"""Threads: if the process or its user has reached the limit, the error is an `OciexportError`.

And how long a thread has waited for a processor, which tells a busy machine from a slow network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ociexport.errors import OciexportError

# Nanoseconds running, nanoseconds waiting to run, turns. Spec: the kernel's Documentation/scheduler/sched-stats.rst.
_SCHEDULER_STATISTICS = "/proc/thread-self/schedstat"

_HINT = "see how many processes and threads this user may have: ulimit -u"


class ThreadLimitError(OciexportError):
    """The process or its user has reached the limit of threads."""

    def __init__(self) -> None:
        super().__init__("a thread: expected one more, got none from the system", hint=_HINT)


def start_thread(target: Callable[..., object], *arguments: object, name: str) -> threading.Thread:
    """Return a thread that runs ``target``; it does not keep the process from ending.

    Raises:
        ThreadLimitError: no thread can be started; ``target`` was not called.
    """
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    with starting_threads():
        thread.start()
    return thread


@contextmanager
def starting_threads() -> Iterator[None]:
    """Turn the interpreter's error about a thread that can't be started into a `ThreadLimitError`.

    Raises:
        ThreadLimitError: no thread can be started.
    """
    try:
        yield
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise ThreadLimitError from error


def processor_wait_seconds() -> float:
    """Return how long this thread was ready to run while others had the processors; 0 if that is unknown."""
    try:
        with open(_SCHEDULER_STATISTICS, "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # another system, or a kernel without these statistics
        return 0.0
