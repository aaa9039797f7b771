"""RegistrySource: an image in a registry, as an ImageSource."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from ociexport.errors import (
    DigestMismatchError,
    InvalidDigestError,
    InvalidImageError,
    OciexportError,
    RegistryError,
    RegistryNotFoundError,
    SizeMismatchError,
    describe_content,
    locating,
)
from ociexport.images.budget import DocumentBudget
from ociexport.images.companions import referrers_tag
from ociexport.images.held_documents import ListingStore, Turn, read_held, read_listed
from ociexport.images.resolve import verify_manifest_size
from ociexport.images.source import ImageName, ReceivedManifest, embedded_document
from ociexport.registry.client import RegistryClient
from ociexport.registry.download.ahead import BlobsAhead
from ociexport.registry.download.opening import open_blob_stream
from ociexport.registry.download.stream import range_headers, whole_size
from ociexport.registry.hosts.routes import Route, routes_for
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import ByteStream, Digest, Verifier
from ociexport.spec.digested_bytes import digested_bytes
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.reference import ImageReference

_MANIFEST_HEADERS = {"Accept": ", ".join(mediatypes.ACCEPTED_MANIFESTS)}
_REFERRERS_HEADERS = {"Accept": mediatypes.OCI_INDEX}
_WHOLE = frozenset({200})
_WHOLE_OR_UNCHANGED = frozenset({200, 304})
_PART = frozenset({200, 206, 416})

_T = TypeVar("_T")


class RegistrySource:
    """One image in a registry; an `ImageSource`.

    Args:
        reference: of the image; if it has a digest, the manifest is verified against it.
        routes: to the image, the registry's own last.
        client: closed with the source if ``owns_client``.
    """

    def __init__(
        self, reference: ImageReference, routes: tuple[Route, ...], client: RegistryClient, *, owns_client: bool
    ) -> None:
        self.reference = reference
        self._routes = routes
        self._client = client
        self._owns_client = owns_client
        # The hosts that served each manifest or blob, the latest last: a blob may come from several hosts.
        self._servers: dict[Digest, list[str]] = {}
        self._lock = threading.Lock()
        self._store: ListingStore | None = None
        self._ahead = BlobsAhead(self._open_blob)

    @property
    def display_name(self) -> str:
        """The reference in full."""
        return str(self.reference)

    @property
    def image_name(self) -> ImageName:
        """The tag, and the full name with the tag; without a tag, the full name with the digest."""
        tag = self.reference.tag
        return ImageName(tag, f"{self.reference.name}:{tag}" if tag is not None else str(self.reference))

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """The host that served each manifest or blob; the latest one, if several hosts served parts of it."""
        with self._lock:
            return {digest: hosts[-1] for digest, hosts in self._servers.items()}

    @property
    def credentials(self) -> str | None:
        """The identity used for the server of the manifest, without secrets; None if that server asked for none."""
        hosts = set(self.served_by.values())
        served = next((route for route in self._routes if route.endpoint.host in hosts), None)
        finding = self._client.session(served).used_finding(served.repository) if served is not None else None
        return str(finding) if finding is not None else None

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index that ``descriptor`` names, or else the reference; verified.

        Raises:
            RegistryNotFoundError: the registry does not have it.
            DigestMismatchError, SizeMismatchError: the bytes received are not those of the requested document.
            LimitExceededError: the document is larger than `MAX_MANIFEST_BYTES`.

        Spec: distribution-spec 1.1, "Pulling manifests".
        """
        if (embedded := embedded_document(descriptor)) is not None:
            return embedded
        wanted = descriptor.digest if descriptor is not None else self.reference.digest
        held = self._held(descriptor, wanted)
        if held is not None and held.digest == wanted:
            return held
        subject = f"manifest {descriptor.digest}" if descriptor is not None else f"image {self.reference}"
        routes = [route for route in self._routes if (route.serves_digests if wanted else route.resolves_tags)]

        def fetch(route: Route) -> ReceivedManifest:
            # registries.conf may map the image to another tag or digest on this server.
            there = route.reference or self.reference
            expected = wanted if wanted is not None else there.digest
            selector = str(expected) if expected is not None else there.manifest_selector
            headers, accepted = _MANIFEST_HEADERS, _WHOLE
            if held is not None and expected is None:
                headers, accepted = {**headers, "If-None-Match": f'"{held.digest}"'}, _WHOLE_OR_UNCHANGED
            answer = self._get_document(route, f"/manifests/{selector}", subject, headers, accepted)
            if answer.status == 304 and held is not None:
                self._note(held.digest, route)
                return held
            raw = _manifest_of(answer, subject)
            media_type = answer.headers.get("Content-Type")
            with locating(subject):
                digested = digested_bytes(raw, media_type)
            if expected is None:
                digest = _verify_announced_digest(answer, digested, subject)
                _verify_is_document(answer, raw)
            else:
                # An index gives the size of the served document; of a signed schema 1, fewer bytes are digested.
                size = descriptor.size if descriptor is not None and digested is raw else None
                verifier = Verifier(expected, size, subject=subject)
                verifier.update(digested)
                verifier.verify()
                digest = expected
            self._note(digest, route)
            return ReceivedManifest(raw, media_type, digest)

        try:
            try:
                return self._first_that_succeeds(routes, fetch)
            except (DigestMismatchError, SizeMismatchError) as error:
                self.tell_wrong_bytes(error)
                return fetch(routes[-1])
        except RegistryNotFoundError as error:
            if wanted is None and "NAME_UNKNOWN" not in error.codes:
                self._client.suggest_tag(self.reference, error)
            raise

    def use_held(self, store: ListingStore) -> None:
        """From now on, ask only for documents that ``store`` lacks; see `FarSource`."""
        self._store = store

    def _held(self, descriptor: Descriptor | None, wanted: Digest | None) -> ReceivedManifest | None:
        """Return the document ``wanted`` from the store; for a tag, the one that had the image's name there.

        Spec: RFC 9110 13.1.2, "If-None-Match"; distribution sends the digest as the entity tag.
        """
        if self._store is None:
            return None
        if wanted is not None:
            return read_held(self._store, descriptor or Descriptor("", wanted, 0))
        full_name = self.image_name.full
        return read_listed(self._store, full_name) if full_name is not None else None

    def open_ahead(self, descriptors: Sequence[Descriptor], turn: Turn | None = None) -> None:
        """Request these blobs in threads of their own; `open_blob` returns them later, and `close` ends those left."""
        self._ahead.request(descriptors, turn)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes as stored, from ``offset`` on; a broken connection is replaced. See `_open_blob`."""
        ahead = self._ahead.take(descriptor.digest, offset)
        return ahead if ahead is not None else self._open_blob(descriptor, offset)

    def _open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes as stored, from ``offset`` on; a broken connection is replaced.

        A mirror that has served this blob before is not asked again: its bytes were wrong.

        Raises:
            RegistryNotFoundError: there is no such blob.
            RegistryError: the request failed, here or in ``read``.

        Spec: distribution-spec 1.1, "Pulling blobs"; RFC 9110 14, "Range Requests".
        """
        subject = f"blob {descriptor.digest}"
        with self._lock:
            blamed = set(self._servers.get(descriptor.digest, ()))
        routes = [
            route
            for route in self._routes
            if route.serves_digests and not (route.is_mirror and route.endpoint.host in blamed)
        ]

        def open_from(position: int, end: int | None) -> Answer:
            headers = range_headers(position, end)

            def open_at(route: Route) -> Answer:
                answer = self._get(
                    route,
                    f"/blobs/{descriptor.digest}",
                    subject=subject,
                    headers=headers,
                    accepted=_PART if headers else _WHOLE,
                )
                self._note(descriptor.digest, route)
                return answer

            try:
                return self._first_that_succeeds(routes, open_at)
            except RegistryNotFoundError as error:
                if not descriptor.urls:
                    raise
                from ociexport.registry.download.foreign import open_foreign  # noqa: PLC0415 - start-up: few layers are

                return open_foreign(descriptor, headers, error, self._client.transport)

        return open_blob_stream(open_from, descriptor.size, offset, self._client.transport, subject)

    def tell_wrong_bytes(self, error: OciexportError) -> None:
        """Warn that the bytes were wrong and are fetched again; a proxy may have altered them."""
        self._client.progress.warn(f"{error}; fetching it once more, from the beginning")

    def size_of_blob(self, digest: Digest) -> int:
        """Return the size in bytes of a blob of which only the digest is known.

        The request is for the first byte, since not every storage service behind a registry answers HEAD. If a server
        supports no ranges and sends no length, the whole blob is read.

        Raises:
            RegistryNotFoundError: there is no such blob.

        Spec: RFC 9110 14.4, "Content-Range".
        """
        subject = f"blob {digest}"
        routes = [route for route in self._routes if route.serves_digests]

        def ask(route: Route) -> int:
            answer = self._get(route, f"/blobs/{digest}", subject=subject, headers=range_headers(0, 1), accepted=_PART)
            with closing(answer):
                return whole_size(answer)

        return self._first_that_succeeds(routes, ask)

    def fetch_tagged(self, tag: str) -> Iterator[ReceivedManifest]:
        """Yield the manifest or index under ``tag``, if there is one; see `CompanionSource`."""
        try:
            yield registry_source(self._client, replace(self.reference, tag=tag, digest=None)).fetch_manifest()
        except RegistryNotFoundError:
            return

    def fetch_referrers(self, digest: Digest, budget: DocumentBudget) -> Iterator[Descriptor]:
        """Yield descriptors of the manifests that refer to ``digest``; see `CompanionSource`.

        Spec: distribution-spec 1.1, "Listing Referrers".
        """
        from ociexport.registry.pages import next_query  # noqa: PLC0415 - start-up: few pulls ask for referrers
        from ociexport.registry.referrers import ReferrersPage, read_referrers  # noqa: PLC0415 - start-up: as above

        subject = f"referrers of {digest}"
        routes = [route for route in self._routes if route.serves_digests]
        # The server of the first page has the next ones: another one may not understand the link.
        chosen: list[Route] = []

        def fetch_page(query: str) -> ReferrersPage:
            def fetch(route: Route) -> ReferrersPage:
                path = f"/referrers/{digest}" + (f"?{query}" if query else "")
                answer = self._get_document(route, path, subject, _REFERRERS_HEADERS)
                raw = _manifest_of(answer, subject)
                received = ReceivedManifest(raw, answer.headers.get("Content-Type"), Digest.of(raw))
                page = ReferrersPage(received, next_query(answer))
                chosen[:] = [route]
                return page

            return fetch(chosen[0]) if chosen else self._first_that_succeeds(routes, fetch)

        return read_referrers(digest, fetch_page, lambda: self.fetch_tagged(referrers_tag(digest)), budget)

    def close(self) -> None:
        """Close the connections, unless the source shares them."""
        self._ahead.close()
        if self._owns_client:
            self._client.close()

    def _get(
        self,
        route: Route,
        path: str,
        *,
        subject: str,
        headers: Mapping[str, str],
        accepted: frozenset[int] = _WHOLE,
        document_bytes: int | None = None,
    ) -> Answer:
        return self._client.session(route).get(
            route.repository,
            path,
            subject=subject,
            headers=headers,
            accepted=accepted,
            # A mirror is not retried: the next route is tried instead.
            retries=not route.is_mirror,
            document_bytes=document_bytes,
        )

    def _get_document(
        self, route: Route, path: str, subject: str, headers: Mapping[str, str], accepted: frozenset[int] = _WHOLE
    ) -> Answer:
        limit = MAX_MANIFEST_BYTES + 1
        return self._get(route, path, subject=subject, headers=headers, accepted=accepted, document_bytes=limit)

    def _first_that_succeeds(self, routes: list[Route], action: Callable[[Route], _T]) -> _T:
        """Return the result of ``action`` for the first route where it succeeds; the last route's error is raised."""
        *mirrors, last = [route for route in routes if not self._client.is_down(route)]
        for route in mirrors:
            try:
                return action(route)
            except (RegistryError, InvalidImageError) as error:
                self._client.pass_over(route, error)
        return action(last)

    def _note(self, digest: Digest, route: Route) -> None:
        host = route.endpoint.host
        with self._lock:
            self._servers[digest] = [*(other for other in self._servers.get(digest, ()) if other != host), host]


def registry_source(client: RegistryClient, reference: ImageReference, *, owns_client: bool = False) -> RegistrySource:
    """Return a source for the image that ``reference`` names; nothing is sent until the source is used.

    Raises:
        UsageError, OSError: a configuration file is invalid or can't be read.
    """
    routes = routes_for(reference, client.options, client.registries_conf)
    if client.options.verbose and len(routes) > 1:
        *mirrors, last = (route.endpoint.host for route in routes)
        client.progress.say(f"image {reference}: mirrors {', '.join(mirrors)} are tried first, then {last}")
    return RegistrySource(reference, routes, client, owns_client=owns_client)


def _manifest_of(answer: Answer, subject: str) -> bytes:
    """Return a manifest's bytes as stored; their number is within the limit."""
    raw = answer.read_up_to(MAX_MANIFEST_BYTES + 1)
    verify_manifest_size(max(len(raw), answer.content_length or 0), subject)
    raw = undo_for_document(raw, answer)
    verify_manifest_size(len(raw), subject)
    return raw


def _verify_is_document(answer: Answer, raw: bytes) -> None:
    """Return if the bytes under a tag may be a manifest.

    Raises:
        InvalidImageError: they are not JSON, for example an HTML page.
    """
    if raw.lstrip()[:1] != b"{":
        kind = describe_content(raw) if raw.strip() else "nothing"
        raise InvalidImageError(
            f"GET {redacted(answer.url)}: expected a manifest, got {kind}",
            where=answer.request.subject,
            hint="the server may not be a registry; this may be a login or proxy page",
        )


def _verify_announced_digest(answer: Answer, raw: bytes, subject: str) -> Digest:
    """Return our own digest of ``raw``; it matches the digest that the registry announced, if there is a valid one."""
    try:
        announced = Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
    except InvalidDigestError:
        # The header is missing, or its algorithm is not registered.
        return Digest.of(raw)
    digest = Digest.of(raw, announced.algorithm)
    if digest != announced:
        with locating(subject):
            raise DigestMismatchError(
                f"digest mismatch: expected {announced}, from the Docker-Content-Digest header, got {digest}"
            )
    return digest
