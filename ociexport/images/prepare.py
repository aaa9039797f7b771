"""prepare_image(): from a source and a choice of platforms to an image whose documents are all read and checked."""

from __future__ import annotations

from collections.abc import Sequence

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError, counted, quoted
from ociexport.images.choose import ChosenDocuments, ChosenManifest, PlatformChoice, choose_documents
from ociexport.images.destination import ImageDestination
from ociexport.images.held_documents import FarSource, ListingStore
from ociexport.images.resolve import DocumentReader, artifact_kind, read_config, verify_platform
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest, is_made
from ociexport.images.wanted_blobs import BlobToFetch, blobs_of, listed_blobs, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.config import ImageConfig, pair_layers
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Manifest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.platforms import fits_platform, host_platform
from ociexport.system.progress.protocol import Progress

_NO_CONFIG = Digest.of(b"{}")
_NO_ROOT_FILESYSTEM = "copied as an artifact: its config describes no root filesystem, so unpack refuses it"


class PreparedManifest(NamedTuple):
    """One manifest of an image.

    Args:
        config: None for an artifact or attestation.
        platform: the one that the image is for; None if undeclared.
    """

    manifest: Manifest
    config: ImageConfig | None
    platform: Platform | None

    @property
    def received(self) -> ReceivedManifest:
        """The manifest as received."""
        return ReceivedManifest(self.manifest.raw, self.manifest.media_type, self.manifest.digest)


class PreparedImage(NamedTuple):
    """An image whose documents are all read and checked; only its layers are not fetched yet.

    Args:
        source: gives its blobs.
        listed: what a destination lists: a manifest with its platform, or an index.
        manifests: the chosen ones: one, or several that the index lists; none of a build cache.
        others: all other documents: indexes, innermost first.
        name: of the copy.
        blobs: each once.
        published: digest of the source's own manifest or index; differs from ``listed`` if only a part is taken.
    """

    source: ImageSource
    listed: Descriptor
    manifests: tuple[PreparedManifest, ...]
    others: tuple[ReceivedManifest, ...]
    name: ImageName
    blobs: tuple[BlobToFetch, ...]
    published: Digest

    @property
    def subjects(self) -> tuple[Digest, ...]:
        """The manifests and indexes that signatures and SBOMs may refer to; attestations' manifests are left out."""
        images = [one.manifest.digest for one in self.manifests if one.config is not None or len(self.manifests) == 1]
        return (*images, *(document.digest for document in self.others))

    @property
    def documents(self) -> tuple[ReceivedManifest, ...]:
        """All manifests and indexes, each before those that name it."""
        return (*(one.received for one in self.manifests), *self.others)

    @property
    def main(self) -> PreparedManifest | None:
        """The manifest that represents the image where only one can; None if an index lists no manifest.

        It is the one for the first requested platform, or for this machine if none was requested; else the first image.
        """
        return self.manifests[0] if self.manifests else None


def prepare_image(
    source: ImageSource,
    choice: PlatformChoice | Platform,
    destination: ImageDestination | None,
    progress: Progress,
    documents: DocumentReader | None = None,
    *,
    ahead: int = 0,
) -> PreparedImage:
    """Return the image with its chosen manifests and their configs, read and checked. Nothing is written.

    Args:
        destination: may hold configs already, which are then read there; None for a place that never does.
        documents: a reader of ``source`` that has read some already; None for a new one.
        ahead: how many layers that ``destination`` lacks to request together with the config; they are read later.

    Raises:
        NotFoundError, RegistryError, NoMatchingPlatformError: the image or its platform is not available.
        InvalidImageError: a document breaks the specification or does not match its digest.
        LimitExceededError: the documents are larger in total than those of any honest image.
    """
    if isinstance(choice, Platform):
        choice = PlatformChoice((choice,))
    documents = documents or DocumentReader(source)
    chosen = choose_documents(documents, choice)
    if ahead and len(chosen.manifests) == 1:
        _request_ahead(source, destination, chosen.manifests[0].manifest, ahead)
    manifests = [_prepare_manifest(documents, destination, one, progress) for one in chosen.manifests]
    listed = chosen.listed
    if len(manifests) == 1 and chosen.manifests[0].platform is None:
        alone = manifests[0]
        for platform in choice.platforms:
            verify_platform(source.display_name, alone.manifest, alone.platform, platform, progress)
        if listed.digest == alone.manifest.digest:
            listed = replace(listed, platform=alone.platform)
    blobs = [_blobs_of(source, one, is_alone=len(manifests) == 1) for one in manifests]
    blobs.append(listed_blobs(source, chosen.blobs))
    image = PreparedImage(
        source=source,
        listed=listed,
        manifests=tuple(_with_main_first(manifests, choice)),
        others=chosen.others,
        name=name_of_copy(source.image_name, listed.digest),
        blobs=tuple(unite_blobs(blobs)),
        published=documents.top.digest,
    )
    _tell_choice(image, chosen, progress)
    return image


def _request_ahead(source: object, destination: object, manifest: Manifest, count: int) -> None:
    """Request the layers that are fetched first, so that they don't wait for the config to arrive.

    Nothing of them is read before the config was checked. With the config there, nothing would wait.
    """
    if not isinstance(source, FarSource) or manifest.config.data is not None:
        return
    layers = list({layer.digest: layer for layer in manifest.layers if layer.data is None}.values())
    turn = None
    if destination is not None:
        if not isinstance(destination, ListingStore) or destination.seems_to_have(manifest.config):
            return
        # Another process may be about to request them: who has the turn sees the files of those who had it before.
        turn = destination.take_asking_turn()
        if turn is None:
            return
        layers = [layer for layer in layers if not destination.seems_to_have(layer)]
    source.open_ahead(sorted(layers, key=lambda layer: -layer.size)[:count], turn)


def _prepare_manifest(
    documents: DocumentReader, destination: ImageDestination | None, chosen: ChosenManifest, progress: Progress
) -> PreparedManifest:
    """Return a manifest with its config, and report which was taken."""
    source = documents.source
    manifest = chosen.manifest
    if chosen.attests is not None:
        progress.say(f"{source.display_name}: attestation of {chosen.attests}, manifest {manifest.digest}")
        return PreparedManifest(manifest, None, None)
    config = _read_config(source, destination, manifest, progress)
    if config is not None:
        documents.budget.take(config.raw)
    platform = chosen.platform or (config.declared_platform if config is not None else None)
    shown = f"platform {platform}, " if platform is not None else ""
    progress.say(f"{source.display_name}: {shown}manifest {manifest.digest}")
    return PreparedManifest(manifest, config, platform)


def _blobs_of(source: ImageSource, one: PreparedManifest, *, is_alone: bool) -> list[BlobToFetch]:
    """Return the blobs of one manifest; of several manifests, the platform or digest goes before each blob's label."""
    blobs = blobs_of(source, one.manifest, one.config)
    if is_alone:
        return blobs
    whose = str(one.platform or one.manifest.digest.short)
    return [blob._replace(label=f"{whose}: {blob.label}", title=f"{whose} {blob.title}") for blob in blobs]


def _with_main_first(manifests: Sequence[PreparedManifest], choice: PlatformChoice) -> list[PreparedManifest]:
    """Return the manifests, first the one that represents the image; see `PreparedImage.main`."""
    requested = choice.platforms[0] if choice.platforms else host_platform()

    def order(one: PreparedManifest) -> int:
        if one.config is None:
            return 2
        return 0 if one.platform is not None and fits_platform(one.platform, requested) else 1

    return sorted(manifests, key=order)


def _tell_choice(image: PreparedImage, chosen: ChosenDocuments, progress: Progress) -> None:
    name, digest = image.source.display_name, image.listed.digest
    if is_made(image.source, image.published) and chosen.others:
        progress.say(f"{name}: index {digest} was made of the images with this name")
    elif chosen.made_of is not None:
        progress.say(
            f"{name}: index {digest} was made of the chosen platforms, the published one is {chosen.made_of}; "
            "--sparse keeps that one"
        )
    elif chosen.others:
        what = f", with {counted(len(chosen.blobs), 'blob')} that it lists" if chosen.blobs else ""
        progress.say(f"{name}: index {digest}, as published{what}")


def _read_config(
    source: ImageSource, destination: ImageDestination | None, manifest: Manifest, progress: Progress
) -> ImageConfig | None:
    """Return the config, which has a diff_id for each layer; None for an artifact, which is copied without one.

    A config that the destination already has is read there and not fetched, as docker does.
    """
    name, kind = source.display_name, artifact_kind(manifest)
    if kind is not None:
        progress.say(f"{name}: not an image but an artifact of type {quoted(kind)}")
        if manifest.config.digest == _NO_CONFIG and manifest.config.media_type in mediatypes.IMAGE_CONFIGS:
            progress.warn(f"{name}: {_NO_ROOT_FILESYSTEM}")
        return None
    try:
        is_there = destination is not None and destination.has_blob(manifest.config)
        config = read_config(destination if destination and is_there else source, manifest)
        pair_layers(manifest, config)
    except UnsupportedMediaTypeError:
        progress.warn(f"{name}: {_NO_ROOT_FILESYSTEM}")
        return None
    except InvalidImageError:
        if any(mediatypes.is_layer(layer.media_type) for layer in manifest.layers):
            raise
        # Some tools store other content under an image's types, with a config that is not an image's.
        progress.say(f"{name}: not an image but an artifact of unknown type")
        return None
    return config


def name_of_copy(name: ImageName, digest: Digest) -> ImageName:
    """Return the copy's name; in a name by digest, ``digest`` replaces that of the index that led to the manifest."""
    if name.full is None or "@" not in name.full:
        return name
    return replace(name, full=f"{name.full.partition('@')[0]}@{digest}")
