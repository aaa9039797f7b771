"""Change: one path that differs between two trees."""

from __future__ import annotations

from ociexport.spec.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs from the image it is compared with.

    Args:
        path: in the root filesystem, or in the other image.
        kind: ``A`` added, ``D`` deleted, ``T`` another type, ``M`` modified, the letters that git uses.
        what: for a modified path, what differs: ``content``, ``mode``, ``owner``, ``target``, ``device``, ``links``,
            ``xattrs``, ``mtime``.
    """

    path: bytes
    kind: str
    what: tuple[str, ...] = ()
