"""The OCI and Docker media types, and the kind of each.

Spec: image-spec 1.1 media-types.md; Docker "Image Manifest Version 2, Schema 2", "Media Types".
"""

from __future__ import annotations

import re

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_LAYER_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_FOREIGN_LAYER_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"

DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

DOCKER_PREFIX = "application/vnd.docker."

# Before schema 2 was final, registries stored configs under this type; some still serve such images.
LEGACY_CONFIG = "application/octet-stream"

INDEXES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1_MANIFESTS = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
DOCUMENTS = INDEXES | MANIFESTS | SCHEMA1_MANIFESTS
# What an index of a build cache lists beside its layers (BuildKit's cache/remotecache/v1/doc.go).
CACHE_CONFIGS = frozenset({"application/vnd.buildkit.cacheconfig.v0"})
IMAGE_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, LEGACY_CONFIG})
FOREIGN_LAYERS = frozenset(
    {OCI_FOREIGN_LAYER, OCI_FOREIGN_LAYER_GZIP, OCI_FOREIGN_LAYER_ZSTD, DOCKER_FOREIGN_LAYER_GZIP}
)
ZSTD_LAYERS = frozenset({OCI_LAYER_ZSTD, OCI_FOREIGN_LAYER_ZSTD, DOCKER_LAYER_ZSTD})
LAYERS = FOREIGN_LAYERS | {
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
}

# A layer's type with any compression suffix; encrypted layers and layers in other formats than tar do not match.
_OTHER_LAYER = re.compile(
    r"application/(?:vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar|"
    r"vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)[+.](?!encrypted)\w+"
)

# Words in media types of blobs that are no tar, even beside an image's config: signatures, SBOMs, modules.
_OTHER_CONTENT = frozenset({"json", "xml", "yaml", "text", "wasm", "spdx", "cyclonedx"})
_WORDS = re.compile(r"[a-z0-9]+")

# All four, always: with fewer, a registry converts the manifest, which changes its digest, or answers 404.
# The schema 1 types come last, for images that were never pushed in another form.
ACCEPTED_MANIFESTS = (
    OCI_INDEX,
    OCI_MANIFEST,
    DOCKER_MANIFEST_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    DOCKER_SCHEMA1,
)


def is_layer(media_type: str) -> bool:
    """Whether a blob of this type is a tar that can be applied, with any compression."""
    return media_type in LAYERS or _OTHER_LAYER.fullmatch(media_type) is not None


def may_be_tar(media_type: str) -> bool:
    """Whether the type is that of a tar: a known layer type, one that contains "tar", or an empty one."""
    return media_type in LAYERS or not media_type or "tar" in _WORDS.findall(media_type)


def is_other_content(media_type: str) -> bool:
    """Whether the type itself says that the blob is something else: JSON, text, a WebAssembly module."""
    return not may_be_tar(media_type) and not _OTHER_CONTENT.isdisjoint(_WORDS.findall(media_type))


def is_encrypted(media_type: str) -> bool:
    """Whether the type is that of a layer encrypted by ocicrypt."""
    return media_type.endswith("+encrypted")


def without_parameters(content_type: str) -> str:
    """Return a Content-Type's media type alone, in lower case, without parameters such as ``; charset=utf-8``."""
    return content_type.partition(";")[0].strip().lower()
