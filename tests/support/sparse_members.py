"""Sparse files for tars of tests."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.memory_source import Member, member


def sparse_member(name: str, size: int, parts: Mapping[int, bytes], mtime: int = 1_000_000_000) -> Member:
    """Return a file of ``size`` bytes, in which each part stands at its offset; the rest are holes.

    Spec: GNU tar manual, "PAX Format, Version 0.1".
    """
    info, content = member(name, b"".join(parts.values()), mtime=mtime)
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": name,
        "GNU.sparse.size": str(size),
        "GNU.sparse.map": ",".join(f"{offset},{len(part)}" for offset, part in parts.items()) or "0,0",
    }
    return info, content
