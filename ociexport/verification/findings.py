"""What a verification finds: what is wrong, and what is only worth telling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ociexport.errors import (
    DiffIdMismatchError,
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    OciexportError,
    SizeMismatchError,
    UnsafeEntryError,
    escaped,
)
from ociexport.spec.digest import Digest


class Kind(Enum):
    """What a finding is about; the values are stable, for scripts."""

    MISSING = "missing"  # a blob or document that is named is not there
    ABSENT = "absent"  # the same, where that may be
    SIZE = "size"  # more or fewer bytes than the descriptor says
    DIGEST = "digest"  # other bytes than the digest names
    UNREADABLE = "unreadable"  # the file system or the tar does not give the bytes
    DOCUMENT = "document"  # JSON, or members of it, that break the specification
    MEDIA_TYPE = "media-type"
    LAYERS = "layers"  # manifest and config do not fit together
    PLATFORM = "platform"  # index and config say different ones
    NAME = "name"  # annotations that give names
    LAYOUT = "layout"  # oci-layout, index.json, blobs/
    ORPHAN = "orphan"  # a blob that nothing leads to
    UNFINISHED = "unfinished"  # what a pull that did not end has left
    DIFF_ID = "diff-id"  # the uncompressed tar is another one
    TAR = "tar"  # a layer that can't be applied
    LIMIT = "limit"  # larger than what any honest image has


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Args:
        kind: what it is about.
        place: where, outermost first.
        message: what is expected and what is there.
        is_wrong: False for what breaks nothing.
        digest: of the blob or document that it is about, where there is one.
    """

    kind: Kind
    place: str
    message: str
    is_wrong: bool = True
    digest: Digest | None = None

    def __str__(self) -> str:
        """Return the finding as one line."""
        return escaped(f"{'wrong' if self.is_wrong else 'note'}: {self.place}: {self.message}")


# The first class that fits decides.
_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (DiffIdMismatchError, Kind.DIFF_ID),
    (DigestMismatchError, Kind.DIGEST),
    (SizeMismatchError, Kind.SIZE),
    (LimitExceededError, Kind.LIMIT),
    (UnsafeEntryError, Kind.TAR),
    (NotFoundError, Kind.MISSING),
    (OSError, Kind.UNREADABLE),
)


def kind_of(error: OciexportError | OSError, otherwise: Kind) -> Kind:
    """Return what an error is about."""
    return next((kind for error_type, kind in _KINDS if isinstance(error, error_type)), otherwise)


def message_of(error: OciexportError | OSError) -> str:
    """Return what an error says, without the place, which a finding has itself."""
    if isinstance(error, NotFoundError):
        return "not there"
    if isinstance(error, InvalidImageError):
        return error.message
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror or error}"
    return str(error)


class Findings:
    """Collects findings, each once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def add(self, kind: Kind, place: str, message: str, *, is_wrong: bool = True, digest: Digest | None = None) -> None:
        """Take note of something that is wrong, or only worth telling."""
        self._found.setdefault(Finding(kind, place, message, is_wrong, digest))

    def add_error(
        self,
        error: OciexportError | OSError,
        place: str,
        *,
        otherwise: Kind = Kind.UNREADABLE,
        digest: Digest | None = None,
    ) -> None:
        """Take note of what an error says."""
        self.add(kind_of(error, otherwise), place, message_of(error), digest=digest)
