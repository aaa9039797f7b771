"""What every way of unpacking begins and ends with: the image chosen for a platform, and what a result tells of it."""

from __future__ import annotations

from ociexport.errors import counted
from ociexport.images.held_documents import open_first_ahead
from ociexport.images.resolve import read_layers, resolve_manifest
from ociexport.images.source import ImageSource, is_made
from ociexport.layers.losses import Losses
from ociexport.spec.config import ImageConfig, Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.progress.protocol import Progress


class ChosenImage(NamedTuple):
    """An image whose layers are to be read. The first members of an `ImageResult` are these, in the same order.

    Args:
        index_digests: of the indexes that led to the manifest, outermost first.
        manifest_digest: of the platform's manifest.
        config: of the image; its digest is a good seed for identifiers.
        layers: with their diff_ids, lowest first.
    """

    index_digests: tuple[Digest, ...]
    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[Layer, ...]


def choose_image(
    source: ImageSource, platform: Platform, progress: Progress, *, reads_first_layer: bool = True, times: str = ""
) -> ChosenImage:
    """Return the image in ``source`` that runs on ``platform``, and report which one it is; no layer is read.

    Args:
        reads_first_layer: whether the first layer is certainly read next. It is then requested beside the config.
        times: in words, how often the layers are read, for the report.

    Raises:
        NoMatchingPlatformError: lists the available platforms.
        InvalidImageError: a document breaks the specification.
        NotFoundError, RegistryError: the source does not return a document.
    """
    resolved = resolve_manifest(source, platform)
    if reads_first_layer:
        open_first_ahead(source, resolved.manifest)
    config, layers = read_layers(source, resolved, platform, progress)
    words = (f"platform {config.declared_platform or 'not declared'}", counted(len(layers), "layer"), times)
    progress.say(f"{source.display_name}: {', '.join(filter(None, words))}")
    index_digests = tuple(index.digest for index in resolved.indexes if not is_made(source, index.digest))
    return ChosenImage(index_digests, resolved.manifest.digest, config, layers)


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What the result of applying all layers of an image tells, whatever was made of it.

    Args:
        index_digests: of the indexes that led to the manifest, outermost first.
        manifest_digest: of the platform's manifest.
        config: of the image.
        layers: with their diff_ids, lowest first.
        entries: number in all layers, whiteouts included.
        tar_bytes: of all layers, uncompressed.
        losses: counts of what was left out.
    """

    index_digests: tuple[Digest, ...]
    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[Layer, ...]
    entries: int
    tar_bytes: int
    losses: Losses
