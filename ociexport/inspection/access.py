"""Opening an image for inspection: one platform's manifest, its layers, and the build steps that made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ociexport.images.resolve import read_layers, resolve_manifest
from ociexport.images.source import BlobOpener, ImageSource
from ociexport.inspection.inspect import history_of, pair_history
from ociexport.layers.limits import Limits
from ociexport.spec.config import HistoryEntry, Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.platforms import host_platform
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.open import open_source

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class Access:
    """How an image is found and read.

    Args:
        platform: selects the manifest of a multi-platform image; None for this machine's platform.
        progress: receives which layer is being read.
        registry: how registries are reached, for an image given by name.
        signatures: the signatures that the image must have.
        limits: how large the image may be.
    """

    platform: Platform | None = None
    progress: Progress = SILENT
    registry: RegistryOptions | None = None
    signatures: SignaturePolicy | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class OriginLayer:
    """A layer, and the build step that made it.

    Args:
        step: None if the image's history does not match its layers.
    """

    layer: Layer
    step: HistoryEntry | None


@dataclass(frozen=True, slots=True)
class Subject:
    """An image whose layers can be read.

    Args:
        source: opens the layers.
        origins: the layers, lowest first.
    """

    source: BlobOpener
    origins: tuple[OriginLayer, ...]
    access: Access

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        return tuple(origin.layer for origin in self.origins)


def identity_of(layer: Layer) -> tuple[Digest, Digest]:
    """Return what two layers have in common if they are the same: both digests, since each is verified."""
    return layer.descriptor.digest, layer.diff_id


@contextmanager
def opened(image: str | ImageSource, access: Access | None) -> Iterator[Subject]:
    """Open an image and read its documents; no layer is read yet.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.

    Raises:
        NotFoundError, RegistryError, NoMatchingPlatformError: the image does not exist or can't be fetched.
        InvalidImageError: a document breaks the specification.
        SignatureError: a required signature is missing or invalid.
    """
    access = access or Access()
    if not isinstance(image, str):
        yield _subject_of(image, access)
        return
    with closing(open_source(image, options=access.registry, progress=access.progress)) as source:
        yield _subject_of(source, access)


def _subject_of(source: ImageSource, access: Access) -> Subject:
    if access.signatures is not None:
        from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: few ask for signatures

        source = require_signature(source, access.signatures)
    platform = access.platform or host_platform()
    config, layers = read_layers(source, resolve_manifest(source, platform), platform, access.progress)
    history = pair_history(config.history, len(layers))
    return Subject(source, tuple(OriginLayer(layer, history_of(history, layer.number)) for layer in layers), access)
