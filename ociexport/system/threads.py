"""Threads: if the process or its user has reached the limit, the error is an `OciexportError`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ociexport.errors import OciexportError

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
