"""read_present(): an image as far as its documents are there.

`prepare_image` stops at a document that is missing. Here it is listed, since an index may list manifests that were
never copied, and what is missing may come in another bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ociexport.errors import InvalidImageError, NotFoundError, UnsupportedMediaTypeError
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.resolve import DocumentReader, read_config
from ociexport.images.source import ImageSource
from ociexport.images.walk import IndexWalk
from ociexport.images.wanted_blobs import blobs_of, listed_blobs, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.config import ImageConfig, pair_layers
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Index, Manifest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.index import ListedSource


class PresentImage(NamedTuple):
    """An image as far as its documents are there.

    Args:
        image: its documents, and all blobs that they need, there or not.
        absent: documents that an index lists and that are not there.
    """

    image: PreparedImage
    absent: tuple[Digest, ...]


def read_present(source: ImageSource, is_needed: Callable[[Descriptor], bool] = lambda _: True) -> PresentImage:
    """Return an image of some contents with every document that is there.

    Args:
        is_needed: whether the image needs a blob that an index lists as a build cache's does; otherwise it was left
            behind when some of what the index lists was copied.

    Raises:
        NotFoundError: not even its own manifest or index is there.
        InvalidImageError: a document breaks the specification or does not match its digest.
    """
    documents = DocumentReader(source)
    walk = _Present(documents, is_needed)
    top = documents.top
    if isinstance(top, Index):
        walk.take([top])
    else:
        walk.add(top, None)
    blobs = [blobs_of(source, one.manifest, one.config) for one in walk.manifests]
    blobs.append(listed_blobs(source, walk.blobs))
    image = PreparedImage(
        source=source,
        listed=_listed(source, top, walk.manifests),
        manifests=tuple(walk.manifests),
        others=tuple(walk.others),
        name=source.image_name,
        blobs=tuple(unite_blobs(blobs)),
        published=top.digest,
    )
    return PresentImage(image, tuple(walk.absent))


def _listed(source: ImageSource, top: Index | Manifest, manifests: Sequence[PreparedManifest]) -> Descriptor:
    """Return the entry for ``index.json``: the one that is there already, or a new one."""
    if isinstance(source, ListedSource):
        return replace(source.descriptor, media_type=top.media_type, digest=top.digest, size=len(top.raw))
    return replace(top.descriptor, platform=manifests[0].platform if isinstance(top, Manifest) else None)


class _Present(IndexWalk):
    """The manifests that an index leads to and that are there, with their configs, and its blobs."""

    def __init__(self, documents: DocumentReader, is_needed: Callable[[Descriptor], bool]) -> None:
        super().__init__(documents)
        self._is_needed = is_needed
        self.manifests: list[PreparedManifest] = []
        self.blobs: list[Descriptor] = []
        self.absent: list[Digest] = []

    def take_manifest(self, manifest: Manifest, entry: Descriptor) -> None:
        self.add(manifest, entry)

    def take_blob(self, entry: Descriptor) -> None:
        if self._is_needed(entry):
            self.blobs.append(entry)

    def take_missing(self, entry: Descriptor, error: NotFoundError, *, is_known: bool) -> None:
        self.absent.append(entry.digest)

    def add(self, manifest: Manifest, entry: Descriptor | None) -> None:
        """Add a manifest, with its config if it is an image's."""
        config = None if entry is not None and entry.is_attestation else _config_of(self._documents, manifest)
        platform = entry.platform if entry is not None else None
        if platform is None and config is not None:
            platform = config.declared_platform
        self.manifests.append(PreparedManifest(manifest, config, platform))


def _config_of(documents: DocumentReader, manifest: Manifest) -> ImageConfig | None:
    """Return the config; None for an artifact, and for a config that is not there."""
    try:
        config = read_config(documents.source, manifest)
    except (UnsupportedMediaTypeError, NotFoundError):
        return None
    except InvalidImageError:
        if manifest.config.media_type != mediatypes.LEGACY_CONFIG:
            raise
        return None  # as in `prepare_image`: some tools store other content under this type
    documents.budget.take(config.raw)
    pair_layers(manifest, config)
    return config
