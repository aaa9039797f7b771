"""From a source and a choice of platforms to an image of which all is known but the layers' bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError, quoted
from ociexport.images.choose import ChosenDocuments, ChosenManifest, PlatformChoice, choose_documents, verify_fits_all
from ociexport.images.destination import ImageDestination
from ociexport.images.resolve import DocumentReader, artifact_kind, read_config
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest
from ociexport.images.wanted_blobs import BlobToFetch, blobs_of, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.config import ImageConfig, pair_layers
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Manifest
from ociexport.spec.platforms import fits_platform, host_platform, normalize_platform
from ociexport.system.progress.protocol import Progress


class PreparedManifest(NamedTuple):
    """One manifest of an image.

    Args:
        config: None for what is no image that runs: an artifact, an attestation.
        platform: that it is for; None where nothing is said.
    """

    manifest: Manifest
    config: ImageConfig | None
    platform: Platform | None

    @property
    def received(self) -> ReceivedManifest:
        """The manifest as it came."""
        return ReceivedManifest(self.manifest.raw, self.manifest.media_type, self.manifest.digest)


class PreparedImage(NamedTuple):
    """An image of which all is known but the layers' bytes.

    Args:
        source: that its blobs come from.
        listed: of what a destination is to list: a manifest with its platform, or an index.
        manifests: that were chosen; one, or those that the index lists.
        others: documents beside the manifests: indexes, innermost first.
        name: of the copy.
        blobs: each once.
        published: digest of what the source itself names; not of ``listed`` where only a part is taken.
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
        """The manifests and indexes that others may be about: signatures, SBOMs; those of attestations are not."""
        images = [one.manifest.digest for one in self.manifests if one.config is not None or len(self.manifests) == 1]
        return (*images, *(document.digest for document in self.others))

    @property
    def documents(self) -> tuple[ReceivedManifest, ...]:
        """All manifests and indexes, what is named before what names it."""
        return (*(one.received for one in self.manifests), *self.others)

    @property
    def main(self) -> PreparedManifest:
        """The manifest that stands for the image where only one can: the one for this machine, or else the first.

        Of several platforms that were asked for it is the first.
        """
        return self.manifests[0]


def prepare_image(
    source: ImageSource,
    choice: PlatformChoice | Platform,
    destination: ImageDestination | None,
    progress: Progress,
    documents: DocumentReader | None = None,
) -> PreparedImage:
    """Find the manifests that are chosen and read their configs: nothing is written, and a bad image is known as one.

    Args:
        destination: where configs may be already; None for a place that never has one.
        documents: of ``source``, where some were read before.

    Raises:
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: a document breaks the specification or is not what its digest says.
        LimitExceededError: the documents are more together than any honest image has.
    """
    if isinstance(choice, Platform):
        choice = PlatformChoice((choice,))
    documents = documents or DocumentReader(source)
    chosen = choose_documents(documents, choice)
    manifests = [_prepare_manifest(documents, destination, one, progress) for one in chosen.manifests]
    listed = chosen.listed
    if isinstance(documents.top, Manifest):
        offered = manifests[0].platform
        verify_fits_all(documents.top, offered, choice)
        _warn_of_other_platform(source, offered, choice, progress)
        listed = replace(listed, platform=offered)
    blobs = [_blobs_of(source, one, is_alone=len(manifests) == 1) for one in manifests]
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


def _prepare_manifest(
    documents: DocumentReader, destination: ImageDestination | None, chosen: ChosenManifest, progress: Progress
) -> PreparedManifest:
    """Return a manifest with its config, and say which was taken."""
    source = documents.source
    manifest = chosen.manifest
    if chosen.attests is not None:
        progress.say(f"{source.display_name}: attestation of {chosen.attests}, manifest {manifest.digest}")
        return PreparedManifest(manifest, None, None)
    config = _read_config(source, destination, manifest, progress)
    if config is not None:
        documents.budget.take(config.raw)
    platform = chosen.platform or _platform_of(config)
    shown = f"platform {platform}, " if platform is not None else ""
    progress.say(f"{source.display_name}: {shown}manifest {manifest.digest}")
    return PreparedManifest(manifest, config, platform)


def _blobs_of(source: ImageSource, one: PreparedManifest, *, is_alone: bool) -> list[BlobToFetch]:
    """Return the blobs of one manifest; where there are several, its platform or digest tells them apart."""
    blobs = blobs_of(source, one.manifest, one.config)
    if is_alone:
        return blobs
    whose = str(one.platform or one.manifest.digest.short)
    return [blob._replace(label=f"{whose}: {blob.label}", title=f"{whose} {blob.title}") for blob in blobs]


def _with_main_first(manifests: Sequence[PreparedManifest], choice: PlatformChoice) -> list[PreparedManifest]:
    """Return the manifests with the one first that stands for all; see `PreparedImage.main`."""
    wanted = choice.platforms[0] if choice.platforms else host_platform()

    def order(one: PreparedManifest) -> int:
        if one.config is None:
            return 2
        return 0 if one.platform is not None and fits_platform(one.platform, wanted) else 1

    return sorted(manifests, key=order)


def _tell_choice(image: PreparedImage, chosen: ChosenDocuments, progress: Progress) -> None:
    name, digest = image.source.display_name, image.listed.digest
    if chosen.made_of is not None:
        progress.say(
            f"{name}: index {digest} was made of the chosen platforms, the published one is {chosen.made_of}; "
            "--sparse keeps that one"
        )
    elif chosen.others:
        progress.say(f"{name}: index {digest}, as published")


def _read_config(
    source: ImageSource, destination: ImageDestination | None, manifest: Manifest, progress: Progress
) -> ImageConfig | None:
    """Return the config, whose diff_ids are as many as the layers; None for what is no image but can be carried.

    docker's local check: a config that is at the destination is read there, and nothing is fetched for it.
    """
    try:
        is_there = destination is not None and destination.has_blob(manifest.config)
        config = read_config(destination if destination and is_there else source, manifest)
    except UnsupportedMediaTypeError:
        kind = quoted(artifact_kind(manifest))
        progress.say(f"{source.display_name}: no image, but an artifact of type {kind}")
        return None
    except InvalidImageError:
        if manifest.config.media_type != mediatypes.LEGACY_CONFIG or mediatypes.LAYERS & {
            layer.media_type for layer in manifest.layers
        }:
            raise
        # Whoever stores other things than images under this type does not write an image's config.
        progress.say(f"{source.display_name}: no image, but an artifact of unknown type")
        return None
    pair_layers(manifest, config)
    return config


def _platform_of(config: ImageConfig | None) -> Platform | None:
    """Return what the config says that the image is for; None where it says nothing."""
    # cosign's configs have empty texts there.
    if config is None or {"unknown", ""} & {config.platform.os, config.platform.architecture}:
        return None
    return config.platform


def _warn_of_other_platform(
    source: ImageSource, offered: Platform | None, choice: PlatformChoice, progress: Progress
) -> None:
    """Say where an image that has only one platform is for another machine; it may well be wanted so."""
    if offered is None or choice.takes_all:
        return
    there, wanted = normalize_platform(offered), choice.platforms[0]
    if (there.os, there.architecture) != (wanted.os, wanted.architecture):
        progress.warn(f"{source.display_name}: is for {offered} only, not for {wanted}")


def name_of_copy(name: ImageName, digest: Digest) -> ImageName:
    """Return what the copy is called: a name by digest is of the manifest, not of the index that led to it."""
    if name.full is None or "@" not in name.full:
        return name
    return replace(name, full=f"{name.full.partition('@')[0]}@{digest}")
