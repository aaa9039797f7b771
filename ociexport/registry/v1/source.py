"""An image in a registry of Docker's first protocol, as an OCI image; a source.

The layers are first fetched into temporary files, because only their bytes give their digests. The same image in
Docker's schema 1 gives the same result.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from io import BytesIO, FileIO
from typing import TYPE_CHECKING

from ociexport.errors import DigestMismatchError, NotFoundError, SizeMismatchError, UsageError, counted, locating
from ociexport.images.destination import BlobWriter
from ociexport.images.fetch import BlobFetch
from ociexport.images.make_manifest import compute_diff_id, layer_type_of, make_manifest
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.registry.client import RegistryClient
from ociexport.registry.v1.repository import V1Layer, V1Repository, find_repository
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Chunk, Digest
from ociexport.spec.docker_v1 import config_from_v1
from ociexport.spec.reference import ImageReference
from ociexport.system.compression import MAGIC_BYTES
from ociexport.system.progress.protocol import Progress
from ociexport.system.temporary_files import make_temporary_directory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_JOBS = 4


class V1Source:
    """One image in a registry that speaks Docker's first protocol; an `ImageSource`.

    Args:
        reference: of the image, by tag.
        client: closed with the source where ``owns_client``.
        progress: receives a line about the conversion.

    Raises:
        UsageError: the reference has a digest, which this protocol does not support.
    """

    def __init__(
        self, reference: ImageReference, client: RegistryClient, progress: Progress, *, owns_client: bool
    ) -> None:
        if reference.digest is not None:
            raise UsageError(
                f"{reference}: expected a tag, got a digest, which Docker's registry protocol v1 does not support",
                hint="without --v1 the current registry protocol is used",
            )
        self.reference = reference
        self._client = client
        self._progress = progress
        self._owns_client = owns_client
        self._lock = threading.Lock()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._manifest: ReceivedManifest | None = None
        self._config = b""
        self._files: dict[Digest, str] = {}
        self._served_by: dict[Digest, str] = {}

    @property
    def display_name(self) -> str:
        """The reference in full."""
        return str(self.reference)

    @property
    def image_name(self) -> ImageName:
        """The tag, and the full name with the tag."""
        return ImageName(self.reference.tag, f"{self.reference.name}:{self.reference.tag}")

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """The host that provided the image, by the digest of the manifest that was made."""
        return dict(self._served_by)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest made from the image; the first call fetches the layers.

        Raises:
            RegistryNotFoundError: there is no such image.
            DigestMismatchError: a layer does not match the registry's checksum.
            InvalidImageError: the image's documents contradict each other.
        """
        with self._lock:
            if self._manifest is None:
                self._manifest = self._make()
        if descriptor is not None and descriptor.digest != self._manifest.digest:
            raise NotFoundError(f"{self.display_name}: manifest {descriptor.digest}: not there")
        return self._manifest

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return a stream of the config or a layer, from ``offset`` on; the caller verifies and closes it."""
        if self._manifest is not None and descriptor.digest == Digest.of(self._config):
            return BytesIO(self._config[offset:])
        path = self._files.get(descriptor.digest)
        if path is None:
            raise NotFoundError(f"{self.display_name}: blob {descriptor.digest}: not there")
        file = FileIO(path)
        file.seek(offset)
        return file

    def close(self) -> None:
        """Remove the layers, and close the connections unless other sources use them too."""
        if self._directory is not None:
            self._directory.cleanup()
        if self._owns_client:
            self._client.close()

    def _make(self) -> ReceivedManifest:
        repository = find_repository(self._client, self.reference)
        image_id = repository.find_tag(self.reference.tag or "latest")
        layers = repository.read_layers(image_id)
        self._directory = make_temporary_directory()
        self._progress.say(f"{self.display_name}: layers are kept in {self._directory.name} until they are used")
        store = _LayerStore(self._directory.name, {_key(layer): layer for layer in layers})
        opener = _LayerOpener(repository, store.layers)
        fetch = BlobFetch(store, self._progress)
        fetch.run([_to_fetch(opener, layers, number) for number in range(len(layers))], _JOBS)
        descriptors, diff_ids = [], []
        for number, layer in enumerate(layers, start=1):
            with locating(f"layer {number} of {len(layers)} ({layer.id[:12]})"):
                descriptor, diff_id = _described(*store.found[_key(layer)])
            self._files[descriptor.digest] = store.found[_key(layer)][1]
            descriptors.append(descriptor)
            diff_ids.append(diff_id)
        self._config = config_from_v1([layer.document for layer in layers], diff_ids)
        config = Descriptor(mediatypes.OCI_CONFIG, Digest.of(self._config), len(self._config))
        made = make_manifest(config, descriptors)
        self._served_by[made.digest] = repository.host
        proven = sum(bool(layer.checksums) for layer in layers)
        self._progress.say(
            f"{self.display_name}: an image of Docker's registry protocol v1, which was converted to OCI: asked for "
            f"{image_id}, made {made.digest}; {proven} of {counted(len(layers), 'layer')} had checksums to compare with"
        )
        return made


def _key(layer: V1Layer) -> Digest:
    """Return a placeholder for a layer's digest until that is known: the layer's ID, which has the same length."""
    return Digest("sha256", layer.id)


def _to_fetch(opener: _LayerOpener, layers: list[V1Layer], number: int) -> BlobToFetch:
    layer = layers[number]
    return BlobToFetch(
        opener,
        Descriptor("", _key(layer), layer.size),
        f"layer {number + 1} of {len(layers)} ({layer.id[:12]})",
        f"layer {number + 1}/{len(layers)} {layer.id[:12]}",
        None,
    )


def _described(digest: Digest, path: str, size: int) -> tuple[Descriptor, Digest]:
    """Return a layer's descriptor and its diff_id."""
    with closing(FileIO(path)) as file:
        media_type = layer_type_of(file.read(MAGIC_BYTES))
        file.seek(0)
        return Descriptor(media_type, digest, size), compute_diff_id(file, size)


class _LayerOpener:
    """Opens layers by their placeholder digests; a `BlobOpener`."""

    def __init__(self, repository: V1Repository, layers: Mapping[Digest, V1Layer]) -> None:
        self._repository = repository
        self._layers = layers

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        return self._repository.open_layer(self._layers[descriptor.digest], offset)


class _LayerStore:
    """Stores layers whose digests are not known yet; a `BlobStore`.

    Attributes:
        layers: by placeholder digest.
        found: digest, file and size of each stored layer, by placeholder digest.
    """

    def __init__(self, directory: str, layers: Mapping[Digest, V1Layer]) -> None:
        self.directory = directory
        self.layers = layers
        self.found: dict[Digest, tuple[Digest, str, int]] = {}

    def has_blob(self, descriptor: Descriptor) -> bool:
        return False

    def new_blob(self, descriptor: Descriptor) -> AbstractContextManager[BlobWriter]:
        return _LayerWriter(self, descriptor.digest)


class _LayerWriter:
    """Writes one layer, and compares it with its checksums at the end."""

    is_complete = False

    def __init__(self, store: _LayerStore, key: Digest) -> None:
        self._store = store
        self._key = key
        self._layer = store.layers[key]
        self._path = os.path.join(store.directory, key.encoded)

    def __enter__(self) -> Self:
        self._file = FileIO(self._path, "w+")
        self.restart()
        return self

    def restart(self) -> None:
        """Discard all bytes written so far."""
        self._file.seek(0)
        self._file.truncate()
        self.offset = 0
        self._hasher = hashlib.sha256()
        self._checksum = hashlib.sha256(self._layer.document.raw + b"\n")

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatchError: there are more than the registry declared.
        """
        self._hasher.update(chunk)
        if self._layer.checksums:
            self._checksum.update(chunk)
        view = memoryview(chunk)
        self.offset += len(view)
        if self.offset > self._layer.size:
            raise SizeMismatchError(
                f"size mismatch: expected {counted(self._layer.size, 'byte')}, got more ({self.offset} so far)"
            )
        while view:
            view = view[self._file.write(view) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None:
            return
        digest = Digest("sha256", self._hasher.hexdigest())
        checksum = Digest("sha256", self._checksum.hexdigest())
        expected = self._layer.checksums
        if expected and not {digest, checksum} & set(expected):
            announced = " or ".join(map(str, expected))
            raise DigestMismatchError(
                f"checksum mismatch: expected {announced}, as the registry announces, got {checksum}"
            )
        self._store.found[self._key] = (digest, self._path, self.offset)
