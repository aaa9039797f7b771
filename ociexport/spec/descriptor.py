"""Descriptors and platforms: frozen values made from received bytes.

Spec: image-spec 1.1 descriptor.md; Docker "Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping

from ociexport.errors import InvalidDigestError, counted, printable, quoted
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.numerals import MAX_SIZE

# distribution-spec "Pushing Manifests": registries should accept at least 4 MiB; honest manifests are not larger.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
# On an index entry for an attestation: the digest of the attested manifest (BuildKit's attestation-storage.md).
ATTESTED_ANNOTATION = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class Platform:
    """The operating system and processor of an image, in Go's words (``linux``, ``amd64``).

    Args:
        is_default: this machine's, which the user did not request: an image for another platform only is taken too.

    Spec: image-spec 1.1 image-index.md, "platform".
    """

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    is_default: bool = field(default=False, compare=False, repr=False)

    @classmethod
    def from_json(cls, item: JsonObject) -> Platform:
        """Return the platform of a descriptor or a config; a missing name reads as ``unknown``, as in docker."""
        return cls(
            os=item.optional_text("os") or "unknown",
            architecture=item.optional_text("architecture") or "unknown",
            variant=item.optional_text("variant"),
            os_version=item.optional_text("os.version"),
            os_features=item.texts("os.features"),
        )

    @property
    def is_known(self) -> bool:
        """Whether this names a platform: ``unknown/unknown`` and cosign's empty strings name none."""
        return not {"unknown", ""} & {self.os, self.architecture}

    def to_json(self) -> dict[str, object]:
        """Return the platform as JSON, for a descriptor in an index."""
        members: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            members["os.version"] = self.os_version
        if self.os_features:
            members["os.features"] = list(self.os_features)
        if self.variant:
            members["variant"] = self.variant
        return members

    def __str__(self) -> str:
        """Return the platform in the form that `ociexport.spec.platforms.parse_platform` reads."""
        demands = "+".join([self.os_version or "", *self.os_features])
        system = f"{self.os}({demands})" if demands else self.os
        # A platform comes from an image, and this text may reach a terminal.
        return printable("/".join(part for part in (system, self.architecture, self.variant) if part is not None))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob or a document: its media type, digest and size, and further properties.

    Spec: image-spec 1.1 descriptor.md.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str | None = None

    @classmethod
    def from_json(cls, item: JsonObject) -> Descriptor:
        """Return ``item`` parsed as a descriptor.

        Raises:
            InvalidImageError: a required member is missing, or a member has the wrong type or is out of range.
        """
        size = item.integer("size")
        if not 0 <= size <= MAX_SIZE:
            raise item.error("size", f"expected 0 to {MAX_SIZE}, got {quoted(size)}")
        digest = parse_digest_of(item, "digest", item.text("digest"))
        declared = item.optional_object("platform")
        platform = Platform.from_json(declared) if declared is not None else None
        return cls(
            media_type=mediatypes.without_parameters(item.optional_text("mediaType") or ""),
            digest=digest,
            size=size,
            annotations=item.text_map("annotations"),
            platform=platform if platform is not None and platform.is_known else None,
            urls=item.texts("urls"),
            data=_embedded_data(item, digest, size),
            artifact_type=item.optional_text("artifactType"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the descriptor as JSON, without embedded data, since the blob itself is stored."""
        members: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            members["artifactType"] = self.artifact_type
        if self.platform is not None:
            members["platform"] = self.platform.to_json()
        if self.urls:
            members["urls"] = list(self.urls)
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        return members

    @property
    def is_attestation(self) -> bool:
        """Whether this index entry is BuildKit's provenance or SBOM, not an image that can run."""
        return ATTESTED_ANNOTATION in self.annotations


def parse_digest_of(item: JsonObject, key: str, text: str) -> Digest:
    """Return ``text``, the member ``key`` of ``item``, parsed as a digest.

    Raises:
        InvalidImageError: it is not a digest; the message names the member.
    """
    try:
        return Digest.parse(text)
    except InvalidDigestError as error:
        raise item.error(key, str(error).removeprefix("digest: ")) from error


def _embedded_data(item: JsonObject, digest: Digest, size: int) -> bytes | None:
    """Return the decoded ``data`` member, verified as the specification requires; None if it is absent."""
    encoded = item.optional_text("data")
    if encoded is None:
        return None
    try:
        import base64  # noqa: PLC0415 - start-up: few descriptors need it

        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise item.error("data", f"expected base64, got {quoted(encoded)}") from error
    if len(data) != size or Digest.of(data, digest.algorithm) != digest:
        raise item.error(
            "data", f"expected the {counted(size, 'byte')} of {digest}, got {counted(len(data), 'other byte')}"
        )
    return data
