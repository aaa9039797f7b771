"""IndexWalk: every document that an index leads to, each once, and each before those that name it.

`Everything` is the walk of ``--all``; ociexport.transfer.bundle.present has another, for what may be there in part.

Spec: image-spec 1.1 image-index.md, "manifests": an entry of unknown media type is no error.
"""

from __future__ import annotations

from collections.abc import Sequence

from ociexport.errors import LimitExceededError, NotFoundError
from ociexport.images.resolve import DocumentReader, schema1_error, verify_index_depth, verify_is_as_listed
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest

# An index of 4 MiB has room for twenty thousand entries; no honest one lists a tenth of that.
_MAX_MANIFESTS = 2048


class IndexWalk:
    """Collects the documents that an index leads to; a subclass says what a manifest, a blob and a gap become.

    Attributes:
        others: the indexes, innermost first, and documents of unknown type, byte for byte.
    """

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents
        self._seen: set[Digest] = set()
        self.others: list[ReceivedManifest] = []

    def take(self, path: Sequence[Index]) -> None:
        """Take the last index of ``path``, outermost first, and every document that it leads to."""
        verify_index_depth(path[:-1])
        index = path[-1]
        for entry in index.manifests:
            if entry.digest in self._seen:
                continue
            self._seen.add(entry.digest)
            if len(self._seen) > _MAX_MANIFESTS:
                raise LimitExceededError(
                    f"expected at most {_MAX_MANIFESTS} manifests", where=f"manifest {path[0].digest}"
                )
            self.take_entry(path, entry)
        self.others.append(ReceivedManifest(index.raw, index.media_type, index.digest))

    def take_entry(self, path: Sequence[Index], entry: Descriptor) -> None:
        """Take what an entry of the last index of ``path`` names."""
        is_known = not entry.media_type or entry.media_type in mediatypes.INDEXES | mediatypes.MANIFESTS
        if not is_known and _is_blob(entry):
            self.take_blob(entry)
            return
        try:
            if not is_known:
                # What a document of unknown type refers to is unknown too.
                self.others.append(self._documents.fetch_entry(path[-1], entry))
                return
            document = self._documents.read_entry(path[-1], entry)
        except NotFoundError as error:
            self.take_missing(entry, error, is_known=is_known)
            return
        verify_is_as_listed(document.digest, entry, path[-1])
        if isinstance(document, Index):
            self.take([*path, document])
        else:
            self.take_manifest(document, entry)

    def take_manifest(self, manifest: Manifest, entry: Descriptor) -> None:
        """Take a manifest that ``entry`` names."""
        raise NotImplementedError

    def take_blob(self, entry: Descriptor) -> None:
        """Take an entry that can't be a document: a layer of a build cache, or what is larger than any document."""
        raise NotImplementedError

    def take_missing(self, entry: Descriptor, error: NotFoundError, *, is_known: bool) -> None:
        """Take an entry whose document the source does not have; ``is_known`` is whether its type is a document's."""
        raise NotImplementedError


class Everything(IndexWalk):
    """Every manifest that an index leads to, with its entry, and every blob; all of them must be there."""

    def __init__(self, documents: DocumentReader) -> None:
        super().__init__(documents)
        self.manifests: list[tuple[Manifest, Descriptor]] = []
        self.blobs: list[Descriptor] = []

    def take_entry(self, path: Sequence[Index], entry: Descriptor) -> None:
        if entry.media_type in mediatypes.SCHEMA1_MANIFESTS:
            raise schema1_error(entry, path[-1])
        super().take_entry(path, entry)

    def take_manifest(self, manifest: Manifest, entry: Descriptor) -> None:
        self.manifests.append((manifest, entry))

    def take_blob(self, entry: Descriptor) -> None:
        self.blobs.append(entry)

    def take_missing(self, entry: Descriptor, error: NotFoundError, *, is_known: bool) -> None:
        if is_known:
            error.hint = "the index lists a manifest that the source lacks; --platform takes one that it has"
            raise error
        self._documents.budget.take(b"")
        self.take_blob(entry)  # pushed as a blob


def _is_blob(entry: Descriptor) -> bool:
    """Whether an entry of unknown type can't be a document, which a registry serves as a manifest."""
    is_of_cache = mediatypes.is_layer(entry.media_type) or entry.media_type in mediatypes.CACHE_CONFIGS
    return is_of_cache or entry.size > MAX_MANIFEST_BYTES
