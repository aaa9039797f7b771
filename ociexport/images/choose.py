"""Choosing an image's platforms, and the index that lists them: the published one, or one without dangling entries.

Spec: image-spec 1.1 image-index.md; BuildKit's attestation-storage.md for entries that are no platform.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ociexport.errors import printable
from ociexport.images.resolve import (
    DocumentReader,
    ResolvedManifest,
    resolve_manifest,
    schema1_error,
    verify_is_as_listed,
)
from ociexport.images.source import ReceivedManifest, shared_name
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.manifest import Index, Manifest
from ociexport.spec.named_tuple import NamedTuple


@dataclass(frozen=True, slots=True)
class PlatformChoice:
    """Which platforms of an image are taken.

    Args:
        platforms: in order of preference; empty for everything that the index lists, attestations included.
        keeps_index: whether the published index is kept byte for byte, although it lists manifests that are not taken.
    """

    platforms: tuple[Platform, ...] = ()
    keeps_index: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether everything that the index lists is taken."""
        return not self.platforms

    @property
    def is_single(self) -> bool:
        """Whether one manifest is taken, without an index."""
        return len(self.platforms) == 1 and not self.keeps_index


class ChosenManifest(NamedTuple):
    """A manifest that is taken.

    Args:
        platform: the one that the index declares for it; None without an index or a declaration.
        attests: the manifest whose provenance or SBOM this one is; None for an image.
    """

    manifest: Manifest
    platform: Platform | None
    attests: str | None = None


class ChosenDocuments(NamedTuple):
    """What is taken of an image.

    Args:
        listed: what a destination lists: a manifest with its platform, or an index.
        manifests: each once, the most preferred platform's first.
        others: all other documents, byte for byte: indexes, innermost first, and documents of unknown type.
        made_of: digest of the published index, if ``listed`` is an index made from it; else None.
        blobs: entries of an index that are neither manifests nor other documents: the layers of a build cache.
    """

    listed: Descriptor
    manifests: tuple[ChosenManifest, ...]
    others: tuple[ReceivedManifest, ...]
    made_of: Digest | None
    blobs: tuple[Descriptor, ...] = ()


def choose_documents(documents: DocumentReader, choice: PlatformChoice) -> ChosenDocuments:
    """Return what ``choice`` takes of the image that ``documents`` reads.

    Does not check the platform of an only manifest for which no index declares one: the config, which is read later,
    declares it. See `ociexport.images.resolve.verify_platform`.

    Raises:
        NoMatchingPlatformError: a platform is missing; lists the available ones.
        InvalidImageError: a document breaks the specification.
        NotFoundError, RegistryError: the source does not return a document.
    """
    top = documents.top
    if isinstance(top, Manifest):
        return ChosenDocuments(top.descriptor, (ChosenManifest(top, None),), (), None)
    if choice.takes_all:
        if (shared := shared_name(documents.source)) is not None:
            shared.verify_is_one()
        from ociexport.images.walk import Everything  # noqa: PLC0415 - start-up: one platform is taken without it

        everything = Everything(documents)
        everything.take([top])
        listed_manifests = [
            ChosenManifest(manifest, entry.platform, _attested_by(entry)) for manifest, entry in everything.manifests
        ]
        return ChosenDocuments(
            top.descriptor, tuple(listed_manifests), tuple(everything.others), None, tuple(everything.blobs)
        )
    for platform in () if choice.is_single else choice.platforms:
        # Refused before a fetch; entries of nested indexes are checked below.
        entry = documents.select(top, platform)
        if entry.media_type in mediatypes.SCHEMA1_MANIFESTS:
            raise schema1_error(entry, top)
    resolved = [resolve_manifest(documents, platform) for platform in choice.platforms]
    for one in () if choice.is_single else resolved:
        verify_is_as_listed(one.manifest.digest, one.entries[-1], one.indexes[-1])
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


def _attested_by(entry: Descriptor) -> str | None:
    """Return the manifest that an attestation describes; None for an image."""
    return printable(entry.annotations[ATTESTED_ANNOTATION]) if entry.is_attestation else None


def _is_whole(top: Index, resolved: Sequence[ResolvedManifest]) -> bool:
    """Whether every entry of ``top`` was chosen, so that the published index has no dangling entry."""
    direct = {one.entries[0].digest for one in resolved if len(one.entries) == 1}
    return direct == {entry.digest for entry in top.manifests}


def _index_of_chosen(top: Index, resolved: Sequence[ResolvedManifest]) -> ReceivedManifest:
    """Return ``top`` with the chosen entries only, and without ``subject``, which may not be copied."""
    item = json.loads(top.raw)
    item.pop("subject", None)
    entries = {one.manifest.digest: _entry_as_written(one) for one in resolved}
    item["manifests"] = list(entries.values())
    raw = json.dumps(item, separators=(",", ":")).encode()
    return ReceivedManifest(raw, top.media_type, Digest.of(raw))


def _entry_as_written(one: ResolvedManifest) -> object:
    """Return the entry that led to the manifest with all its members, unknown ones included."""
    index = one.indexes[-1]
    return json.loads(index.raw)["manifests"][index.manifests.index(one.entries[-1])]


def _received(index: Index) -> ReceivedManifest:
    return ReceivedManifest(index.raw, index.media_type, index.digest)
