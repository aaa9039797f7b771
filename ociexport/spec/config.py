"""An image's config, and its layers with their diff_ids, as frozen values.

Spec: image-spec 1.1 config.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError, counted, locating, quoted
from ociexport.spec.descriptor import Descriptor, Platform, parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.manifest import Manifest
from ociexport.spec.named_tuple import NamedTuple

# c/image has the same limit for configs.
MAX_CONFIG_BYTES = 4 * 1024 * 1024


class HistoryEntry(NamedTuple):
    """One entry of an image's history; an entry with ``empty_layer`` has no layer.

    Spec: image-spec 1.1 config.md, "history".
    """

    created_by: str | None
    created: str | None
    comment: str | None
    author: str | None
    empty_layer: bool


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """How to start a container of the image.

    Spec: image-spec 1.1 config.md, "config".
    """

    user: str | None
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str | None
    labels: Mapping[str, str] = field(hash=False)
    exposed_ports: tuple[str, ...]
    volumes: tuple[str, ...]
    stop_signal: str | None

    @classmethod
    def from_json(cls, item: JsonObject) -> ContainerConfig:
        """Return the ``config`` member of an image config."""
        return cls(
            user=item.optional_text("User"),
            env=item.texts("Env"),
            entrypoint=item.texts("Entrypoint"),
            cmd=item.texts("Cmd"),
            working_dir=item.optional_text("WorkingDir"),
            labels=item.text_map("Labels"),
            exposed_ports=item.keys_of("ExposedPorts"),
            volumes=item.keys_of("Volumes"),
            stop_signal=item.optional_text("StopSignal"),
        )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration; its digest is what docker calls the image ID.

    Spec: image-spec 1.1 config.md.
    """

    raw: bytes = field(repr=False)
    digest: Digest
    platform: Platform
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryEntry, ...]
    container: ContainerConfig
    created: str | None
    author: str | None

    @property
    def declared_platform(self) -> Platform | None:
        """The platform; None where the config declares none."""
        return self.platform if self.platform.is_known else None


def parse_config(raw: bytes, digest: Digest | None = None) -> ImageConfig:
    """Return ``raw`` parsed as an image config.

    Raises:
        UnsupportedMediaTypeError: it is an artifact's, which has no ``rootfs``: ``{}`` of an OPA bundle, or of oras.
        InvalidImageError: it breaks the specification; `where` names the field.
    """
    digest = digest or Digest.of(raw)
    with locating(f"config {digest}"):
        item = parse_json_object(raw, where="")
        if "rootfs" not in item:
            raise UnsupportedMediaTypeError(
                "expected an object, got nothing",
                where="rootfs",
                hint="an artifact has such a config, and no root filesystem; pull copies it as it is",
            )
        rootfs = item.object("rootfs")
        if rootfs.text("type") != "layers":
            raise rootfs.error("type", f"expected 'layers', got {quoted(rootfs.text('type'))}")
        container = item.optional_object("config")
        return ImageConfig(
            raw=raw,
            digest=digest,
            platform=Platform.from_json(item),
            diff_ids=tuple(
                parse_digest_of(rootfs, f"diff_ids[{number}]", text)
                for number, text in enumerate(rootfs.texts("diff_ids"))
            ),
            history=tuple(
                HistoryEntry(
                    created_by=entry.optional_text("created_by"),
                    created=entry.optional_text("created"),
                    comment=entry.optional_text("comment"),
                    author=entry.optional_text("author"),
                    empty_layer=entry.boolean("empty_layer"),
                )
                for entry in item.objects("history")
            ),
            container=ContainerConfig.from_json(container if container is not None else JsonObject({}, "config")),
            created=item.optional_text("created"),
            author=item.optional_text("author"),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as stored, and the digest of its uncompressed tar.

    Args:
        number: position in the image, from 1, lowest first.
        count: number of layers in the image.
        descriptor: the blob's descriptor.
        diff_id: digest of the uncompressed tar.
    """

    number: int
    count: int
    descriptor: Descriptor
    diff_id: Digest

    def __str__(self) -> str:
        return f"layer {self.number} of {self.count} ({self.descriptor.digest})"


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """Return the manifest's layers, each with its diff_id, lowest first.

    Raises:
        InvalidImageError: the numbers of layers and diff_ids differ.

    Spec: image-spec 1.1 config.md, "rootfs".
    """
    count = len(manifest.layers)
    if count != len(config.diff_ids):
        raise InvalidImageError(
            f"expected as many diff_ids as layers, got {counted(count, 'layer')} "
            f"but {counted(len(config.diff_ids), 'diff_id')}",
            where=f"manifest {manifest.digest}: config {config.digest}",
        )
    return tuple(
        Layer(number, count, descriptor, diff_id)
        for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True), start=1)
    )
