"""The entries of an ``index.json``, which of them are about others, and everything that a selection of them reaches.

A layout lists a signature, an SBOM or an attestation as an entry of its own. It belongs to an image by its ``subject``,
by its tag, which is made of the image's digest, or, as ``cosign save`` and hauler write it, by the image's name.

Spec: distribution-spec 1.1, "Listing Referrers"; cosign's SIGNATURE_SPEC.md, "Discovery".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.companions import companion_tags, is_companion_tag, referrers_tag, says_companion
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.storage.index import name_of, shown_name
from ociexport.verification.walk import Root, Walk

_NO_NAME = ImageName(None, None)


@dataclass(frozen=True, eq=False)
class ListedEntry:
    """One entry of an ``index.json``, or one image of an archive.

    Args:
        root: where a walk over it begins.
        name: its names.
    """

    root: Root
    name: ImageName

    @classmethod
    def of(cls, root: Root) -> ListedEntry:
        """Return the entry of a root."""
        return cls(root, name_of(root.descriptor) if root.raw is None else root.source.image_name)

    @property
    def descriptor(self) -> Descriptor:
        """The entry's descriptor."""
        return self.root.descriptor

    @property
    def shown_name(self) -> str:
        """Its full name or tag, or ``@`` and its digest."""
        return shown_name(self.descriptor, self.name)

    @cached_property
    def document(self) -> Index | Manifest | None:
        """The manifest or index; None if it is missing, damaged or of another kind."""
        received = self._received
        if isinstance(received, ReceivedManifest):
            with suppress(InvalidImageError):
                return parse_document(received.raw, self.descriptor.media_type or received.media_type, received.digest)
        return None

    @property
    def is_damaged(self) -> bool:
        """Whether its bytes are stored and are not those that its descriptor states."""
        return isinstance(self._received, InvalidImageError | OSError)

    @cached_property
    def _received(self) -> ReceivedManifest | Exception:
        try:
            return self.root.source.fetch_manifest(self.descriptor)
        except (NotFoundError, InvalidImageError, OSError) as error:
            return error

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in its names."""
        found = (self.name.tag, (self.name.full or "").rpartition(":")[2])
        return tuple(tag for tag in dict.fromkeys(found) if tag)

    @property
    def is_companion(self) -> bool:
        """Whether it says that it is about another image, which need not be listed or stored."""
        if says_companion(self.descriptor) or any(map(is_companion_tag, self.tags)):
            return True
        return self.document is not None and self.document.subject is not None


class Companions:
    """Finds the entries that are about an image.

    Args:
        entries: all that are listed.
    """

    def __init__(self, entries: Sequence[ListedEntry]) -> None:
        self._by_subject: dict[Digest, list[ListedEntry]] = {}
        self._by_tag: dict[str, list[ListedEntry]] = {}
        self._by_name: dict[ImageName, list[ListedEntry]] = {}
        for entry in entries:
            tags = [tag for tag in entry.tags if is_companion_tag(tag)]
            subject = entry.document.subject if entry.document is not None else None
            if subject is not None:
                self._by_subject.setdefault(subject.digest, []).append(entry)
            for tag in tags:
                self._by_tag.setdefault(tag, []).append(entry)
            if subject is None and not tags and says_companion(entry.descriptor):
                self._by_name.setdefault(entry.name, []).append(entry)

    def about(self, digests: Iterable[Digest], names: Iterable[ImageName]) -> Iterator[ListedEntry]:
        """Yield the entries about documents with these digests, and about images with these names.

        An entry that has neither the digest of its image nor a name may be about any image.
        """
        for digest in digests:
            yield from self._by_subject.get(digest, ())
            for tag in (*companion_tags(digest), referrers_tag(digest)):
                yield from self._by_tag.get(tag, ())
        for name in names:
            yield from self._by_name.get(name, ())
        yield from self._by_name.get(_NO_NAME, ())


def follow_with_companions(
    walk: Walk, entries: Iterable[ListedEntry], companions: Companions
) -> tuple[ListedEntry, ...]:
    """Follow ``entries``, the entries about them, and the entries about those; return all that were followed.

    The walk then knows everything that any of them reaches.
    """
    taken: dict[int, ListedEntry] = {}
    waiting = list(entries)
    seen: set[Digest] = set()
    while waiting:
        for entry in waiting:
            taken[id(entry)] = entry
            walk.follow(entry.root)
        fresh = walk.documents.keys() | walk.missing.keys() | walk.broken.keys()
        fresh -= seen
        seen |= fresh
        found = companions.about(fresh, [entry.name for entry in waiting if entry.name != _NO_NAME])
        waiting = list({id(entry): entry for entry in found if id(entry) not in taken}.values())
    return tuple(taken.values())
