"""How much memory there is, and how much of it decompressing may take.

Spec: proc(5), "/proc/meminfo"; cgroups(7); the kernel's cgroup-v2.rst, "memory.max", and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property

from ociexport.errors import LimitExceededError, counted
from ociexport.spec.numerals import number_in

# The largest window that zstd decompresses, of `zstd --long=31`.
MAX_WINDOW_BYTES = 2**31
# Without --long, zstd makes no larger one, and reads none. It is taken without a look at the available memory.
USUAL_WINDOW_BYTES = 128 * 1024**2
MEMORY_OPTION = "--max-memory"

_MEMINFO = "/proc/meminfo"
_OWN_CGROUPS = "/proc/self/cgroup"
_CGROUPS = "/sys/fs/cgroup"


class DecompressionMemory:
    """How much of its output a decompressor may keep in memory: zstd's window, xz's dictionary.

    Args:
        max_bytes: None for what zstd supports and this machine has.
        option: the command's option for ``max_bytes``; None if it has none.
    """

    def __init__(self, max_bytes: int | None, option: str | None) -> None:
        self._max_bytes = max_bytes
        self._option = option

    @cached_property
    def limit(self) -> int:
        """The largest number of bytes."""
        if self._max_bytes is not None:
            return self._max_bytes
        available = available_memory_bytes()
        return MAX_WINDOW_BYTES if available is None else min(available, MAX_WINDOW_BYTES)

    def verify(self, name: str, window_bytes: int) -> None:
        """Return if a stream of the format ``name`` may take ``window_bytes``.

        Raises:
            LimitExceededError: it may not.
        """
        if window_bytes > MAX_WINDOW_BYTES:
            raise LimitExceededError(
                f"{name} data: window: expected at most {MAX_WINDOW_BYTES} bytes, which is all that is supported, "
                f"got {window_bytes}"
            )
        if window_bytes > (USUAL_WINDOW_BYTES if self._max_bytes is None else 0) and window_bytes > self.limit:
            raise self._over_limit(name, str(window_bytes))

    def error(self, name: str, window_bytes: int | None) -> LimitExceededError:
        """Return the error for a stream for which a decompressor found no memory.

        Args:
            window_bytes: those of a stream that `verify` allowed; None if the decompressor itself knows the limit.
        """
        if window_bytes is None:
            return self._over_limit(name, "more")
        return LimitExceededError(
            f"{name} data: window: expected {counted(window_bytes, 'byte')} of memory, got none",
            hint="this process may not take more memory: see ulimit -v",
        )

    def _over_limit(self, name: str, got: str) -> LimitExceededError:
        origins = ["all that is available"] if self._max_bytes is None else []
        hint = None
        if self._option is not None:
            origins.append(self._option)
            hint = f"if you trust the image, raise {self._option}"
        origin = f" ({', '.join(origins)})" if origins else ""
        return LimitExceededError(
            f"{name} data: window: expected at most {counted(self.limit, 'byte')} of memory{origin}, got {got}",
            hint=hint,
        )


def available_memory_bytes() -> int | None:
    """Return the smaller of the machine's available memory and the container's limit; None if neither is known."""
    return min((*_machine_bytes(), *_cgroup_bytes()), default=None)


def _machine_bytes() -> Iterator[int]:
    for line in _lines_of(_MEMINFO):
        name, _, value = line.partition(":")
        kib = number_in(value.removesuffix("kB").strip()) if name == "MemAvailable" else None
        if kib is not None:
            yield 1024 * kib


def _cgroup_bytes() -> Iterator[int]:
    """Yield the limits of this process's memory cgroup and of those above it; a container sees only the last."""
    for line in _lines_of(_OWN_CGROUPS):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in ("", "memory"):
            continue
        top, name = (f"{_CGROUPS}/memory", "memory.limit_in_bytes") if controllers else (_CGROUPS, "memory.max")
        while True:
            path = path.strip("/")
            # "max" is no number, and no limit.
            yield from filter(None, map(number_in, _lines_of(os.path.join(top, path, name))))
            if not path:
                break
            path = os.path.dirname(path)


def _lines_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
