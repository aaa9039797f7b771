"""Work in a process that is killed before one of its calls to the file system."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

# Calls that change a directory, or come before one that does.
_EVENTS = frozenset(
    {"ctypes.dlsym", "open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"}
    | {"os.truncate"}
)
_OF_IMPORTS = (".py", ".pyc", ".so")


def killed_before(call: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a process that is killed before its call of this number; return whether it was killed.

    What Python itself opens and writes for an import is not counted: a first import makes more calls than a second
    one, and where the numbers move from one process to the next, a call between them is never the one.
    """
    child = os.fork()
    if child == 0:
        left = call

        def count(event: str, words: tuple[object, ...]) -> None:
            nonlocal left
            if event in _EVENTS and not any(_is_of_import(word) for word in words):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _is_of_import(word: object) -> bool:
    return isinstance(word, str) and (word.endswith(_OF_IMPORTS) or "__pycache__" in word)
