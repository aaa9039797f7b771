"""inspect(): what an image is, from its documents alone: no layer is read.

Spec: image-spec 1.1 image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ociexport.errors import NoMatchingPlatformError, NotFoundError, UnsupportedMediaTypeError, locating
from ociexport.images.resolve import MAX_INDEX_DEPTH, DocumentReader, read_config, resolve_manifest
from ociexport.images.source import ImageSource, ReceivedManifest, published
from ociexport.spec import mediatypes
from ociexport.spec.config import HistoryEntry, ImageConfig, Layer, pair_layers, parse_config
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor, Platform
from ociexport.spec.docker_schema1 import is_schema1, parse_schema1
from ociexport.spec.docker_v1 import config_from_v1
from ociexport.spec.manifest import Document, Index, Manifest
from ociexport.spec.platforms import host_platform
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.convert import layers_of
from ociexport.transfer.sources.open import open_source

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One step of an image's making.

    Args:
        entry: what the config says of it.
        layer: number of the layer that it made, from 1; None for a step that made none, and where the history does not
            fit the layers.
    """

    entry: HistoryEntry
    layer: int | None


@dataclass(frozen=True, slots=True)
class PublishedSchema1(Document):
    """A manifest of Docker's schema 1 as it is published: no config is named in it, and no diff_ids."""

    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    config: Descriptor | None = None
    subject: Descriptor | None = None
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """One manifest and its config.

    Args:
        manifest: as it is published; of schema 1 what it becomes is not known without its layers.
        platform: what the index or else the config says that it is for; None where neither says anything.
        config: None for an artifact that is no image.
        layers: lowest first; none for an artifact, whose blobs are in the manifest, and none of schema 1.
        history: oldest first.
    """

    manifest: Manifest | PublishedSchema1
    platform: Platform | None
    config: ImageConfig | None
    layers: tuple[Layer, ...]
    history: tuple[HistoryLine, ...]

    @property
    def size(self) -> int:
        """Bytes of the layers as stored, or of an artifact's blobs."""
        return sum(descriptor.size for descriptor in self.manifest.layers)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a source's name leads to.

    Args:
        name: of the source.
        top: the document that it names, byte for byte in ``top.raw``.
        manifests: of an index what it lists, in order, with those of indexes within it; no attestations.
        attestations: of an index the provenance and SBOMs that BuildKit put into it.
        image: the manifest for the wanted platform, or the only one; None where there is none.
        missing: why ``image`` is None.
    """

    name: str
    top: Index | Manifest | PublishedSchema1
    manifests: tuple[Descriptor, ...]
    attestations: tuple[Descriptor, ...]
    image: InspectedImage | None
    missing: str | None


def inspect(
    image: str | ImageSource,
    *,
    platform: Platform | None = None,
    progress: Progress = SILENT,
    registry: RegistryOptions | None = None,
) -> Inspection:
    """Return what ``image`` is; its documents are verified against their digests, and no layer is read.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        platform: of several the one whose config and layers are wanted; None for this machine's, if it is there.
        progress: told of retries.
        registry: how registries are reached, for an image that is given by name.

    Raises:
        NotFoundError, RegistryError: the image is not to be had.
        NoMatchingPlatformError: it is not there for ``platform``.
        InvalidImageError: a document breaks the specification or is not what its digest says.
    """
    if isinstance(image, str):
        with closing(open_source(image, options=registry, progress=progress)) as source:
            return inspect(source, platform=platform, progress=progress)
    return inspect_source(image, platform or host_platform(), must_fit=platform is not None)


def inspect_source(source: ImageSource, platform: Platform, *, must_fit: bool) -> Inspection:
    """Return what ``source`` names.

    Args:
        must_fit: whether it is an error if there is no image for ``platform``.

    Raises:
        as `inspect` does.
    """
    received = published(source).fetch_manifest()
    if is_schema1(received.raw, received.media_type):
        described = _inspect_schema1(published(source), received)
        return Inspection(source.display_name, described.manifest, (), (), described, None)
    documents = DocumentReader(source, received)
    top = documents.top
    listed = list(_listed(documents, top, MAX_INDEX_DEPTH)) if isinstance(top, Index) else []
    image, missing = None, None
    try:
        image = _inspect_image(documents, platform)
    except (NoMatchingPlatformError, NotFoundError) as error:
        # What an index lists is news enough for who did not ask for a platform.
        if must_fit or isinstance(top, Manifest):
            raise
        missing = str(error)
    return Inspection(
        name=source.display_name,
        top=top,
        manifests=tuple(entry for entry in listed if not entry.is_attestation),
        attestations=tuple(entry for entry in listed if entry.is_attestation),
        image=image,
        missing=missing,
    )


def attested_by(entry: Descriptor) -> str:
    """Return the digest of the manifest that an attestation is of, as its index has it."""
    return entry.annotations[ATTESTED_ANNOTATION]


def _listed(documents: DocumentReader, index: Index, depth_left: int) -> Iterator[Descriptor]:
    """Yield what ``index`` lists; in the place of an index within it what that one lists, if it is there."""
    for entry in index.manifests:
        inner = None
        if entry.media_type in mediatypes.INDEXES and depth_left > 1:
            with suppress(NotFoundError):  # an index may name what is not there
                inner = documents.read_entry(index, entry)
        if isinstance(inner, Index):
            yield from _listed(documents, inner, depth_left - 1)
        else:
            yield entry


def _inspect_image(documents: DocumentReader, platform: Platform) -> InspectedImage:
    resolved = resolve_manifest(documents, platform)
    manifest = resolved.manifest
    try:
        config = read_config(documents.source, manifest)
    except UnsupportedMediaTypeError:
        return InspectedImage(manifest, resolved.platform, None, (), ())
    layers = pair_layers(manifest, config)
    return InspectedImage(
        manifest, resolved.platform or config.platform, config, layers, pair_history(config.history, len(layers))
    )


def _inspect_schema1(source: ImageSource, received: ReceivedManifest) -> InspectedImage:
    manifest = parse_schema1(received.raw, received.media_type, received.digest)
    with locating(f"manifest {manifest.digest}"):
        layers = layers_of(source, manifest)
        config = parse_config(config_from_v1(manifest.documents, ()))
    document = PublishedSchema1(manifest.raw, manifest.media_type, manifest.digest, tuple(layers))
    return InspectedImage(document, config.platform, config, (), pair_history(config.history, len(layers)))


def pair_history(history: Sequence[HistoryEntry], layer_count: int) -> tuple[HistoryLine, ...]:
    """Return the history with the layers that its steps made.

    Spec: image-spec 1.1 config.md, "history": it is optional, and those with ``empty_layer`` have made none.
    """
    fits = sum(not entry.empty_layer for entry in history) == layer_count
    lines = []
    number = 0
    for entry in history:
        if not entry.empty_layer:
            number += 1
        lines.append(HistoryLine(entry, None if entry.empty_layer or not fits else number))
    return tuple(lines)


def history_of(history: Sequence[HistoryLine], number: int) -> HistoryEntry | None:
    """Return the step that made layer ``number`` (from 1); None where the history does not tell."""
    return next((line.entry for line in history if line.layer == number), None)
