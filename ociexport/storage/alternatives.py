"""Alternatives: several images of a layout under one name, of which the platform selects one.

Some tools add an entry to ``index.json`` where others replace one: after ``crane pull`` for two platforms, two entries
have the same name, or none. Spec: image-spec 1.1 image-layout.md: ``index.json`` is an image index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ociexport.errors import InvalidImageError, LimitExceededError, NotFoundError, UsageError
from ociexport.images.budget import DocumentBudget
from ociexport.images.companions import is_runnable
from ociexport.images.resolve import MAX_INDEX_DEPTH, artifact_kind, read_config, read_small_blob
from ociexport.images.source import BlobOpener
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.platforms import best_of, normalize_platform


class Leaf(NamedTuple):
    """A manifest that an entry leads to.

    Args:
        platform: the one that an index or the config declares; None if none does, or if the config can't be read.
        number: of the entry.
    """

    platform: Platform | None
    digest: Digest
    number: int


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The images under one name, without the entries that are signatures, attestations or other artifacts.

    Args:
        entries: of ``index.json``, each with its platform where the layout tells it.
        leaves: of these entries, in order.
        what: the images in messages, as the user requested them: ``app: expected one image '1'``.
        typed: the layout's name as a user types it before an image's name.
    """

    entries: tuple[Descriptor, ...]
    leaves: tuple[Leaf, ...]
    what: str
    typed: str

    @property
    def descriptor(self) -> Descriptor:
        """An index of the entries, which is made for the choice and embedded here; it has the entries' names."""
        listed = [replace(entry, annotations={}).to_json() for entry in self.entries]
        raw = json.dumps({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": listed}).encode()
        names = self.entries[0].annotations
        return Descriptor(mediatypes.OCI_INDEX, Digest.of(raw), len(raw), annotations=names, data=raw)

    def verify_is_one(self, wanted: Platform | None = None) -> None:
        """Return if one of the images is the best for ``wanted``; without it, for each of their platforms.

        Raises:
            UsageError: several are, or none of them declares a platform.
        """
        known = [leaf for leaf in self.leaves if leaf.platform is not None]
        offered = [(leaf.platform, leaf) for leaf in known if leaf.platform is not None]
        platforms = [wanted] if wanted is not None else [normalize_platform(platform) for platform, _ in offered]
        groups = [best_of(offered, platform) for platform in platforms] if known else [list(self.leaves)]
        for equals in groups:
            if len({leaf.digest for leaf in equals}) > 1:
                raise self._error(sorted({leaf.number for leaf in equals}))

    def _error(self, numbers: Sequence[int]) -> UsageError:
        chosen = [self.entries[number] for number in numbers] if len(numbers) > 1 else self.entries
        listed = ", ".join(f"@{one.digest}" + (f" ({one.platform})" if one.platform else "") for one in chosen)
        return UsageError(
            f"{self.what}, there are: {listed}", hint=f"name one of them, for example {self.typed}:@{chosen[0].digest}"
        )


class AlternativesReader:
    """Reads what entries of one layout are.

    Args:
        place: the layout's name in messages.
        blobs: opens its blobs.
    """

    def __init__(self, place: str, blobs: BlobOpener) -> None:
        self._blobs = blobs
        self._budget = DocumentBudget(place)
        self._known: dict[Digest, Index | Manifest | None] = {}

    def images_among(self, entries: Sequence[Descriptor]) -> list[Descriptor]:
        """Return the entries that are no artifacts, or all if all are. One that can't be read counts as an image."""
        images = []
        for entry in entries:
            document = self._read(entry)
            if document is None or is_runnable(entry, document):
                images.append(entry)
        return images or list(entries)

    def alternatives(self, entries: Sequence[Descriptor], what: str, typed: str) -> Alternatives:
        """Return ``entries`` as the images under one name; see `Alternatives`."""
        leaves = [leaf for number, entry in enumerate(entries) for leaf in self.leaves_of(entry, number)]
        declared = {leaf.digest: leaf.platform for leaf in leaves}
        described = tuple(replace(entry, platform=declared.get(entry.digest, entry.platform)) for entry in entries)
        return Alternatives(described, tuple(leaves), what, typed)

    def leaves_of(self, entry: Descriptor, number: int = 0) -> list[Leaf]:
        """Return the manifests that ``entry`` leads to."""
        return list(self._leaves(entry, number, MAX_INDEX_DEPTH, set()))

    def _leaves(self, entry: Descriptor, number: int, depth: int, seen: set[Digest]) -> Iterator[Leaf]:
        if entry.digest in seen:
            return
        seen.add(entry.digest)
        document = self._read(entry)
        if isinstance(document, Index):
            for child in document.manifests if depth else ():
                if not child.is_attestation:
                    yield from self._leaves(child, number, depth - 1, seen)
            return
        yield Leaf(entry.platform or self._platform_of(document), entry.digest, number)

    def _platform_of(self, manifest: Manifest | None) -> Platform | None:
        if manifest is None or artifact_kind(manifest) is not None:
            return None
        try:
            config = read_config(self._blobs, manifest)
        except (NotFoundError, InvalidImageError):
            return None
        self._budget.take(config.raw)
        return config.declared_platform

    def _read(self, entry: Descriptor) -> Index | Manifest | None:
        """Return the document of ``entry``; None if it is missing or is none."""
        if entry.media_type and entry.media_type not in mediatypes.DOCUMENTS:
            return None
        if entry.digest not in self._known:
            self._known[entry.digest] = self._read_new(entry)
        return self._known[entry.digest]

    def _read_new(self, entry: Descriptor) -> Index | Manifest | None:
        try:
            raw = read_small_blob(self._blobs, entry, MAX_MANIFEST_BYTES, f"manifest {entry.digest}")
            self._budget.take(raw)
            return parse_document(raw, entry.media_type, entry.digest)
        except LimitExceededError:
            raise
        except (NotFoundError, InvalidImageError):
            return None
