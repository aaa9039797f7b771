"""read_present(): an image as far as its documents are there.

`prepare_image` stops at a document that is missing. Here it is listed, since an index may list manifests that were
never copied, and what is missing may come in another bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ociexport.errors import InvalidImageError, LimitExceededError, NotFoundError, UnsupportedMediaTypeError
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.resolve import DocumentReader, read_config, verify_index_depth
from ociexport.images.source import ImageSource, ReceivedManifest
from ociexport.images.wanted_blobs import blobs_of, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.config import ImageConfig, pair_layers
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Index, Manifest
from ociexport.storage.index import ListedSource

# As in `images.choose`: no honest image has a tenth of that.
_MAX_MANIFESTS = 2048


class PresentImage(NamedTuple):
    """An image as far as its documents are there.

    Args:
        image: its documents, and all blobs that they need, there or not.
        absent: documents that an index lists and that are not there.
    """

    image: PreparedImage
    absent: tuple[Digest, ...]


def read_present(source: ImageSource) -> PresentImage:
    """Return an image of some contents with every document that is there.

    Raises:
        NotFoundError: not even its own manifest or index is there.
        InvalidImageError: a document breaks the specification or does not match its digest.
    """
    documents = DocumentReader(source)
    walk = _Walk(documents)
    top = documents.top
    if isinstance(top, Index):
        walk.take([top])
    else:
        walk.add(top, None)
    blobs = [blobs_of(source, one.manifest, one.config) for one in walk.manifests]
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


class _Walk:
    """Collects the documents that an index leads to, each once, and each before those that name it."""

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents
        self._seen: set[Digest] = set()
        self.manifests: list[PreparedManifest] = []
        self.others: list[ReceivedManifest] = []
        self.absent: list[Digest] = []

    def take(self, path: Sequence[Index]) -> None:
        """Take the last index of ``path`` and every document that it leads to."""
        verify_index_depth(path[:-1])
        index = path[-1]
        for entry in index.manifests:
            if entry.digest in self._seen:
                continue
            self._seen.add(entry.digest)
            if len(self._seen) > _MAX_MANIFESTS:
                raise LimitExceededError(
                    f"expected at most {_MAX_MANIFESTS} manifests", where=f"index {path[0].digest}"
                )
            try:
                self._take_entry(path, entry)
            except NotFoundError:
                self.absent.append(entry.digest)
        self.others.append(ReceivedManifest(index.raw, index.media_type, index.digest))

    def _take_entry(self, path: Sequence[Index], entry: Descriptor) -> None:
        if entry.media_type and entry.media_type not in mediatypes.INDEXES | mediatypes.MANIFESTS:
            self.others.append(self._documents.fetch_entry(path[-1], entry))
            return
        document = self._documents.read_entry(path[-1], entry)
        if isinstance(document, Index):
            self.take([*path, document])
        else:
            self.add(document, entry)

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
