"""Whether this process is the command's own, or another program's that uses the library."""

from __future__ import annotations

_owned: list[bool] = []


def own_process() -> None:
    """From now on the process is the command's own: no other code in it uses the libraries that we use."""
    _owned.append(True)


def owns_process() -> bool:
    """Whether the process is the command's own."""
    return bool(_owned)
