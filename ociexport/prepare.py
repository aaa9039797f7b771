"""From a source and a platform to an image of which all is known but the layers' bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ociexport import mediatypes
from ociexport.digest import Digest
from ociexport.documents import Descriptor, ImageConfig, Manifest, Platform, pair_layers
from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError, quoted
from ociexport.fetch import BlobToFetch, blobs_of
from ociexport.platforms import normalize_platform
from ociexport.progress import Progress
from ociexport.resolve import read_config, resolve_manifest
from ociexport.sources import ImageDestination, ImageName, ImageSource, ReceivedManifest


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image of which all is known but the layers' bytes.

    Args:
        source: that its blobs come from.
        manifest: of the platform that was chosen.
        config: None for what is no image.
        platform: that it is for; None where nothing is said.
        name: of the copy.
        blobs: each once.
    """

    source: ImageSource
    manifest: Manifest
    config: ImageConfig | None
    platform: Platform | None
    name: ImageName
    blobs: tuple[BlobToFetch, ...]

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest, with its platform."""
        return replace(self.manifest.descriptor, platform=self.platform)

    @property
    def received_manifest(self) -> ReceivedManifest:
        """The manifest as it came."""
        return ReceivedManifest(self.manifest.raw, self.manifest.media_type, self.manifest.digest)


def prepare_image(
    source: ImageSource, platform: Platform, destination: ImageDestination | None, progress: Progress
) -> PreparedImage:
    """Find the manifest for ``platform`` and read the config: nothing is written, and a bad image is known as one.

    Args:
        destination: where the config may be already; None for a place that never has one.

    Raises:
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: a document breaks the specification or is not what its digest says.
    """
    resolved = resolve_manifest(source, platform)
    manifest = resolved.manifest
    config = _read_config(source, destination, manifest, progress)
    offered = resolved.platform or _platform_of(config)
    if not resolved.indexes:
        _warn_of_other_platform(source, offered, platform, progress)
    shown = f"platform {offered}, " if offered is not None else ""
    progress.say(f"{source.display_name}: {shown}manifest {manifest.digest}")
    return PreparedImage(
        source=source,
        manifest=manifest,
        config=config,
        platform=offered,
        name=_name_of_copy(source.image_name, manifest.digest),
        blobs=tuple(blobs_of(source, manifest, config)),
    )


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
        kind = manifest.artifact_type or manifest.config.media_type
        progress.say(f"{source.display_name}: no image, but an artifact of type {quoted(kind)}")
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
    if config is None or "unknown" in (config.platform.os, config.platform.architecture):
        return None
    return config.platform


def _warn_of_other_platform(
    source: ImageSource, offered: Platform | None, wanted: Platform, progress: Progress
) -> None:
    """Say where an image that has only one platform is for another machine; it may well be wanted so."""
    if offered is None:
        return
    there = normalize_platform(offered)
    if (there.os, there.architecture) != (wanted.os, wanted.architecture):
        progress.warn(f"{source.display_name}: is for {offered} only, not for {wanted}")


def _name_of_copy(name: ImageName, digest: Digest) -> ImageName:
    """Return what the copy is called: a name by digest is of the manifest, not of the index that led to it."""
    if name.full is None or "@" not in name.full:
        return name
    return replace(name, full=f"{name.full.partition('@')[0]}@{digest}")
