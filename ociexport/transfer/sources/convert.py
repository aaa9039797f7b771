"""ConvertingSource: images of Docker's schema 1, converted to OCI images.

A schema 1 manifest lacks sizes and diff_ids, which are computed from its layers. So the layers are fetched before the
new manifest is made, into the destination's layout or else into temporary files, and are read from there afterwards.
Computed diff_ids verify nothing; each layer was verified against its digest in the published manifest.

Spec: distribution ``docs/spec/manifest-v2-1.md``. The result follows docker's own conversion.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from io import BytesIO
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, NotFoundError, locating
from ociexport.images.held_documents import Turn
from ociexport.images.source import ImageSource, ReceivedManifest, size_of_blob
from ociexport.images.wrapping_source import WrappingSource
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.digested_bytes import is_schema1
from ociexport.spec.lazy_dataclass import replace
from ociexport.system.progress.protocol import Progress

if TYPE_CHECKING:
    from ociexport.images.fetch import BlobFetch
    from ociexport.spec.docker_schema1 import Schema1Manifest
    from ociexport.spec.docker_v1 import V1Document
    from ociexport.storage.layout.layout import ImageLayout

_DEFAULT_JOBS = 4


class ConvertingSource(WrappingSource):
    """An `ImageSource` around another that converts an image of schema 1 to an OCI image, and no other image.

    Args:
        source: of the published image; closed with this one.
        progress: gets a line for each conversion.

    Attributes:
        published: source of the published image.
        layers: digests of the fetched layers, which stay until this source is closed.
        fetches: the fetches of these layers.
    """

    def __init__(self, source: ImageSource, progress: Progress) -> None:
        super().__init__(source)
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
        """Return the same conversion around another source; closing either removes the temporary files of both."""
        converting = ConvertingSource(source, self._progress)
        converting._stack = self._stack
        return converting

    def keep_layers_in(self, layout: ImageLayout, jobs: int) -> None:
        """From now on, layers are fetched into ``layout``, the destination, not into temporary files."""
        self._layout, self._jobs = layout, jobs

    def only_plan(self) -> None:
        """From now on, no layers are fetched: new configs and manifests have true lengths, but placeholder digests."""
        self._is_plan = True

    @property
    def converted(self) -> Mapping[Digest, Digest]:
        """The digests of converted manifests, each with that of the published one."""
        with self._lock:
            return {made.digest: asked for asked, made in self._made.items()}

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """Which host served each manifest or blob; for a converted manifest, the host of the published one."""
        served = super().served_by
        return {**served, **{made: served[asked] for made, asked in self.converted.items() if asked in served}}

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return a manifest or index as published; one of schema 1 is converted, and then has another digest.

        Raises:
            as `ImageSource.fetch_manifest` and `BlobFetch.run` do.
        """
        received = super().fetch_manifest(descriptor)
        if not is_schema1(received.raw, received.media_type):
            return received
        with self._lock:
            if received.digest not in self._made:
                self._made[received.digest] = self._convert(received)
            return self._made[received.digest]

    def open_ahead(self, descriptors: Sequence[Descriptor], turn: Turn | None = None) -> None:
        """Request blobs ahead, if no layer was fetched for a conversion; see `FarSource`."""
        super().open_ahead(() if self.layers else descriptors, turn)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the bytes of a blob; converted configs and fetched layers are read locally."""
        config = self._configs.get(descriptor.digest)
        if config is not None:
            return BytesIO(config[offset:])
        if descriptor.digest in self.layers and self._layout is not None:
            return self._layout.open_blob(descriptor, offset)
        return super().open_blob(descriptor, offset)

    def close(self) -> None:
        """Close the published image's source, and remove the temporary files."""
        self._stack.close()
        super().close()

    def _convert(self, received: ReceivedManifest) -> ReceivedManifest:
        from ociexport.spec.docker_schema1 import parse_schema1  # noqa: PLC0415 - start-up: few images are of schema 1

        manifest = parse_schema1(received.raw, received.media_type, received.digest)
        with locating(f"manifest {manifest.digest}"):
            layers = layers_of(self.published, manifest)
            diff_ids = {layer.digest: layer.digest for layer in layers}
            if not self._is_plan:
                types, diff_ids = self._read(layers)
                layers = [replace(layer, media_type=types[layer.digest]) for layer in layers]
            made = self._make(manifest.documents, layers, [diff_ids[layer.digest] for layer in layers])
        verb = "would be" if self._is_plan else "was"
        new = "its new digest depends on its layers" if self._is_plan else f"made {made.digest}"
        self._progress.say(
            f"{self.display_name}: a Docker schema 1 manifest, which {verb} converted to OCI: "
            f"requested {manifest.digest}, {new}"
        )
        return made

    def _make(
        self, documents: Sequence[V1Document], layers: Sequence[Descriptor], diff_ids: Sequence[Digest]
    ) -> ReceivedManifest:
        from ociexport.images.make_manifest import make_manifest  # noqa: PLC0415 - start-up: as in `_convert`
        from ociexport.spec.docker_v1 import config_from_v1  # noqa: PLC0415 - start-up: as in `_convert`

        config = config_from_v1(documents, diff_ids)
        descriptor = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))
        self._configs[descriptor.digest] = config
        return make_manifest(descriptor, layers)

    def _read(self, layers: Sequence[Descriptor]) -> tuple[dict[Digest, str], dict[Digest, Digest]]:
        """Fetch and verify the layers; return their media types and diff_ids."""
        from ociexport.images.fetch import BlobFetch  # noqa: PLC0415 - start-up: as in `_convert`
        from ociexport.images.wanted_blobs import layer_blobs, unite_blobs  # noqa: PLC0415 - start-up: as in `_convert`

        if self._layout is None:
            from ociexport.storage.layout.spool import spool_elsewhere  # noqa: PLC0415 - start-up: as in `_convert`

            self._layout = self._stack.enter_context(spool_elsewhere())
            self._progress.say(f"{self.display_name}: layers are kept in {self._layout.path} until they are used")
        # While this use lasts, the layout removes no blob.
        use = self._stack.enter_context(self._layout.begin())
        fetch = BlobFetch(self._layout, self._progress)
        blobs = unite_blobs([layer_blobs(self.published, layers)])
        types, diff_ids = {}, {}
        try:
            fetch.run(blobs, self._jobs)
            for blob in blobs:
                with locating(blob.label):
                    digest = blob.descriptor.digest
                    types[digest], diff_ids[digest] = _type_and_diff_id(self._layout, blob.descriptor)
        except (InvalidImageError, NotFoundError):
            use.discard(fetch.begun)
            raise
        self.fetches.append(fetch)
        self.layers.update(diff_ids)
        return types, diff_ids


def layers_of(source: ImageSource, manifest: Schema1Manifest) -> list[Descriptor]:
    """Return descriptors of the layers of ``manifest``, lowest first, with their sizes from ``source``."""
    sizes = {digest: size_of_blob(source, digest) for digest in dict.fromkeys(manifest.layers)}
    return [Descriptor(mediatypes.OCI_LAYER_GZIP, digest, sizes[digest]) for digest in manifest.layers]


def _type_and_diff_id(layout: ImageLayout, layer: Descriptor) -> tuple[str, Digest]:
    """Return a stored layer's media type and its diff_id."""
    from ociexport.images.make_manifest import compute_diff_id, layer_type_of  # noqa: PLC0415 - start-up: few
    from ociexport.system.compression import MAGIC_BYTES  # noqa: PLC0415 - start-up: images are of schema 1

    with closing(layout.open_blob(layer)) as blob:
        media_type = layer_type_of(blob.read(MAGIC_BYTES))
    with closing(layout.open_blob(layer)) as blob:
        return media_type, compute_diff_id(blob, layer.size)
