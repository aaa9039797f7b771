"""Resolving a source and a platform to one image: reference → index → platform → manifest → config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NoMatchingPlatformError,
    NotFoundError,
    OciexportError,
    SignatureError,
    SizeMismatchError,
    UnsupportedMediaTypeError,
    counted,
    locating,
    quoted,
)
from ociexport.images.budget import DocumentBudget
from ociexport.images.source import BlobOpener, ImageSource, ReceivedManifest, is_worth_another_try, shared_name
from ociexport.spec import mediatypes
from ociexport.spec.config import MAX_CONFIG_BYTES, ImageConfig, Layer, pair_layers, parse_config
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor, Platform
from ociexport.spec.digest import Digest, VerifyingReader
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.platforms import contradicts, select_manifest, verify_not_contradicted
from ociexport.system.progress.protocol import Progress

# Indexes may hold indexes. No honest image nests more than two; digests exclude a cycle but not a long chain.
MAX_INDEX_DEPTH = 5


class ResolvedManifest(NamedTuple):
    """The chosen manifest, and the indexes that led to it.

    Args:
        indexes: outermost first.
        entries: the entry taken from each index.
        platform: the one that the last index declares for the manifest; None without an index or a declaration.
    """

    manifest: Manifest
    indexes: tuple[Index, ...]
    entries: tuple[Descriptor, ...]
    platform: Platform | None


class DocumentReader:
    """Reads the manifests and indexes of one source, each once, within the limits of a `DocumentBudget`.

    Args:
        source: the caller closes it.
        top: the source's own manifest or index, if it is already fetched and counted.
        budget: counts everything that is read; None for a new one.
    """

    def __init__(
        self, source: ImageSource, top: ReceivedManifest | None = None, budget: DocumentBudget | None = None
    ) -> None:
        self.source = source
        self.budget = budget or DocumentBudget(source.display_name)
        self._received = top
        self._known: dict[Digest, Index | Manifest] = {}
        self._top: Index | Manifest | None = None
        self._judged: dict[Digest, tuple[Platform, ...]] = {}

    @property
    def top(self) -> Index | Manifest:
        """The source's own manifest or index."""
        if self._top is None:
            received = self._received
            if received is None:
                received = self.source.fetch_manifest()
                self.budget.take(received.raw)
            self._top = parse_document(received.raw, received.media_type, received.digest)
            self._known[self._top.digest] = self._top
        return self._top

    def read_entry(self, index: Index, entry: Descriptor) -> Index | Manifest:
        """Return the document that ``entry`` of ``index`` names."""
        if entry.digest not in self._known:
            received = self.fetch_entry(index, entry)
            self._known[entry.digest] = parse_document(received.raw, received.media_type, received.digest)
        return self._known[entry.digest]

    def select(self, index: Index, wanted: Platform) -> Descriptor:
        """Return the entry of ``index`` that runs best on ``wanted``; see `select_manifest`.

        Entries without a platform are judged by the configs of their images, all of them, before one is refused.

        Raises:
            as `select_manifest` does; NotFoundError, InvalidImageError: no entry can be judged.
            UsageError: ``index`` was made of the images under one name, and several of them fit equally.
        """
        shared = shared_name(self.source)
        if shared is not None and shared.descriptor.digest == index.digest:
            shared.verify_is_one(wanted)
        judge = _ConfigJudge(self, index, self._judged)
        try:
            return select_manifest(index, wanted, judge.platforms_of)
        except NoMatchingPlatformError as error:
            if (better := judge.error_for(error)) is not error:
                raise better from error
            raise

    def fetch_entry(self, index: Index, entry: Descriptor) -> ReceivedManifest:
        """Return the document that ``entry`` of ``index`` names as received, of any type."""
        received = fetch_entry(self.source, index, entry)
        self.budget.take(received.raw)
        return received


class _ConfigJudge:
    """Finds the platforms that entries without a declaration are for.

    Args:
        judged: the platforms of the entries that were judged before; others are added.
    """

    def __init__(self, documents: DocumentReader, index: Index, judged: dict[Digest, tuple[Platform, ...]]) -> None:
        self._documents = documents
        self._index = index
        self._judged = judged
        self._kinds: dict[str, None] = {}
        self._unreadable: list[NotFoundError | InvalidImageError | SignatureError] = []

    def platforms_of(self, entry: Descriptor) -> tuple[Platform, ...]:
        """Return the platform that the config of the entry's image declares; of a nested index, those of its images."""
        return self._platforms_of(self._index, entry, 1)

    def _platforms_of(self, index: Index, entry: Descriptor, depth: int) -> tuple[Platform, ...]:
        if entry.platform is not None:
            return (entry.platform,)
        if entry.is_attestation or depth > MAX_INDEX_DEPTH:
            return ()
        if entry.digest not in self._judged:
            self._judged[entry.digest] = ()
            try:
                self._judged[entry.digest] = self._judge(index, entry, depth)
            except NotFoundError as error:
                self._documents.budget.take(b"")
                self._unreadable.append(error)
            except (InvalidImageError, SignatureError) as error:
                self._unreadable.append(error)
        return self._judged[entry.digest]

    def _judge(self, index: Index, entry: Descriptor, depth: int) -> tuple[Platform, ...]:
        document = self._documents.read_entry(index, entry)
        if isinstance(document, Index):
            found = [self._platforms_of(document, child, depth + 1) for child in document.manifests]
            return tuple(platform for some in found for platform in some)
        kind = artifact_kind(document)
        if kind is not None:
            self._kinds[kind] = None
            return ()
        config = read_config(self._documents.source, document)
        self._documents.budget.take(config.raw)
        return (config.declared_platform,) if config.declared_platform is not None else ()

    def error_for(self, error: NoMatchingPlatformError) -> OciexportError:
        """Return the error that says why no entry was selected."""
        if any(self._judged.values()) or any(entry.platform for entry in self._index.manifests):
            if not self._unreadable:
                return error
            count, first = len(self._unreadable), self._unreadable[0]
            return NoMatchingPlatformError(f"{error}; {count} more can't be read: {first}", hint=error.hint)
        if self._unreadable:
            return self._unreadable[0]
        if self._kinds:
            kinds = ", ".join(map(quoted, self._kinds))
            return UnsupportedMediaTypeError(
                f"holds no image, but artifacts of type {kinds}", where=f"manifest {self._index.digest}"
            )
        return error


def resolve_manifest(source: ImageSource | DocumentReader, platform: Platform) -> ResolvedManifest:
    """Return the manifest in ``source`` that runs on ``platform``; without an index, the only one is not checked.

    Raises:
        NoMatchingPlatformError: lists the available platforms.
        InvalidImageError: a document breaks the specification.
        NotFoundError, RegistryError: the source does not return a document.
    """
    documents = source if isinstance(source, DocumentReader) else DocumentReader(source)
    indexes: list[Index] = []
    entries: list[Descriptor] = []
    document = documents.top
    while isinstance(document, Index):
        verify_index_depth(indexes)
        indexes.append(document)
        entries.append(documents.select(document, platform))
        document = documents.read_entry(document, entries[-1])
    return ResolvedManifest(document, tuple(indexes), tuple(entries), entries[-1].platform if entries else None)


def verify_index_depth(indexes: Sequence[Index]) -> None:
    """Return if another index may be nested within ``indexes``, outermost first.

    Raises:
        LimitExceededError: no honest image nests so many.
    """
    if len(indexes) == MAX_INDEX_DEPTH:
        raise LimitExceededError(
            f"indexes within indexes: expected at most {MAX_INDEX_DEPTH}", where=f"manifest {indexes[0].digest}"
        )


def fetch_entry(source: ImageSource, index: Index, entry: Descriptor) -> ReceivedManifest:
    """Return the document that ``entry`` of ``index`` names; its media type is the entry's, if that declares one.

    A source that converts the published image may return another document, with another digest.
    """
    with locating(f"manifest {index.digest}"):
        received = source.fetch_manifest(entry)
    if received.digest != entry.digest:
        return received  # converted: the entry does not describe it
    return ReceivedManifest(received.raw, entry.media_type or received.media_type, received.digest)


def verify_is_as_listed(digest: Digest, entry: Descriptor, index: Index) -> None:
    """Return if the document with ``digest`` is the one that ``entry`` of ``index`` names, not a conversion of it.

    Raises:
        UnsupportedMediaTypeError: it is a conversion.
    """
    if digest != entry.digest:
        raise schema1_error(entry, index)


def schema1_error(entry: Descriptor, index: Index) -> UnsupportedMediaTypeError:
    """Return the error for an entry that names a manifest of Docker's schema 1."""
    return UnsupportedMediaTypeError(
        f"expected image manifests, got a Docker schema 1 manifest, {entry.digest}, which an OCI index can't list",
        where=f"manifest {index.digest}",
        hint="--platform with one platform takes that manifest alone and converts it",
    )


def read_config(source: BlobOpener, manifest: Manifest) -> ImageConfig:
    """Return the image config of ``manifest``, verified.

    Raises:
        UnsupportedMediaTypeError: the manifest is an artifact's, not an image's.
        DigestMismatchError, SizeMismatchError, InvalidImageError: the config is wrong or breaks the specification.
    """
    verify_is_image(source, manifest)
    return parse_config(read_raw_config(source, manifest), manifest.config.digest)


def read_raw_config(source: BlobOpener, manifest: Manifest) -> bytes:
    """Return the config's bytes as stored, verified; the config may be an artifact's.

    Raises:
        DigestMismatchError, SizeMismatchError: it does not match the manifest.
    """
    descriptor = manifest.config
    if descriptor.data is not None:
        return descriptor.data
    with locating(f"manifest {manifest.digest}"):
        return read_small_blob(source, descriptor, MAX_CONFIG_BYTES, f"config {descriptor.digest}")


def verify_is_image(source: BlobOpener, manifest: Manifest) -> None:
    """Return if ``manifest`` is an image's, which has a root filesystem.

    Media types of layers decide only where the first layer's content agrees. Nothing of that layer is verified here.

    Raises:
        UnsupportedMediaTypeError: it is an artifact's: a helm chart, a signature, an SBOM.
    """
    kind = artifact_kind(manifest)
    if kind is not None and not has_layers_after_all(source, manifest):
        raise UnsupportedMediaTypeError(
            f"expected an image, got an artifact of type {quoted(kind)}", where=f"manifest {manifest.digest}"
        )


def artifact_kind(manifest: Manifest) -> str | None:
    """Return the type of the artifact that ``manifest`` says it describes; None for an image.

    The config's type decides first, then the layers'. Types of layers that say nothing make no artifact of an image:
    its config is read next, and the diff_ids in it prove the layers.
    """
    if not _has_image_config(manifest):
        return manifest.artifact_type or manifest.config.media_type
    types = [layer.media_type for layer in manifest.layers]
    if types and all(map(mediatypes.is_other_content, types)):
        # Signatures, provenance and wasm modules may have an image's config, so its type proves nothing.
        return manifest.artifact_type or types[0]
    if types and not any(map(mediatypes.may_be_tar, types)):
        return manifest.artifact_type
    return None


def _has_image_config(manifest: Manifest) -> bool:
    return not manifest.config.media_type or manifest.config.media_type in mediatypes.IMAGE_CONFIGS


def has_layers_after_all(source: BlobOpener, manifest: Manifest) -> bool:
    """Whether a manifest with an image's config, called an artifact by `artifact_kind`, begins with a tar."""
    from ociexport.system.compression import read_layer  # noqa: PLC0415 - start-up: few manifests are doubtful

    if not _has_image_config(manifest) or not manifest.layers:
        return False
    with closing(source.open_blob(manifest.layers[0])) as blob:
        try:
            next(read_layer(blob), b"")
        except InvalidImageError:
            return False
    return True


def read_layers(
    source: ImageSource, resolved: ResolvedManifest, wanted: Platform, progress: Progress
) -> tuple[ImageConfig, tuple[Layer, ...]]:
    """Return the config of the manifest that was resolved for ``wanted``, and its layers with their diff_ids.

    Raises:
        NoMatchingPlatformError: as `verify_platform` does, if no index declares the manifest's platform.
    """
    manifest = resolved.manifest
    config = read_config(source, manifest)
    if resolved.platform is None:
        verify_platform(source.display_name, manifest, config.declared_platform, wanted, progress)
    return config, pair_layers(manifest, config)


def verify_platform(
    name: str, manifest: Manifest, offered: Platform | None, wanted: Platform, progress: Progress
) -> None:
    """Return if the image ``name``, whose platform no index declares, may be used for ``wanted``.

    Only a warning follows if the image is for another machine than this one and no platform was requested: the user
    may intend it.

    Args:
        offered: the platform that the config declares; None if it declares none.

    Raises:
        NoMatchingPlatformError: ``wanted`` was requested, and the image is for another platform.
    """
    verify_not_contradicted(offered, wanted, f"manifest {manifest.digest}")
    if contradicts(offered, wanted):
        progress.warn(f"{name}: is for {offered} only, not for {wanted}")


def verify_requested(source: ImageSource, resolved: ResolvedManifest, wanted: Platform) -> None:
    """Return if the resolved image is for ``wanted``. Its config is read only if that decides it.

    Raises:
        NoMatchingPlatformError: as `verify_platform` does.
    """
    manifest = resolved.manifest
    if resolved.platform is None and not wanted.is_default and artifact_kind(manifest) is None:
        config = read_config(source, manifest)
        verify_not_contradicted(config.declared_platform, wanted, f"manifest {manifest.digest}")


def read_small_blob(source: BlobOpener, descriptor: Descriptor, max_bytes: int, subject: str) -> bytes:
    """Return a whole blob, verified; for small documents, which are read into memory.

    Wrong bytes from a registry are fetched once more.

    Raises:
        LimitExceededError: its declared size exceeds ``max_bytes``.
        DigestMismatchError, SizeMismatchError: it does not match ``descriptor``.
    """
    if descriptor.size > max_bytes:
        raise LimitExceededError(f"expected at most {counted(max_bytes, 'byte')}, got {descriptor.size}", where=subject)
    try:
        return _read_blob(source, descriptor, subject)
    except (DigestMismatchError, SizeMismatchError) as error:
        if not is_worth_another_try(source, error):
            raise
        return _read_blob(source, descriptor, subject)


def _read_blob(source: BlobOpener, descriptor: Descriptor, subject: str) -> bytes:
    with VerifyingReader(source.open_blob(descriptor), descriptor.digest, descriptor.size, subject=subject) as reader:
        chunks = []
        while chunk := reader.read(descriptor.size + 1):
            chunks.append(chunk)
    return b"".join(chunks)


def verify_manifest_size(size: int, where: str) -> None:
    """Return if a manifest of ``size`` bytes may be read into memory.

    Raises:
        LimitExceededError: it is larger than any honest manifest.
    """
    if size > MAX_MANIFEST_BYTES:
        raise LimitExceededError(f"manifest: expected at most {MAX_MANIFEST_BYTES} bytes, got {size}", where=where)
