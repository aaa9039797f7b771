"""Findings of a verification: errors, and notes about things that break nothing."""

from __future__ import annotations

from collections.abc import Iterator
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
from ociexport.spec.lazy_dataclass import dataclass


class Kind(Enum):
    """The subject of a finding. The values are stable, since scripts compare them."""

    MISSING = "missing"  # a referenced blob or document is missing
    ABSENT = "absent"  # the same, where the specification allows it
    SIZE = "size"  # more or fewer bytes than the descriptor says
    DIGEST = "digest"  # the bytes do not match the digest
    UNREADABLE = "unreadable"  # the file or the archive member cannot be read
    DOCUMENT = "document"  # JSON that breaks the specification
    MEDIA_TYPE = "media-type"
    LAYERS = "layers"  # manifest and config disagree
    PLATFORM = "platform"  # index and config declare different ones
    NAME = "name"  # annotations that name images
    LAYOUT = "layout"  # oci-layout, index.json, blobs/
    ORPHAN = "orphan"  # a blob that nothing references
    UNFINISHED = "unfinished"  # left by an interrupted pull
    DIFF_ID = "diff-id"  # the uncompressed tar does not match its diff_id
    TAR = "tar"  # a layer that cannot be applied
    LIMIT = "limit"  # larger than any honest image


# The end of a message about a blob that nothing references.
UNREFERENCED = "; unreferenced"


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or note.

    Args:
        kind: the subject.
        place: where it was found, outermost first.
        message: what was expected and what was found.
        is_wrong: False for a note.
        digest: of the blob or document concerned, if any.
    """

    kind: Kind
    place: str
    message: str
    is_wrong: bool = True
    digest: Digest | None = None

    def __str__(self) -> str:
        """Return the finding as one line."""
        return escaped(f"{'wrong' if self.is_wrong else 'note'}: {self.place}: {self.message}")


# The first matching class decides.
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
    """Return the kind of finding that an error stands for."""
    return next((kind for error_type, kind in _KINDS if isinstance(error, error_type)), otherwise)


def message_of(error: OciexportError | OSError) -> str:
    """Return an error's message without its place, since a finding has its own."""
    if isinstance(error, NotFoundError):
        return "not there"
    if isinstance(error, InvalidImageError):
        return error.message
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror or error}"
    return str(error)


class Findings:
    """Collects findings and drops repeated ones."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def add(self, kind: Kind, place: str, message: str, *, is_wrong: bool = True, digest: Digest | None = None) -> None:
        """Add a finding."""
        self._found.setdefault(Finding(kind, place, message, is_wrong, digest))

    def add_error(
        self,
        error: OciexportError | OSError,
        place: str,
        *,
        otherwise: Kind = Kind.UNREADABLE,
        digest: Digest | None = None,
    ) -> None:
        """Add the finding that an error stands for."""
        self.add(kind_of(error, otherwise), place, message_of(error), digest=digest)
