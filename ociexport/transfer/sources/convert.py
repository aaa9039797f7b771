"""Images of Docker's old formats as OCI images.

What an old manifest lacks (sizes, diff_ids) is known when its layers are there: they are fetched before the new one is
made, into the layout that they are for or else among temporary files, and whoever asks for them then finds them. With
diff_ids that were computed nothing can be compared; that each layer is the one that the old manifest names was verified
before.

Spec: distribution ``docs/spec/manifest-v2-1.md``; what becomes of such a manifest is what docker makes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from io import BytesIO

from ociexport.errors import InvalidImageError, NotFoundError, locating
from ociexport.images.fetch import BlobFetch
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest, credentials_of, servers_of, size_of_blob
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.docker_schema1 import Schema1Manifest, is_schema1, parse_schema1
from ociexport.spec.docker_v1 import V1Document, config_from_v1
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.compression import MAGIC_BYTES
from ociexport.system.progress.protocol import Progress

_DEFAULT_JOBS = 4


class ConvertingSource:
    """An image that is given out as an OCI image where it is published in schema 1; an `ImageSource` around another.

    Args:
        source: the image as it is published; closed with this one.
        progress: told what is converted.

    Attributes:
        published: the image as it is published.
        layers: that were fetched, and stay until this source is closed.
        fetches: what fetched them.
    """

    def __init__(self, source: ImageSource, progress: Progress) -> None:
        self.published = source
        self._progress = progress
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._layout: ImageLayout | None = None
        self._jobs = _DEFAULT_JOBS
        self._is_plan = False
        self._made: dict[Digest, ReceivedManifest] = {}
        self._configs: dict[Digest, bytes] = {}
        self.layers: set[Digest] = set()
        self.fetches: list[BlobFetch] = []

    def around(self, source: ImageSource) -> ConvertingSource:
        """Return the same around another source; what it keeps is gone when either is closed."""
        converting = ConvertingSource(source, self._progress)
        converting._stack = self._stack
        return converting

    def keep_layers_in(self, layout: ImageLayout, jobs: int) -> None:
        """Have layers fetched into ``layout``, where they are wanted, and not among temporary files."""
        self._layout, self._jobs = layout, jobs

    def only_plan(self) -> None:
        """Have no layers fetched: the new config and manifest get their true lengths, and digests that mean nothing."""
        self._is_plan = True

    @property
    def converted(self) -> Mapping[Digest, Digest]:
        """The digests of manifests that were made, and those of the published ones that they were made of."""
        with self._lock:
            return {made.digest: asked for asked, made in self._made.items()}

    @property
    def display_name(self) -> str:
        """How messages call the image."""
        return self.published.display_name

    @property
    def image_name(self) -> ImageName:
        """What a copy of the image is to be called."""
        return self.published.image_name

    @property
    def wrapped(self) -> ImageSource:
        """The image as it is published."""
        return self.published

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """Which host gave which manifest or blob; of a manifest that was made, the one that it was made of."""
        served = servers_of(self.published)
        return {**served, **{made: served[asked] for made, asked in self.converted.items() if asked in served}}

    @property
    def credentials(self) -> str | None:
        """Whom the image was asked for as."""
        return credentials_of(self.published)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return a manifest or index as it is published, or made of one of schema 1, with another digest then.

        Raises:
            as `ImageSource.fetch_manifest` does, and what fetching the layers raises.
        """
        received = self.published.fetch_manifest(descriptor)
        if not is_schema1(received.raw, received.media_type):
            return received
        with self._lock:
            if received.digest not in self._made:
                self._made[received.digest] = self._convert(received)
            return self._made[received.digest]

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the bytes of a blob; a config that was made, and layers that were fetched, are here already."""
        config = self._configs.get(descriptor.digest)
        if config is not None:
            return BytesIO(config[offset:])
        if descriptor.digest in self.layers and self._layout is not None:
            return self._layout.open_blob(descriptor, offset)
        return self.published.open_blob(descriptor, offset)

    def close(self) -> None:
        """Close the image, and remove what was kept among temporary files."""
        self._stack.close()
        self.published.close()

    def _convert(self, received: ReceivedManifest) -> ReceivedManifest:
        manifest = parse_schema1(received.raw, received.media_type, received.digest)
        with locating(f"manifest {manifest.digest}"):
            layers = layers_of(self.published, manifest)
            diff_ids = {layer.digest: layer.digest for layer in layers}
            if not self._is_plan:
                types, diff_ids = self._read(layers)
                layers = [replace(layer, media_type=types[layer.digest]) for layer in layers]
            made = self._make(manifest.documents, layers, [diff_ids[layer.digest] for layer in layers])
        told = "is to be" if self._is_plan else "was"
        new = "its new digest is known when the layers are there" if self._is_plan else f"made {made.digest}"
        self._progress.say(
            f"{self.display_name}: a Docker schema 1 manifest, which {told} converted to OCI: "
            f"asked for {manifest.digest}, {new}"
        )
        return made

    def _make(
        self, documents: Sequence[V1Document], layers: Sequence[Descriptor], diff_ids: Sequence[Digest]
    ) -> ReceivedManifest:
        from ociexport.images.make_manifest import make_manifest  # noqa: PLC0415 - start-up: few images are of schema 1

        config = config_from_v1(documents, diff_ids)
        descriptor = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))
        self._configs[descriptor.digest] = config
        return make_manifest(descriptor, layers)

    def _read(self, layers: Sequence[Descriptor]) -> tuple[dict[Digest, str], dict[Digest, Digest]]:
        """Return the media types and diff_ids of the layers, which are here and verified from now on."""
        if self._layout is None:
            from ociexport.storage.layout.spool import spool_elsewhere  # noqa: PLC0415 - start-up: as in `_make`

            self._layout = self._stack.enter_context(spool_elsewhere())
            self._progress.say(f"{self.display_name}: layers are kept in {self._layout.path} until they are used")
        # Until this source is closed nobody tidies up there.
        use = self._stack.enter_context(self._layout.begin())
        fetch = BlobFetch(self._layout, self._progress)
        blobs = _blobs_of(self.published, layers)
        types, diff_ids = {}, {}
        try:
            fetch.run(blobs, self._jobs)
            for blob in blobs:
                with locating(blob.label):
                    digest = blob.descriptor.digest
                    types[digest], diff_ids[digest] = _told_by_content(self._layout, blob.descriptor)
        except (InvalidImageError, NotFoundError):
            use.discard(fetch.begun)
            raise
        self.fetches.append(fetch)
        self.layers.update(diff_ids)
        return types, diff_ids


def layers_of(source: ImageSource, manifest: Schema1Manifest) -> list[Descriptor]:
    """Return descriptors of the layers that ``manifest`` has, lowest first, with the sizes that ``source`` says."""
    sizes = {digest: size_of_blob(source, digest) for digest in dict.fromkeys(manifest.layers)}
    return [Descriptor(mediatypes.OCI_LAYER_GZIP, digest, sizes[digest]) for digest in manifest.layers]


def _blobs_of(source: ImageSource, layers: Sequence[Descriptor]) -> list[BlobToFetch]:
    blobs: dict[Digest, BlobToFetch] = {}
    for number, layer in enumerate(layers, start=1):
        label = f"layer {number} of {len(layers)} ({layer.digest})"
        title = f"layer {number}/{len(layers)} {layer.digest.short}"
        blobs.setdefault(layer.digest, BlobToFetch(source, layer, label, title, None))
    return list(blobs.values())


def _told_by_content(layout: ImageLayout, layer: Descriptor) -> tuple[str, Digest]:
    """Return a layer's media type and its diff_id."""
    from ociexport.images.make_manifest import compute_diff_id, layer_type_of  # noqa: PLC0415 - start-up: as in `_make`

    with closing(layout.open_blob(layer)) as blob:
        media_type = layer_type_of(blob.read(MAGIC_BYTES))
    with closing(layout.open_blob(layer)) as blob:
        return media_type, compute_diff_id(blob, layer.size)
