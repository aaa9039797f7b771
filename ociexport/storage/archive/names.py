"""The names of archives that can be written: the ending says whether the archive is compressed as a whole."""

from __future__ import annotations

# Of each ending, the compression; None for a plain tar.
_COMPRESSIONS = {".tar": None, ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tzst": "zstd"}


def is_archive_name(path: str) -> bool:
    """Whether ``path`` is the name of an archive that can be written."""
    return path.endswith(tuple(_COMPRESSIONS))


def compression_of(path: str) -> str | None:
    """Return the compression that an archive's name asks for, ``gzip`` or ``zstd``; None for a plain one."""
    return next((name for suffix, name in _COMPRESSIONS.items() if path.endswith(suffix)), None)
