"""``bundle.json``: what a thin layout or archive contains, and what it expects on the far side.

The document lies beside ``index.json``. The same images and the same HAVE give the same bytes. ``bundleVersion`` grows
when a member changes its meaning; members may be added at any time. What a reader must know to merge the bundle at all
is named in ``requires``, and a reader that does not know a name there refuses the bundle.

- ``tool``: ``{"name": "ociexport", "version"}``; ``created``: RFC 3339 from SOURCE_DATE_EPOCH, null if that is not set
- ``for``: the rule by which blobs were left out, ``docker``, ``registry`` or ``layout``; ``since``: names of the HAVEs
- ``images``: name, source, digest, and the manifests with their configs, platforms and layers; ``replaces`` has the
  digests that the name had on the far side before
- ``documents``: manifests and indexes, all of them in the bundle
- ``blobs``: configs and layers in the bundle; ``expected``: blobs that the far side has, and which HAVE said so
- ``volume``: of a bundle in several archives; see `ociexport.storage.bundle_volume`
- ``recipes``: layers that are made on the far side; see `ociexport.storage.bundle_recipes`
- ``requires``: ``volumes`` with ``volume``, ``recipes`` with ``recipes``
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from ociexport.errors import InvalidDigestError, UnsupportedMediaTypeError, quoted
from ociexport.spec.descriptor import Descriptor, parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field, replace
from ociexport.spec.numerals import MAX_SIZE
from ociexport.storage.bundle_recipes import BundleRecipe
from ociexport.storage.bundle_volume import BundleVolume
from ociexport.storage.index import MAX_INDEX_BYTES
from ociexport.system.version import __version__

MAX_BUNDLE_BYTES = MAX_INDEX_BYTES
_VERSION = 1
# On an entry of ``index.json``: the digests that its name had before, latest first, so that an older image which is
# merged again does not take the name back.
REPLACES_ANNOTATION = "dev.ociexport.replaces"
# A name that moves each week has so many digests in half a year.
_MAX_REPLACED = 32
_RECIPES = "recipes"
# Names that may stand in ``requires``.
_VOLUMES = "volumes"
_KNOWN_FEATURES = frozenset({_VOLUMES, _RECIPES})


@dataclass(frozen=True, slots=True)
class BundleBlob:
    """A blob or a document that a bundle names.

    Args:
        diff_id: of a layer of an image; else None.
        since: of an expected blob: the names of the HAVEs that have it.
    """

    digest: Digest
    size: int
    media_type: str
    diff_id: Digest | None = None
    since: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, item: JsonObject) -> BundleBlob:
        """Return ``item`` as a blob; raises `InvalidImageError`."""
        size = item.integer("size")
        if not 0 <= size <= MAX_SIZE:
            raise item.error("size", f"expected 0 to {MAX_SIZE}, got {quoted(size)}")
        return cls(
            digest=parse_digest_of(item, "digest", item.text("digest")),
            size=size,
            media_type=item.optional_text("mediaType") or "",
            diff_id=parse_digest_of(item, "diffId", item.text("diffId")) if "diffId" in item else None,
            since=item.texts("since"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the blob as JSON."""
        members: dict[str, object] = {"digest": str(self.digest), "mediaType": self.media_type, "size": self.size}
        if self.diff_id is not None:
            members["diffId"] = str(self.diff_id)
        if self.since:
            members["since"] = list(self.since)
        return members


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """A manifest of an image: its digest, its config, its platform as text, and its layers, lowest first."""

    digest: Digest
    config: Digest
    platform: str | None
    layers: tuple[Digest, ...]

    @classmethod
    def from_json(cls, item: JsonObject) -> BundleManifest:
        """Return ``item`` as a manifest; raises `InvalidImageError`."""
        return cls(
            digest=parse_digest_of(item, "digest", item.text("digest")),
            config=parse_digest_of(item, "config", item.text("config")),
            platform=item.optional_text("platform"),
            layers=_digests_of(item, "layers"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the manifest as JSON."""
        return {
            "digest": str(self.digest),
            "config": str(self.config),
            "platform": self.platform,
            "layers": [str(digest) for digest in self.layers],
        }


@dataclass(frozen=True, slots=True)
class BundleImage:
    """An image of a bundle.

    Args:
        name: its full name or tag; None if it has none, such as a signature.
        source: where it came from.
        digest: of the manifest or index that ``index.json`` lists.
        replaces: digests that the name had before on the far side.
    """

    name: str | None
    source: str
    digest: Digest
    manifests: tuple[BundleManifest, ...]
    replaces: tuple[Digest, ...] = ()

    @classmethod
    def from_json(cls, item: JsonObject) -> BundleImage:
        """Return ``item`` as an image; raises `InvalidImageError`."""
        return cls(
            name=item.optional_text("name"),
            source=item.optional_text("source") or "",
            digest=parse_digest_of(item, "digest", item.text("digest")),
            manifests=tuple(map(BundleManifest.from_json, item.objects("manifests"))),
            replaces=_digests_of(item, "replaces"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the image as JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "digest": str(self.digest),
            "replaces": [str(digest) for digest in self.replaces],
            "manifests": [manifest.to_json() for manifest in self.manifests],
        }


@dataclass(frozen=True, slots=True)
class Bundle:
    """The content of ``bundle.json``; see the module.

    Args:
        created: a text as it stands there.
        volume: None if the whole bundle is in one place.
    """

    rule: str
    since: tuple[str, ...]
    created: str | None
    images: tuple[BundleImage, ...]
    documents: tuple[BundleBlob, ...]
    blobs: tuple[BundleBlob, ...]
    expected: tuple[BundleBlob, ...]
    volume: BundleVolume | None = None
    recipes: tuple[BundleRecipe, ...] = ()
    version: str = field(default=__version__, compare=False)

    @property
    def expected_digests(self) -> frozenset[Digest]:
        """The digests of the blobs that the far side has."""
        return frozenset(blob.digest for blob in self.expected)

    @property
    def made_digests(self) -> frozenset[Digest]:
        """The digests of the layers that are made on the far side."""
        return frozenset(recipe.layer.digest for recipe in self.recipes)

    def to_json(self) -> bytes:
        """Return the document, for people and programs."""
        members: dict[str, object] = {
            "bundleVersion": _VERSION,
            "tool": {"name": "ociexport", "version": self.version},
            "created": self.created,
            "for": self.rule,
            "since": list(self.since),
            "images": [image.to_json() for image in self.images],
            "documents": [blob.to_json() for blob in self.documents],
            "blobs": [blob.to_json() for blob in self.blobs],
            "expected": [blob.to_json() for blob in self.expected],
        }
        requires = [name for name, is_used in ((_VOLUMES, self.volume), (_RECIPES, self.recipes)) if is_used]
        if requires:
            members["requires"] = requires
        if self.volume is not None:
            members["volume"] = self.volume.to_json()
        if self.recipes:
            members["recipes"] = [recipe.to_json() for recipe in self.recipes]
        return json.dumps(members, indent=1).encode() + b"\n"

    def united_with(self, other: Bundle) -> Bundle:
        """Return the document of a layout that contains this bundle and then ``other``.

        An image of ``other`` replaces one of the same name. A blob that either has is in the layout.
        """
        names = {image.name for image in other.images if image.name is not None}
        kept = [
            image
            for image in self.images
            if image.name not in names and image.digest not in {one.digest for one in other.images if one.name is None}
        ]
        blobs = _once((*self.blobs, *other.blobs))
        there = {blob.digest for blob in blobs}
        recipes = {one.layer.digest: one for one in (*self.recipes, *other.recipes) if one.layer.digest not in there}
        return replace(
            other,
            since=tuple(dict.fromkeys((*self.since, *other.since))),
            images=(*kept, *other.images),
            documents=_once((*self.documents, *other.documents)),
            blobs=blobs,
            expected=tuple(blob for blob in _once((*self.expected, *other.expected)) if blob.digest not in there),
            recipes=tuple(recipes.values()),
        )


def parse_bundle(raw: bytes, *, where: str) -> Bundle:
    """Return ``raw`` parsed as a ``bundle.json``; nothing in it is compared with the files beside it.

    Raises:
        InvalidImageError: it is not such a document; ``where`` names the member.
        UnsupportedMediaTypeError: a later version of ociexport is needed to read it.
    """
    item = parse_json_object(raw, where=where)
    version = item.integer("bundleVersion")
    unknown = sorted(set(item.texts("requires")) - _KNOWN_FEATURES)
    if version != _VERSION or unknown:
        got = f"version {quoted(version)}" if version != _VERSION else f"one that requires {', '.join(unknown)}"
        raise UnsupportedMediaTypeError(
            f"expected a bundle of version {_VERSION}, got {got}",
            where=where,
            hint="a later version of ociexport reads it",
        )
    tool, volume = item.optional_object("tool"), item.optional_object("volume")
    return Bundle(
        rule=item.text("for"),
        since=item.texts("since"),
        created=item.optional_text("created"),
        images=tuple(map(BundleImage.from_json, item.objects("images"))),
        documents=tuple(map(BundleBlob.from_json, item.objects("documents"))),
        blobs=tuple(map(BundleBlob.from_json, item.objects("blobs"))),
        expected=tuple(map(BundleBlob.from_json, item.objects("expected"))),
        volume=BundleVolume.from_json(volume) if volume is not None else None,
        recipes=tuple(map(BundleRecipe.from_json, item.objects("recipes"))),
        version=(tool.optional_text("version") if tool is not None else None) or "",
    )


def replaced_by(entry: Descriptor) -> tuple[Digest, ...]:
    """Return the digests that an entry of ``index.json`` replaces, as far as they can be read."""
    found = []
    for text in entry.annotations.get(REPLACES_ANNOTATION, "").split():
        with suppress(InvalidDigestError):
            found.append(Digest.parse(text))
    return tuple(found)


def with_replaced(entry: Descriptor, digests: Iterable[Digest]) -> Descriptor:
    """Return ``entry`` with the digests that it replaces; only the latest are kept."""
    kept = list(dict.fromkeys(digest for digest in digests if digest != entry.digest))[:_MAX_REPLACED]
    if not kept:
        return entry
    return replace(entry, annotations={**entry.annotations, REPLACES_ANNOTATION: " ".join(map(str, kept))})


def created_at(seconds: int | None) -> str | None:
    """Return the value of ``created`` for a time since 1970; None for an unknown time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _digests_of(item: JsonObject, key: str) -> tuple[Digest, ...]:
    return tuple(parse_digest_of(item, f"{key}[{number}]", text) for number, text in enumerate(item.texts(key)))


def _once(blobs: Iterable[BundleBlob]) -> tuple[BundleBlob, ...]:
    """Return ``blobs``, each once; of an expected blob, all HAVEs that have it."""
    united: dict[Digest, BundleBlob] = {}
    for blob in blobs:
        known = united.setdefault(blob.digest, blob)
        if known is not blob:
            united[blob.digest] = replace(
                known, diff_id=known.diff_id or blob.diff_id, since=tuple(dict.fromkeys((*known.since, *blob.since)))
            )
    return tuple(united.values())


def diff_ids_in(bundle: Bundle) -> Mapping[Digest, Digest]:
    """Return the diff_ids of the layers that a bundle names, by their digests."""
    diff_ids = {blob.digest: blob.diff_id for blob in (*bundle.blobs, *bundle.expected) if blob.diff_id is not None}
    return diff_ids | {recipe.layer.digest: recipe.diff_id for recipe in bundle.recipes}
