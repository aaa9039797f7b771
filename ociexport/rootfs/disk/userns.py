"""A user namespace in which an ordinary user is root and the subordinate ids are all other users.

Spec: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import UsageError
from ociexport.spec.numerals import number_in

_CLONE_NEWUSER = 0x10000000
# A pipe transfers up to this size in one piece (pipe(7), PIPE_BUF).
_MAX_ANSWER_BYTES = 4096
_DONE = "done"
_HELPERS = ("newuidmap", "newgidmap")


def can_enter_user_namespace() -> bool:
    """Whether this ordinary user has subordinate ids, and the programs that map them are installed."""
    return os.geteuid() != 0 and not _missing()


def enter_user_namespace() -> None:
    """Make this process root of a new user namespace: its user is 0, the subordinate ids are 1 and up.

    Must be called before any thread is started. Outside the namespace, files that the process creates belong to its
    user and to the subordinate ids.

    Raises:
        UsageError: there are no subordinate ids, newuidmap is missing, or the kernel refuses.
    """
    missing = _missing()
    if missing:
        raise UsageError(
            f"--userns: expected {missing}, got none", hint="see subuid(5), and install the package uidmap"
        )
    maps = [_id_map(os.geteuid(), "/etc/subuid"), _id_map(os.getegid(), "/etc/subgid")]
    with _mapping_child(maps) as write_maps:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise UsageError(f"--userns: the kernel refuses this user a user namespace: {reason}")
        refusal = write_maps()
    if refusal:
        raise UsageError(f"--userns: the subordinate ids could not be mapped: {refusal}")
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise UsageError(f"--userns: the kernel grants no rights in the user namespace: {error.strerror}") from error
    with suppress(PermissionError):
        os.setgroups([])


@contextmanager
def _mapping_child(maps: list[list[str]]) -> Iterator[Callable[[], str]]:
    """Yield a function that writes ``maps`` for this process once it is in its namespace, and returns any error.

    A child process does the writing: it stays outside the namespace, and only from there can the maps be written.
    """
    word_read, word_write = os.pipe()
    answer_read, answer_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(word_write)
            if os.read(word_read, 1):
                os.write(answer_write, _write_maps(os.getppid(), maps).encode()[:_MAX_ANSWER_BYTES])
        finally:
            os._exit(0)
    os.close(word_read)
    os.close(answer_write)

    def write_maps() -> str:
        os.write(word_write, b"x")
        answer = os.read(answer_read, _MAX_ANSWER_BYTES).decode(errors="replace")
        return answer.removeprefix(_DONE) if answer else "the process that maps them was killed"

    try:
        yield write_maps
    finally:
        os.close(word_write)
        os.close(answer_read)
        os.waitpid(child, 0)


def _write_maps(pid: int, maps: list[list[str]]) -> str:
    """Return `_DONE`, or the reason why the maps can't be written."""
    import subprocess  # noqa: PLC0415 - start-up: only --userns needs it

    for helper, id_map in zip(_HELPERS, maps, strict=True):
        try:
            result = subprocess.run([helper, str(pid), *id_map], capture_output=True, check=False)
        except OSError as error:
            return f"{helper}: {error.strerror}"
        if result.returncode:
            return result.stderr.decode(errors="replace").strip() or f"{helper}: exit code {result.returncode}"
    return _DONE


def _missing() -> str:
    """Return the first prerequisite that is missing; empty if none is."""
    import shutil  # noqa: PLC0415 - start-up: as above

    for helper in _HELPERS:
        if shutil.which(helper) is None:
            return f"the program {helper}"
    for path in ("/etc/subuid", "/etc/subgid"):
        if not _subordinate_ids(path):
            return f"an entry for this user in {path}"
    return ""


def _id_map(own_id: int, path: str) -> list[str]:
    """Return the arguments for newuidmap: inside, outside and count, for the user and then each subordinate range."""
    words = ["0", str(own_id), "1"]
    inside = 1
    for first, count in _subordinate_ids(path):
        words += [str(inside), str(first), str(count)]
        inside += count
    return words


def _subordinate_ids(path: str) -> list[tuple[int, int]]:
    """Return the ranges that the file assigns to this user, by name or number; /etc/subgid lists users too."""
    import pwd  # noqa: PLC0415 - start-up: as above

    uid = os.geteuid()
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    ranges = []
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            parts = line.strip().split(":")
            if len(parts) == 3 and parts[0] in names:
                first, count = (number_in(part, 2**32) for part in parts[1:])
                if first is not None and count is not None:
                    ranges.append((first, count))
    return ranges
