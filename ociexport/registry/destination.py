"""RegistryDestination: one image's place in a registry, as the destination of a copy.

Blobs come first, then manifests, children before those that name them, and the tag last. Blobs and manifests that are
there are not sent again, and a tag that has another digest is not moved unless that is wanted.

Spec: distribution-spec 1.1, "Push", "Pushing Manifests", "Pushing Manifests with Subject".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from ociexport.errors import (
    InvalidDigestError,
    RegistryError,
    RegistryNotFoundError,
    UnsupportedMediaTypeError,
    UsageError,
)
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.registry.auth.access import Access
from ociexport.registry.client import RegistryClient
from ociexport.registry.fallback_referrers import FallbackReferrers
from ociexport.registry.http.content import RequestContent
from ociexport.registry.http.messages import Answer
from ociexport.registry.known_blobs import KnownBlobs
from ociexport.registry.source import RegistrySource
from ociexport.registry.upload import BlobUpload, SavedUploadUrls, UploadOutcome
from ociexport.registry.upload_requests import UploadRequests
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import ByteStream, Chunk, Digest
from ociexport.spec.manifest import parse_document
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import ProgressTask

_ACCEPT = {"Accept": ", ".join(mediatypes.ACCEPTED_MANIFESTS)}
_HEAD_STATUSES = frozenset({200, 404, 405, 501})
_STORED = frozenset({200, 201, 202, 204})
# A registry that refuses two mounts refuses more.
_MAX_MOUNTS = 3

BlobState = Literal["there", "mounted", "sent"]


class RegistryDestination:
    """One image's place in a registry; several threads may call its methods.

    Args:
        reference: registry, repository, and the tag for the image; with a digest alone the image gets no tag.
        client: of the run; the caller closes it.
        known: blobs of the same registry; shared by the destinations of a run.
        saved: keeps the URLs of uploads for the next run.
        moves_tags: whether a tag that exists with another digest is moved.
        only_plans: whether blobs that could be mounted are left where they are.
    """

    def __init__(
        self,
        reference: ImageReference,
        client: RegistryClient,
        *,
        known: KnownBlobs | None = None,
        saved: Callable[[str, str], SavedUploadUrls] | None = None,
        moves_tags: bool = False,
        only_plans: bool = False,
    ) -> None:
        self.reference = reference
        self._client = client
        route = client.home(reference)
        self.repository = route.repository
        self._session = client.session(route)
        self._requests = UploadRequests(self._session, self.repository)
        self._access = Access(self.repository, writes=True)
        self._known = known or KnownBlobs()
        self._mounts: tuple[str, ...] = ()
        self._saved = saved(reference.registry, self.repository) if saved is not None else None
        self._moves_tags = moves_tags
        self._only_plans = only_plans
        self._documents: dict[Digest, ReceivedManifest] = {}
        self._fallback = FallbackReferrers(self)
        self.states: dict[Digest, BlobState] = {}
        self.sizes: dict[Digest, int] = {}

    def __str__(self) -> str:
        return str(self.reference)

    # Blobs

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob."""
        digest = descriptor.digest
        if self.repository not in self._known.homes(digest) and not self._requests.has_blob(descriptor):
            return False
        self._note(descriptor, "there")
        return True

    def mountable_from(self, descriptor: Descriptor) -> str | None:
        """Return a repository of the registry that has the blob; None if no known one does. Nothing is changed."""
        for repository in self._candidates(descriptor.digest):
            if repository in self._known.homes(descriptor.digest):
                return repository
            try:
                if self._requests.has_blob(descriptor, repository):
                    return repository
            except RegistryError:
                continue
        return None

    def mount(self, descriptor: Descriptor) -> bool:
        """Mount a blob that can't be sent; returns whether the repository has it then, or would have it."""
        if self._only_plans:
            return self.mountable_from(descriptor) is not None
        for repository in self._candidates(descriptor.digest):
            session, is_mounted = self._requests.mount(descriptor.digest, repository)
            if session is not None:
                self._requests.cancel(session)
            if is_mounted:
                self._note(descriptor, "mounted")
                return True
        return False

    def add_mounts(self, named: Iterable[ImageReference]) -> None:
        """Take the repositories of images as places to mount blobs from, if they are in the same registry."""
        found = (one.repository for one in named if one.registry == self.reference.registry)
        self._mounts = tuple(dict.fromkeys([*self._mounts, *found]))

    def send_blob(
        self, descriptor: Descriptor, read: Callable[[int], Iterator[Chunk]], task: ProgressTask
    ) -> UploadOutcome:
        """Bring a blob into the repository that it lacks: mounted, or else read and sent.

        Raises:
            as `BlobUpload.run` does.
        """
        upload = BlobUpload(
            self._requests,
            descriptor,
            read,
            self._client.transport,
            report=task.advance,
            saved=self._saved,
        )
        outcome = upload.run(self._candidates(descriptor.digest))
        self._note(descriptor, "sent" if outcome.mounted_from is None else "mounted")
        return outcome

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Open a blob of the repository."""
        return self.source().open_blob(descriptor, offset)

    def _candidates(self, digest: Digest) -> list[str]:
        homes = dict.fromkeys([*self._known.homes(digest), *self._mounts])
        return [repository for repository in homes if repository != self.repository][:_MAX_MOUNTS]

    def _note(self, descriptor: Descriptor, state: BlobState) -> None:
        self._known.add(descriptor.digest, self.repository)
        self.states.setdefault(descriptor.digest, state)
        self.sizes[descriptor.digest] = descriptor.size

    # Documents

    def fetch_manifest(self, descriptor: Descriptor) -> ReceivedManifest:
        """Return a manifest or index of the repository, verified."""
        return self.source().fetch_manifest(descriptor)

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        """Store a manifest or index under its digest, unless it is there; its referrers' list gets it too."""
        self._documents[manifest.digest] = manifest
        if self.digest_of(str(manifest.digest)) != manifest.digest:
            self.put(manifest, str(manifest.digest))
        self._fallback.add(manifest)

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        """Give the complete image its tag, unless it has that tag.

        Raises:
            UsageError: the tag has another digest meanwhile, and may not be moved.
        """
        if name.tag is None:
            return
        if not self.verify_tag(name.tag, descriptor.digest):
            self.put(self._documents[descriptor.digest], name.tag)

    def verify_tag(self, tag: str, digest: Digest) -> bool:
        """Return whether ``tag`` has ``digest``; it may be given it if not.

        Raises:
            UsageError: it has another digest, and may not be moved.
        """
        there = self.digest_of(tag)
        if there is not None and there != digest and not self._moves_tags:
            place = f"{self.reference.name}:{tag}"
            raise UsageError(
                f"{place}: expected no tag, or one with {digest}, got {there}",
                hint="--move-tags moves a tag that exists",
            )
        return there == digest

    def digest_of(self, selector: str) -> Digest | None:
        """Return the digest of the manifest under a tag or digest; None if there is none."""
        subject = f"manifest {self.reference.name}:{selector}"
        answer = self._ask("HEAD", selector, subject, accepted=_HEAD_STATUSES)
        if answer.status == 404:
            return None
        try:
            return Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
        except InvalidDigestError:
            received = self.fetch(selector)
        return received.digest if received is not None else None

    def fetch(self, selector: str) -> ReceivedManifest | None:
        """Return the manifest under a tag or digest; None if there is none."""
        digest = Digest.parse(selector) if ":" in selector else None
        tag = selector if digest is None else None
        reference = ImageReference(self.reference.registry, self.reference.repository, tag, digest)
        try:
            return self._source_of(reference).fetch_manifest()
        except RegistryNotFoundError:
            return None

    def put(self, manifest: ReceivedManifest, selector: str) -> None:
        """Store a manifest under a tag or its digest.

        Raises:
            RegistryError: the registry refuses it, or stores it under another digest.
        """
        subject = f"manifest {self.reference.name}:{selector}"
        content = RequestContent.of(manifest.raw, _media_type_of(manifest))
        answer = self._ask("PUT", selector, subject, accepted=_STORED, content=content)
        try:
            announced = Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
        except InvalidDigestError:
            announced = manifest.digest
        if announced != manifest.digest and announced.algorithm == manifest.digest.algorithm:
            raise RegistryError(
                f"{subject}: expected it to be stored as {manifest.digest}, got {announced}", method="PUT"
            )
        self._fallback.note_answer(answer.headers)

    def has_referrers_api(self, digest: Digest) -> bool:
        """Whether the registry lists what refers to ``digest``. Other servers answer every path with a page."""
        try:
            answer = self._session.get(
                self.repository, f"/referrers/{digest}", subject=f"referrers of {digest}", headers=_ACCEPT
            )
        except RegistryError as error:
            if error.status is None or (error.status >= 500 and error.status != 501):
                raise
            return False
        answer.close()
        return mediatypes.without_parameters(answer.headers.get("Content-Type", "")) == mediatypes.OCI_INDEX

    def source(self) -> RegistrySource:
        """Return what reads from this place itself, not from a mirror; it shares the connections."""
        return self._source_of(self.reference)

    def _source_of(self, reference: ImageReference) -> RegistrySource:
        return RegistrySource(reference, (self._client.home(reference),), self._client, owns_client=False)

    def _ask(
        self,
        method: str,
        selector: str,
        subject: str,
        *,
        accepted: frozenset[int],
        content: RequestContent | None = None,
    ) -> Answer:
        url = self._session.url_of(self.repository, f"/manifests/{selector}")
        answer = self._session.send(
            method,
            url,
            self._access,
            subject=subject,
            headers=_ACCEPT if content is None else {},
            accepted=accepted,
            document_bytes=MAX_MANIFEST_BYTES,
            content=content,
        )
        answer.close()
        return answer


def _media_type_of(manifest: ReceivedManifest) -> str:
    try:
        return parse_document(manifest.raw, manifest.media_type, manifest.digest).media_type
    except UnsupportedMediaTypeError:  # an index may list documents of any kind
        return manifest.media_type or mediatypes.OCI_MANIFEST
