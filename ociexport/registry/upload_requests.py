"""UploadRequests: the requests of uploads into one repository, and what registries answer to them.

Spec: distribution-spec 1.1, "Pushing Blobs", "Checking if content exists in the registry", "Cancel upload".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

from ociexport.errors import InvalidDigestError, RegistryError
from ociexport.registry.auth.access import Access
from ociexport.registry.http.content import RequestContent
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl, text_of_header
from ociexport.registry.session import RegistrySession
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import MAX_SIZE, number_in, number_up_to

_ANSWER_BYTES = 64 * 1024
# "0-1023"; some registries add a unit.
_RANGE = re.compile(r"(?:bytes[ =])?0-([0-9]{1,19})")
_UPLOAD_ID = re.compile(r"[A-Za-z0-9_.=-]{1,256}")
_BEGUN, _CREATED, _TAKEN, _STATUS = (
    frozenset({202}),
    frozenset({200, 201, 204}),
    frozenset({200, 201, 202, 204}),
    frozenset({200, 202, 204}),
)
_MOUNTED = 201
# Answers of registries that do not begin uploads, and take a whole blob only.
_NO_UPLOADS = frozenset({400, 405, 501})
# Answers of storage that a registry redirects to, which permits only the request that was signed: GET, not HEAD.
_NO_HEAD = frozenset({400, 403, 405, 501})


class UploadSession(NamedTuple):
    """An upload that was begun.

    Args:
        url: where its next bytes go.
        min_chunk_bytes: the least size of all chunks but the last one.
    """

    url: WebUrl
    min_chunk_bytes: int = 0


class UploadRequests:
    """Sends the requests of uploads into one repository; used by several threads.

    Args:
        session: with the registry.
        repository: its name on the registry.
    """

    def __init__(self, session: RegistrySession, repository: str) -> None:
        self.session = session
        self.repository = repository
        self._access = Access(repository, writes=True)

    def has_blob(self, descriptor: Descriptor, repository: str | None = None) -> bool:
        """Whether the registry says that it has the blob, in ``repository`` or else in the one for uploads."""
        access = self._access if repository is None else Access(repository)
        url = self.session.url_of(access.repository, f"/blobs/{descriptor.digest}")
        answer = self._send(
            "HEAD", url, f"blob {descriptor.digest}", access=access, accepted=frozenset({200, 404}) | _NO_HEAD
        )
        if not answer.is_from_home and answer.status in _NO_HEAD:
            return True
        if answer.status == 403:
            raise answer.error()
        size = answer.content_length
        is_stored = "Content-Encoding" not in answer.headers and answer.is_from_home
        return answer.status == 200 and not (is_stored and size not in (None, 0, descriptor.size))

    def mount(self, digest: Digest, repository: str) -> tuple[UploadSession | None, bool]:
        """Ask for a mount of a blob from ``repository``.

        Returns:
            whether it was mounted; if not, the upload that was begun instead, or None.
        """
        query = urlencode({"mount": str(digest), "from": repository})
        access = self._access._replace(mounted_from=repository)
        url = self.session.url_of(self.repository, f"/blobs/uploads/?{query}")
        try:
            answer = self._send("POST", url, f"blob {digest}", access=access, accepted=_BEGUN | {_MOUNTED})
        except RegistryError:
            # A registry may not permit reading the other repository, or know no mounts.
            return None, False
        if answer.status == _MOUNTED:
            return None, True
        return self._session_of(answer), False

    def begin(self) -> UploadSession | None:
        """Begin an upload; returns None if the registry has none, or does not say where its bytes go."""
        url = self.session.url_of(self.repository, "/blobs/uploads/")
        answer = self._send("POST", url, "upload", accepted=_BEGUN | _NO_UPLOADS, retries=False)
        return self._session_of(answer) if answer.status in _BEGUN else None

    def post_whole(self, digest: Digest, content: RequestContent) -> None:
        """Send a whole blob in one POST."""
        url = self.session.url_of(self.repository, f"/blobs/uploads/?{urlencode({'digest': str(digest)})}")
        answer = self._send("POST", url, f"blob {digest}", accepted=_CREATED, content=content, retries=False)
        _verify_digest(answer, digest)

    def patch(self, session: UploadSession, content: RequestContent, offset: int) -> tuple[UploadSession, int | None]:
        """Send one chunk; returns the upload's next state, and how many bytes the registry says it has."""
        headers = {"Content-Range": f"{offset}-{offset + len(content) - 1}"}
        answer = self._send(
            "PATCH", session.url, "upload", headers=headers, accepted=_TAKEN, content=content, retries=False
        )
        return self._session_of(answer, session) or session, _received_bytes(answer)

    def put(self, session: UploadSession, digest: Digest, content: RequestContent) -> None:
        """End an upload with its last bytes, or all of them; the registry verifies the digest."""
        target = session.url.target
        query = urlencode({"digest": str(digest)})
        joined = f"{target}{'&' if '?' in target else '?'}{query}"
        url = WebUrl.parse(f"{session.url.scheme}://{session.url.authority}{joined}")
        answer = self._send("PUT", url, f"blob {digest}", accepted=_CREATED, content=content, retries=False)
        _verify_digest(answer, digest)

    def status(self, session: UploadSession) -> tuple[UploadSession, int | None]:
        """Return the state of an upload, and how many bytes have arrived; None if the registry does not say."""
        answer = self._send("GET", session.url, "upload", accepted=_STATUS)
        return self._session_of(answer, session) or session, _received_bytes(answer)

    def cancel(self, session: UploadSession) -> None:
        """Cancel an upload; errors are ignored, since registries forget old uploads."""
        try:
            self._send("DELETE", session.url, "upload", accepted=_TAKEN, retries=False)
        except RegistryError:
            return

    def saved_session(self, text: str) -> UploadSession | None:
        """Return the upload at a URL that was read from a file; None if it is not one of this repository."""
        try:
            url = WebUrl.parse(text)
        except InvalidUrlError:
            return None
        ours = self.session.url_of(self.repository, "/blobs/uploads/")
        is_below = url.target.startswith(ours.target) and ".." not in url.target
        return UploadSession(url) if url.origin == ours.origin and is_below else None

    def _send(
        self,
        method: str,
        url: WebUrl,
        subject: str,
        *,
        accepted: frozenset[int],
        access: Access | None = None,
        headers: Mapping[str, str] | None = None,
        content: RequestContent | None = None,
        retries: bool = True,
    ) -> Answer:
        answer = self.session.send(
            method,
            url,
            access or self._access,
            subject=f"{self.repository}: {subject}",
            headers=headers,
            accepted=accepted,
            retries=retries,
            document_bytes=_ANSWER_BYTES,
            content=content,
        )
        answer.close()
        return answer

    def _session_of(self, answer: Answer, before: UploadSession | None = None) -> UploadSession | None:
        """Return the upload that ``answer`` names; None if it names none."""
        locations = answer.header_values("Location")
        upload_id = answer.headers.get("Docker-Upload-UUID", "")
        if locations:
            url = self._secured(WebUrl.parse(answer.url).join(text_of_header(locations[0])))
        elif before is not None:
            url = before.url
        elif _UPLOAD_ID.fullmatch(upload_id):
            url = self.session.url_of(self.repository, f"/blobs/uploads/{upload_id}")
        else:
            return None
        least = number_up_to(answer.headers.get("OCI-Chunk-Min-Length", ""), MAX_SIZE)
        return UploadSession(url, least or (before.min_chunk_bytes if before is not None else 0))

    def _secured(self, url: WebUrl) -> WebUrl:
        """Return ``url``, with https where a registry behind a proxy does not know that it is reached by https."""
        ours = self.session.url_of(self.repository, "")
        if ours.scheme == "https" and url.scheme == "http" and url.host == ours.host and url.port in (None, 80):
            return WebUrl("https", ours.host, ours.port, url.rest)
        return url


def _received_bytes(answer: Answer) -> int | None:
    """Return how many bytes of an upload have arrived; None if the answer does not say.

    "0-0" means none, as most registries write it, though it would be one byte.
    """
    match = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
    last = number_in(match[1]) if match else None
    return last + 1 if last else last


def _verify_digest(answer: Answer, digest: Digest) -> None:
    """Return if the registry announces ``digest``, or announces none that can be compared.

    Raises:
        RegistryError: it stored the bytes under another digest.
    """
    try:
        announced = Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
    except InvalidDigestError:
        return
    if announced.algorithm == digest.algorithm and announced != digest:
        url = redacted(answer.url)
        raise RegistryError(
            f"{answer.request.subject}: {answer.request.method} {url}: expected it to be stored as {digest}, "
            f"got {announced}",
            method=answer.request.method,
            url=url,
        )
