"""WebLayout: an OCI image layout that a web server serves as files.

No registry is needed: any server that has ``oci-layout``, ``index.json`` and ``blobs/`` below one URL will do. Requests
go the way that those to registries go, so TLS, proxies, retries, redirects and credentials are the same, and a blob is
continued after a broken connection or fetched over several.

Spec: image-spec 1.1 image-layout.md; RFC 9110 14, "Range Requests".
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress

from ociexport.errors import (
    AuthenticationError,
    InvalidImageError,
    InvalidReferenceError,
    LimitExceededError,
    OciexportError,
    RegistryError,
    RegistryNotFoundError,
    TransferError,
    UsageError,
    counted,
    describe_content,
    printable,
)
from ociexport.registry.addresses import is_loopback
from ociexport.registry.auth.access import Access
from ociexport.registry.client import RegistryClient
from ociexport.registry.download.foreign import open_foreign
from ociexport.registry.download.opening import open_blob_stream
from ociexport.registry.download.stream import range_headers, whole_size
from ociexport.registry.hosts.endpoints import Endpoint, tls_for
from ociexport.registry.hosts.routes import Route
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import redacted, was_plain_text
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl
from ociexport.registry.session import CredentialSearch, RegistrySession
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.reference import ImageReference, without_scheme
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.remote_layout import RemoteLayout

_WHOLE = frozenset({200})
_PART = frozenset({200, 206, 416})
_EXPECTED = "the URL must be that of a directory with oci-layout, index.json and blobs/"


class WebLayout(RemoteLayout):
    """A layout below a URL.

    Args:
        url: of its directory, without query and name.
        client: shares connections and options; closed with the layout if ``owns_client``.

    Raises:
        UsageError: the URL does not parse, or is one of http that is not allowed.
    """

    def __init__(self, url: str, client: RegistryClient, *, owns_client: bool = False) -> None:
        super().__init__(url, client.progress)
        try:
            self._base = WebUrl.parse(url.rstrip("/"))
        except InvalidUrlError as error:
            raise UsageError(f"layout {printable(redacted(url))}: {error}") from error
        if self._base.scheme == "http" and not client.options.plain_http and not is_loopback(self._base.host):
            raise UsageError(
                f"layout {printable(redacted(url))}: expected https, got http",
                hint="--plain-http allows it; the files are verified, and the names in index.json are not",
            )
        self.url = str(self._base)
        self._client = client
        self._owns_client = owns_client
        authority = self._base.authority
        endpoint = Endpoint(
            authority,
            (f"{self._base.scheme}://{authority}",),
            tls_for(authority, client.options),
            dict(client.options.headers),
        )
        # Credentials may be stored for a part of a server, as for a part of a registry.
        self._access = Access(self._base.target.strip("/"))
        self._session = client.session(Route(endpoint, self._access.repository), FileServerSession)

    @property
    def host(self) -> str:
        """Host and port."""
        return self._base.authority

    @property
    def credentials(self) -> str | None:
        """The identity used, without secrets; None if the server asked for none."""
        finding = self._session.used_finding(self._access.repository)
        return str(finding) if finding is not None else None

    def read_document(self, name: str, max_bytes: int) -> bytes:
        """Return a document of the layout; see `RemoteLayout`.

        Raises:
            RegistryNotFoundError: there is no such file.
            InvalidImageError: the server shows a page in place of it.
        """
        subject = f"layout {self.url}"
        try:
            answer = self._get(name, subject, document_bytes=max_bytes + 1)
        except RegistryNotFoundError as error:
            raise RegistryNotFoundError(
                f"{self.url}: expected an OCI layout, got no {name} there: {error.method} {error.url}: 404 Not Found",
                method=error.method,
                url=error.url,
                status=error.status,
                hint=_EXPECTED,
            ) from error
        except TransferError as error:
            if was_plain_text(error):
                error.hint = "if the server speaks plain http, begin the URL with http://, and use --plain-http"
            elif error.hint is None:
                error.hint = f"check whether the server can be reached from here: curl -I {redacted(error.url)}"
            raise
        raw = undo_for_document(answer.read_up_to(max_bytes + 1), answer)
        if len(raw) > max_bytes:
            raise LimitExceededError(
                f"expected at most {counted(max_bytes, 'byte')}, got more", where=f"{subject}: {name}"
            )
        if raw.lstrip()[:1] != b"{":
            got = describe_content(raw) if raw.strip() else "nothing"
            raise InvalidImageError(
                f"GET {redacted(answer.url)}: expected the {name} of an OCI layout, got {got}",
                where=subject,
                hint=f"the server shows a page in place of the file, for example to log in; {_EXPECTED}",
            )
        return raw

    def open_file(self, descriptor: Descriptor, name: str, offset: int) -> ByteStream:
        """Return the bytes of a blob's file; after a broken connection a new one continues."""
        subject = f"blob {descriptor.digest}"

        def open_from(position: int, end: int | None) -> Answer:
            headers = range_headers(position, end)
            try:
                return self._get(name, subject, headers=headers, accepted=_PART if headers else _WHOLE)
            except RegistryNotFoundError as error:
                if not descriptor.urls:
                    raise
                return open_foreign(descriptor, headers, error, self._client.transport)

        return open_blob_stream(open_from, descriptor.size, offset, self._client.transport, subject)

    def size_of_file(self, name: str, subject: str) -> int:
        """Return the size of a file, from the answer to a request for its first byte."""
        with closing(self._get(name, subject, headers=range_headers(0, 1), accepted=_PART)) as answer:
            return whole_size(answer)

    def close(self) -> None:
        """Close the connections, unless the layout shares them."""
        if self._owns_client:
            self._client.close()

    def _get(
        self,
        name: str,
        subject: str,
        *,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = _WHOLE,
        document_bytes: int | None = None,
    ) -> Answer:
        return self._session.send(
            "GET",
            WebUrl.parse(f"{self.url}/{name}"),
            self._access,
            subject=subject,
            headers=headers,
            accepted=accepted,
            # A missing bundle.json is no failure of the server.
            retries=name != BUNDLE_FILE,
            document_bytes=document_bytes,
        )

    def explain(self, error: OciexportError, name: str | None) -> None:
        """Add to the hint the image in a registry that the URL may mean."""
        separator = ":" if name and not name.startswith("@") else ""
        meant = f"{without_scheme(self.url)}{separator}{name or ''}"
        with suppress(InvalidReferenceError):
            ImageReference.parse(meant)
            error.hint = f"{error.hint}; did you mean {meant}?" if error.hint else f"did you mean {meant}?"


class FileServerSession(RegistrySession):
    """Authenticated requests to a server of files: credentials are sent where the server asks for them.

    The server has no API to look for, so the first request is that for the file.
    """

    def __init__(
        self, endpoint: Endpoint, search: CredentialSearch, transport: Transport, *, unasked: str | None = None
    ) -> None:
        super().__init__(endpoint, search, transport, unasked=unasked)
        self._api_url.keep(endpoint.api_urls[0])

    def _explain_refusal(self, error: RegistryError, access: Access, asked: WebUrl) -> str | None:
        if not isinstance(error, AuthenticationError):
            return None
        finding = self.used_finding(access.repository)
        if finding is None or not finding.credentials:
            where = f"an entry for {self.endpoint.registry} in the file of --authfile"
            return f"the server requires credentials, or hides that a file is missing: --creds, or {where}"
        return (
            f"the server does not accept {finding.credentials} (from {finding.place}), or hides that a file is missing"
        )
