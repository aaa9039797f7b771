"""inspect(): an image's manifests, platforms, config, layers and history, from its documents alone.

Spec: image-spec 1.1 image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ociexport.errors import NoMatchingPlatformError, NotFoundError, UnsupportedMediaTypeError, locating
from ociexport.images.resolve import MAX_INDEX_DEPTH, DocumentReader, artifact_kind, read_config, resolve_manifest
from ociexport.images.source import ImageSource, ReceivedManifest, is_made, published
from ociexport.spec import mediatypes
from ociexport.spec.config import HistoryEntry, ImageConfig, Layer, pair_layers, parse_config
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor, Platform
from ociexport.spec.digested_bytes import is_schema1
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.manifest import Document, Index, Manifest
from ociexport.spec.platforms import host_platform, verify_not_contradicted
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.open import open_source

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One build step of an image.

    Args:
        entry: the step's entry in the config.
        layer: number of the layer that the step made, from 1; None for a step without a layer, and if the history does
            not match the layers.
    """

    entry: HistoryEntry
    layer: int | None


@dataclass(frozen=True, slots=True)
class PublishedSchema1(Document):
    """A manifest of Docker's schema 1 as published; it names neither config nor diff_ids."""

    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    config: Descriptor | None = None
    subject: Descriptor | None = None
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """One manifest and its config.

    Args:
        manifest: as published; a schema 1 manifest can't be converted without reading its layers.
        platform: from the index, or else from the config; None if neither declares one.
        config: None for an artifact that is not an image.
        layers: lowest first; empty for an artifact, whose blobs are in the manifest, and for schema 1.
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
    """The documents of a source.

    Args:
        name: of the source.
        top: the document that the name refers to; its bytes are in ``top.raw``.
        manifests: the entries of an index in order, with those of nested indexes; without attestations.
        attestations: the provenance and SBOM entries that BuildKit added to an index.
        image: the manifest for the requested platform, or the only manifest; None if there is no match.
        missing: the reason why ``image`` is None.
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
    """Return the documents of ``image``, verified against their digests; no layer is read.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        platform: selects the config and layers of a multi-platform image; None for this machine's platform, if the
            image has it.
        progress: receives retries.
        registry: how registries are reached, for an image given by name.

    Raises:
        NotFoundError, RegistryError: the image does not exist or can't be fetched.
        NoMatchingPlatformError: the image does not support ``platform``.
        InvalidImageError: a document breaks the specification or does not match its digest.
    """
    if isinstance(image, str):
        with closing(open_source(image, options=registry, progress=progress)) as source:
            return inspect(source, platform=platform, progress=progress)
    return inspect_source(image, platform or host_platform(), must_fit=platform is not None)


def inspect_source(source: ImageSource, platform: Platform, *, must_fit: bool) -> Inspection:
    """Return the documents of ``source``.

    Args:
        must_fit: whether a missing image for ``platform`` is an error.

    Raises:
        as `inspect` does.
    """
    received = published(source).fetch_manifest()
    if is_schema1(received.raw, received.media_type):
        described = _inspect_schema1(published(source), received)
        verify_not_contradicted(described.platform, platform, f"manifest {described.manifest.digest}")
        return Inspection(source.display_name, described.manifest, (), (), described, None)
    documents = DocumentReader(source, received)
    top = documents.top
    listed = list(_listed(documents, top, MAX_INDEX_DEPTH)) if isinstance(top, Index) else []
    image, missing = None, None
    try:
        image = _inspect_image(documents, platform)
    except (NoMatchingPlatformError, NotFoundError, UnsupportedMediaTypeError) as error:
        # If the user requested no platform, the entries of the index are a useful answer on their own.
        if must_fit or isinstance(top, Manifest):
            raise
        missing = str(error)
    if image is not None and is_made(source, top.digest):
        # The index was made of the images under one name; nobody published it.
        return Inspection(source.display_name, image.manifest, (), (), image, None)
    return Inspection(
        name=source.display_name,
        top=top,
        manifests=tuple(entry for entry in listed if not entry.is_attestation),
        attestations=tuple(entry for entry in listed if entry.is_attestation),
        image=image,
        missing=missing,
    )


def attested_by(entry: Descriptor) -> str:
    """Return the digest of the manifest that an attestation describes, as declared in the index."""
    return entry.annotations[ATTESTED_ANNOTATION]


def _listed(documents: DocumentReader, index: Index, depth_left: int) -> Iterator[Descriptor]:
    """Yield the entries of ``index``; a nested index is replaced by its own entries, if the source has it."""
    for entry in index.manifests:
        inner = None
        if entry.media_type in mediatypes.INDEXES and depth_left > 1:
            with suppress(NotFoundError):  # an index may name documents that the source lacks
                inner = documents.read_entry(index, entry)
        if isinstance(inner, Index):
            yield from _listed(documents, inner, depth_left - 1)
        else:
            yield entry


def _inspect_image(documents: DocumentReader, platform: Platform) -> InspectedImage:
    resolved = resolve_manifest(documents, platform)
    manifest = resolved.manifest
    config = None
    if artifact_kind(manifest) is None:
        with suppress(UnsupportedMediaTypeError):
            config = read_config(documents.source, manifest)
    if config is None:
        return InspectedImage(manifest, resolved.platform, None, (), ())
    if resolved.platform is None:
        verify_not_contradicted(config.declared_platform, platform, f"manifest {manifest.digest}")
    layers = pair_layers(manifest, config)
    return InspectedImage(
        manifest,
        resolved.platform or config.declared_platform,
        config,
        layers,
        pair_history(config.history, len(layers)),
    )


def _inspect_schema1(source: ImageSource, received: ReceivedManifest) -> InspectedImage:
    from ociexport.spec.docker_schema1 import parse_schema1  # noqa: PLC0415 - start-up: few images are of schema 1
    from ociexport.spec.docker_v1 import config_from_v1  # noqa: PLC0415 - start-up: as above
    from ociexport.transfer.sources.convert import layers_of  # noqa: PLC0415 - start-up: as above

    manifest = parse_schema1(received.raw, received.media_type, received.digest)
    with locating(f"manifest {manifest.digest}"):
        layers = layers_of(source, manifest)
        config = parse_config(config_from_v1(manifest.documents, ()))
    document = PublishedSchema1(manifest.raw, manifest.media_type, manifest.digest, tuple(layers))
    return InspectedImage(document, config.declared_platform, config, (), pair_history(config.history, len(layers)))


def pair_history(history: Sequence[HistoryEntry], layer_count: int) -> tuple[HistoryLine, ...]:
    """Return each history entry with the number of its layer.

    Spec: image-spec 1.1 config.md, "history": it is optional; entries with ``empty_layer`` made no layer.
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
    """Return the step that made layer ``number`` (from 1); None if the history does not match the layers."""
    return next((line.entry for line in history if line.layer == number), None)
