"""The layers that a bundle brings as recipes: what ``recipes`` in ``bundle.json`` says of each.

    {"digest": "sha256:…", "size": 8192, "mediaType": "…", "diffId": "sha256:…",
     "compression": {"name": "none"}, "recipe": {"digest": "sha256:…", "size": 500},
     "bases": [{"diffId": "sha256:…", "size": 4096, "digests": ["sha256:…"], "since": ["v1"]}],
     "published": {"digest": "sha256:…", "size": 3000}}

``digest`` is of the layer that the recipe makes, as the manifests in the bundle name it. If the published layer has
another digest, ``published`` names it: the made layer is then the same tar without compression. A base may be in the
layout under each of its ``digests``, or as a plain tar under its ``diffId``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ociexport.errors import quoted
from ociexport.spec.descriptor import Descriptor, parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.numerals import MAX_SIZE


@dataclass(frozen=True, slots=True)
class RecipeBase:
    """An older layer that a recipe copies from.

    Args:
        diff_id: of its tar.
        size: of its tar in bytes.
        digests: under which the far side may have it, apart from its diff_id.
        since: names of the HAVEs that have it.
    """

    diff_id: Digest
    size: int
    digests: tuple[Digest, ...]
    since: tuple[str, ...] = ()

    @property
    def all_digests(self) -> tuple[Digest, ...]:
        """All digests under which the far side may have it, the plain tar's first."""
        return tuple(dict.fromkeys((self.diff_id, *self.digests)))

    @classmethod
    def from_json(cls, item: JsonObject) -> RecipeBase:
        """Return ``item`` as a base; raises `InvalidImageError`."""
        return cls(
            diff_id=parse_digest_of(item, "diffId", item.text("diffId")),
            size=_size_of(item),
            digests=tuple(parse_digest_of(item, "digests", text) for text in item.texts("digests")),
            since=item.texts("since"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the base as JSON."""
        return {
            "diffId": str(self.diff_id),
            "size": self.size,
            "digests": list(map(str, self.digests)),
            "since": list(self.since),
        }


@dataclass(frozen=True, slots=True)
class BundleRecipe:
    """A layer that a bundle brings as a recipe.

    Args:
        layer: that it makes.
        diff_id: of the layer's tar.
        compression: of the layer; `ociexport.transfer.bundle.delta.recompress` reads it.
        recipe: the blob in the bundle.
        bases: that the recipe needs.
        published: the published layer, if ``layer`` is its plain tar; else None.
    """

    layer: Descriptor
    diff_id: Digest
    compression: Mapping[str, Any] = field(hash=False)
    recipe: Descriptor
    bases: tuple[RecipeBase, ...]
    published: Descriptor | None = None

    @classmethod
    def from_json(cls, item: JsonObject) -> BundleRecipe:
        """Return ``item`` as a recipe; raises `InvalidImageError`."""
        published = item.optional_object("published")
        return cls(
            layer=_blob_of(item),
            diff_id=parse_digest_of(item, "diffId", item.text("diffId")),
            compression=item.object("compression").members,
            recipe=_blob_of(item.object("recipe")),
            bases=tuple(map(RecipeBase.from_json, item.objects("bases"))),
            published=_blob_of(published) if published is not None else None,
        )

    def to_json(self) -> dict[str, object]:
        """Return the recipe as JSON."""
        members: dict[str, object] = {
            "digest": str(self.layer.digest),
            "size": self.layer.size,
            "mediaType": self.layer.media_type,
            "diffId": str(self.diff_id),
            "compression": dict(self.compression),
            "recipe": {"digest": str(self.recipe.digest), "size": self.recipe.size},
            "bases": [base.to_json() for base in self.bases],
        }
        if self.published is not None:
            members["published"] = {"digest": str(self.published.digest), "size": self.published.size}
        return members


def _blob_of(item: JsonObject) -> Descriptor:
    digest = parse_digest_of(item, "digest", item.text("digest"))
    return Descriptor(item.optional_text("mediaType") or "", digest, _size_of(item))


def _size_of(item: JsonObject) -> int:
    size = item.integer("size")
    if not 0 <= size <= MAX_SIZE:
        raise item.error("size", f"expected 0 to {MAX_SIZE}, got {quoted(size)}")
    return size
