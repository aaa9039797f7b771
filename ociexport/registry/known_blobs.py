"""KnownBlobs: which repositories of one registry have which blobs, as far as a run knows."""

from __future__ import annotations

import threading

from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field


@dataclass(slots=True)
class KnownBlobs:
    """Which repositories of one registry have which blobs, as far as this run knows; used by several threads."""

    _homes: dict[Digest, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, digest: Digest, repository: str) -> None:
        """Remember that ``repository`` has the blob."""
        with self._lock:
            homes = self._homes.setdefault(digest, [])
            if repository not in homes:
                homes.append(repository)

    def homes(self, digest: Digest) -> tuple[str, ...]:
        """Return the repositories that have the blob."""
        with self._lock:
            return tuple(self._homes.get(digest, ()))
