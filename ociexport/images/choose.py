"""Which of an image's platforms are taken, and what lists them: the published index, or one that dangles nowhere.

Spec: image-spec 1.1 image-index.md; BuildKit's attestation-storage.md for what is no platform.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ociexport.errors import (
    LimitExceededError,
    NoMatchingPlatformError,
    NotFoundError,
    UnsupportedMediaTypeError,
    printable,
)
from ociexport.images.resolve import DocumentReader, ResolvedManifest, resolve_manifest, verify_index_depth
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest
from ociexport.spec.platforms import fits_platform, select_manifest

# An index of 4 MiB has room for twenty thousand entries; nobody honest lists a tenth of that.
_MAX_MANIFESTS = 2048


@dataclass(frozen=True, slots=True)
class PlatformChoice:
    """Which platforms of an image are taken.

    Args:
        platforms: in the order of the wish; empty for all that there are, attestations included.
        keeps_index: whether the published index is kept byte for byte, although it names what is not taken.
    """

    platforms: tuple[Platform, ...] = ()
    keeps_index: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether all that the index lists is taken."""
        return not self.platforms

    @property
    def is_single(self) -> bool:
        """Whether one manifest is taken, without an index."""
        return len(self.platforms) == 1 and not self.keeps_index


class ChosenManifest(NamedTuple):
    """A manifest that is taken.

    Args:
        platform: what the index says that it is for; None where there is none or it says nothing.
        attests: the manifest that this one is a provenance or SBOM of; None for an image.
    """

    manifest: Manifest
    platform: Platform | None
    attests: str | None = None


class ChosenDocuments(NamedTuple):
    """What is taken of an image.

    Args:
        listed: of what a destination is to list: a manifest with its platform, or an index.
        manifests: each once; that of the platform wished for most first.
        others: the documents beside the manifests, byte for byte: indexes, innermost first, and what is neither.
        made_of: digest of the published index where ``listed`` is one of our own making; None where it is not.
    """

    listed: Descriptor
    manifests: tuple[ChosenManifest, ...]
    others: tuple[ReceivedManifest, ...]
    made_of: Digest | None


def choose_documents(documents: DocumentReader, choice: PlatformChoice) -> ChosenDocuments:
    """Return what ``choice`` takes of the image that ``documents`` reads.

    A source of one manifest is taken as it is by whoever wants one platform; who wants several must be told more, and
    is told by the config, which is read later.

    Raises:
        NoMatchingPlatformError: a platform is not there; lists those there are.
        InvalidImageError: a document breaks the specification.
        NotFoundError, RegistryError: the source does not give a document.
    """
    top = documents.top
    if isinstance(top, Manifest):
        return ChosenDocuments(top.descriptor, (ChosenManifest(top, None),), (), None)
    if choice.takes_all:
        everything = _Everything(documents)
        everything.take([top])
        return ChosenDocuments(top.descriptor, tuple(everything.manifests), tuple(everything.others), None)
    for platform in () if choice.is_single else choice.platforms:
        # Before anything is fetched for it; deeper within, it is seen below.
        entry = select_manifest(top, platform)
        if entry.media_type in mediatypes.SCHEMA1_MANIFESTS:
            raise _schema1_error(entry, top)
    resolved = [resolve_manifest(documents, platform) for platform in choice.platforms]
    for one in () if choice.is_single else resolved:
        _verify_is_as_listed(one.manifest.digest, one.entries[-1], one.indexes[-1])
    manifests = {one.manifest.digest: ChosenManifest(one.manifest, one.platform) for one in resolved}
    if choice.is_single:
        listed = replace(resolved[0].manifest.descriptor, platform=resolved[0].platform)
        return ChosenDocuments(listed, tuple(manifests.values()), (), None)
    if choice.keeps_index or _is_whole(top, resolved):
        indexes = {index.digest: index for one in resolved for index in reversed(one.indexes)}
        others = tuple(_received(index) for index in indexes.values())
        return ChosenDocuments(top.descriptor, tuple(manifests.values()), others, None)
    made = _index_of_chosen(top, resolved)
    listed = Descriptor(top.media_type, made.digest, len(made.raw))
    return ChosenDocuments(listed, tuple(manifests.values()), (made,), top.digest)


def verify_fits_all(manifest: Manifest, offered: Platform | None, choice: PlatformChoice) -> None:
    """Return if a manifest without an index is all that ``choice`` takes.

    Raises:
        NoMatchingPlatformError: several platforms are wanted, and it is not for one of them.
    """
    if len(choice.platforms) < 2 or offered is None:
        return
    for platform in choice.platforms:
        if not fits_platform(offered, platform):
            raise NoMatchingPlatformError(
                f"manifest {manifest.digest}: no image for platform {platform}, there is only: {offered}"
            )


class _Everything:
    """Collects all that an index leads to, each digest once, what is named before what names it."""

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents
        self._seen: set[Digest] = set()
        self.manifests: list[ChosenManifest] = []
        self.others: list[ReceivedManifest] = []

    def take(self, path: Sequence[Index]) -> None:
        """Take the last index of ``path`` and all that is in it."""
        index = path[-1]
        for entry in index.manifests:
            if entry.digest in self._seen:
                continue
            self._seen.add(entry.digest)
            if len(self._seen) > _MAX_MANIFESTS:
                raise LimitExceededError(
                    f"expected at most {_MAX_MANIFESTS} manifests", where=f"manifest {path[0].digest}"
                )
            self._take_entry(path, entry)
        self.others.append(_received(index))

    def _take_entry(self, path: Sequence[Index], entry: Descriptor) -> None:
        if entry.media_type in mediatypes.SCHEMA1_MANIFESTS:
            raise _schema1_error(entry, path[-1])
        if entry.media_type and entry.media_type not in mediatypes.INDEXES | mediatypes.MANIFESTS:
            # image-index.md: a type that we do not know is no error. What it refers to can't be known.
            self.others.append(self._documents.fetch_entry(path[-1], entry))
            return
        try:
            document = self._documents.read_entry(path[-1], entry)
        except NotFoundError as error:
            error.hint = "the index names what is not there; --platform takes what is"
            raise
        _verify_is_as_listed(document.digest, entry, path[-1])
        if isinstance(document, Index):
            verify_index_depth(path)
            self.take([*path, document])
        else:
            self.manifests.append(ChosenManifest(document, entry.platform, _attested_by(entry)))


def _verify_is_as_listed(digest: Digest, entry: Descriptor, index: Index) -> None:
    """Return if a document is the one that ``entry`` of ``index`` names, and was not converted to another."""
    if digest != entry.digest:
        raise _schema1_error(entry, index)


def _schema1_error(entry: Descriptor, index: Index) -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError(
        f"expected image manifests, got a Docker schema 1 manifest, {entry.digest}, which no index of OCI can name",
        where=f"manifest {index.digest}",
        hint="--platform for one platform takes it alone, and converts it",
    )


def _attested_by(entry: Descriptor) -> str | None:
    """Return which manifest an attestation is of; None for an image."""
    return printable(entry.annotations[ATTESTED_ANNOTATION]) if entry.is_attestation else None


def _is_whole(top: Index, resolved: Sequence[ResolvedManifest]) -> bool:
    """Whether all that ``top`` lists was chosen, so that the published index dangles nowhere."""
    direct = {one.entries[0].digest for one in resolved if len(one.entries) == 1}
    return direct == {entry.digest for entry in top.manifests}


def _index_of_chosen(top: Index, resolved: Sequence[ResolvedManifest]) -> ReceivedManifest:
    """Return ``top`` with the chosen entries only; what else it says stays, but for a subject: it may not be there."""
    item = json.loads(top.raw)
    item.pop("subject", None)
    entries = {one.manifest.digest: _entry_as_written(one) for one in resolved}
    item["manifests"] = list(entries.values())
    raw = json.dumps(item, separators=(",", ":")).encode()
    return ReceivedManifest(raw, top.media_type, Digest.of(raw))


def _entry_as_written(one: ResolvedManifest) -> object:
    """Return the entry that led to the manifest with all its members, those that we do not know included."""
    index = one.indexes[-1]
    return json.loads(index.raw)["manifests"][index.manifests.index(one.entries[-1])]


def _received(index: Index) -> ReceivedManifest:
    return ReceivedManifest(index.raw, index.media_type, index.digest)
