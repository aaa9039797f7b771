"""RegistrySource: one image in a registry."""

from __future__ import annotations

from ociexport import mediatypes
from ociexport.digest import ByteStream, Digest, Verifier
from ociexport.documents import MAX_MANIFEST_BYTES, Descriptor
from ociexport.errors import DigestMismatchError, InvalidDigestError, RegistryError, locating, quoted
from ociexport.progress import SILENT, Progress
from ociexport.reference import ImageReference
from ociexport.registry.auth import pull_scope
from ociexport.registry.blobs import BlobStream
from ociexport.registry.credentials import find_credentials
from ociexport.registry.hosts import endpoint_for
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.registry.session import RegistrySession
from ociexport.registry.transport import Answer, Transport
from ociexport.resolve import verify_manifest_size
from ociexport.sources import ImageName, ReceivedManifest

_MANIFEST_HEADERS = {"Accept": ", ".join(mediatypes.ACCEPTED_MANIFESTS)}


class RegistrySource:
    """One image in a registry; an `ImageSource`.

    Args:
        reference: of the image; what it names by digest is verified against it.
        session: with the registry of ``reference``.
        transport: closed with the source where ``owns_transport``; shared with other sources where not.
    """

    def __init__(
        self, reference: ImageReference, session: RegistrySession, transport: Transport, *, owns_transport: bool
    ) -> None:
        self.reference = reference
        self._session = session
        self._transport = transport
        self._owns_transport = owns_transport
        self._scope = pull_scope(reference.repository)

    @property
    def display_name(self) -> str:
        """The reference in full."""
        return str(self.reference)

    @property
    def image_name(self) -> ImageName:
        """The tag and the full name with it; neither has the digest, which the copy's descriptor tells."""
        tag = self.reference.tag
        return ImageName(tag, f"{self.reference.name}:{tag}" if tag is not None else None)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index that ``descriptor`` names, or the reference; verified.

        Raises:
            RegistryNotFoundError: there is none.
            DigestMismatchError, SizeMismatchError: it is not the one that was asked for.
            LimitExceededError: it is larger than any honest one.

        Spec: distribution-spec 1.1, "Pulling manifests".
        """
        wanted = descriptor.digest if descriptor is not None else self.reference.digest
        subject = f"manifest {descriptor.digest}" if descriptor is not None else f"image {self.reference}"
        selector = str(wanted) if wanted is not None else self.reference.manifest_selector
        answer = self._session.get(
            f"/v2/{self.reference.repository}/manifests/{selector}",
            subject=subject,
            scope=self._scope,
            headers=_MANIFEST_HEADERS,
        )
        raw = _read_manifest(answer, subject)
        content_type = answer.headers.get("Content-Type")
        if wanted is None:
            return ReceivedManifest(raw, content_type, _verify_announced_digest(answer, raw, subject))
        verifier = Verifier(wanted, descriptor.size if descriptor is not None else None, subject=subject)
        verifier.update(raw)
        verifier.verify()
        return ReceivedManifest(raw, content_type, wanted)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes as stored, from ``offset`` on; a connection that breaks is made again.

        Raises:
            RegistryNotFoundError: there is no such blob; RegistryError: at once or in ``read``.

        Spec: distribution-spec 1.1, "Pulling blobs"; RFC 9110 14, "Range Requests".
        """
        subject = f"blob {descriptor.digest}"
        path = f"/v2/{self.reference.repository}/blobs/{descriptor.digest}"

        def open_from(position: int) -> Answer:
            return self._session.get(
                path,
                subject=subject,
                scope=self._scope,
                headers={"Range": f"bytes={position}-"} if position else {},
                accepted=frozenset({200, 206, 416}) if position else frozenset({200}),
            )

        return BlobStream(open_from, descriptor.size, offset, self._transport, subject)

    def close(self) -> None:
        """Close the connections, unless other sources use them too."""
        if self._owns_transport:
            self._transport.close()


def open_registry_source(
    reference: ImageReference,
    *,
    options: RegistryOptions = DEFAULT_OPTIONS,
    progress: Progress = SILENT,
    transport: Transport | None = None,
) -> RegistrySource:
    """Return a source for the image that ``reference`` names; nothing is sent before it is used.

    Args:
        options: how registries are reached.
        progress: told of retries, where the transport is the source's own.
        transport: shared with other sources, closed by the caller; None for one of its own.

    Raises:
        UsageError, OSError: a file with credentials can't be read.
    """
    credentials = options.credentials or find_credentials(reference, options.authfile)
    owned = transport if transport is not None else Transport(options, progress)
    session = RegistrySession(endpoint_for(reference.registry, options), credentials, owned)
    return RegistrySource(reference, session, owned, owns_transport=transport is None)


def _read_manifest(answer: Answer, subject: str) -> bytes:
    """Return a manifest's bytes as they were sent, and no more than an honest one has."""
    try:
        verify_manifest_size(answer.content_length or 0, subject)
        encoding = answer.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", ""):
            raise RegistryError(
                f"{subject}: Content-Encoding: expected identity, as asked for, got {quoted(encoding)}",
                method="GET",
                status=answer.status,
                hint="a proxy on the way compresses what it should pass on as it is",
            )
        raw = answer.read_up_to(MAX_MANIFEST_BYTES + 1)
        verify_manifest_size(len(raw), subject)
    finally:
        answer.close()
    return raw


def _verify_announced_digest(answer: Answer, raw: bytes, subject: str) -> Digest:
    """Return our own digest of ``raw``; where the registry announced one that we can read, they must agree."""
    try:
        announced = Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
    except InvalidDigestError:
        # It is missing, or of an algorithm that is not registered; our own is what counts.
        return Digest.of(raw)
    digest = Digest.of(raw, announced.algorithm)
    if digest != announced:
        with locating(subject):
            raise DigestMismatchError(
                f"digest mismatch: expected {announced}, as its Docker-Content-Digest announces, got {digest}"
            )
    return digest
