"""RegistrySession: authenticated requests to one server.

The first request is sent straight away: its answer shows which URL of the server is right, and a 401 holds the
challenge. The server is pinged first only where an upload needs to know the URL, and later where the answer to the
first request was doubtful.

Which URL that is, `ApiUrl` finds out; tokens are fetched and kept by a `TokenStore`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ociexport.errors import AuthenticationError, RegistryError
from ociexport.registry.api_url import ApiUrl
from ociexport.registry.auth.access import Access
from ociexport.registry.auth.credentials import Finding
from ociexport.registry.hosts.endpoints import Endpoint
from ociexport.registry.http.content import RequestContent
from ociexport.registry.http.failures import (
    redacted,
    status_line,
)
from ociexport.registry.http.messages import Answer, WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl, text_of_header
from ociexport.registry.options import Credentials
from ociexport.spec.lazy_dataclass import replace

if TYPE_CHECKING:
    from ociexport.registry.auth.challenges import Challenge
    from ociexport.registry.auth.token_store import TokenStore

# A registry may hide from anonymous users what it shows to others, and may name its challenge to a ping only.
_HIDING_STATUSES = frozenset({401, 403, 404})
# The schemes of challenges that can be answered.
_SCHEMES = frozenset({"bearer", "basic"})
# Returns the credentials for a repository.
CredentialSearch = Callable[[str], Finding]


class RegistrySession:
    """Sends requests to one server; used by several threads, for several repositories.

    Credentials are searched only when the server asks for them: a credential helper may prompt its user. Tokens are
    kept for each repository. A token is renewed before it expires, and when the server refuses it.

    Args:
        endpoint: the server.
        search: returns the credentials for a repository.
        transport: shared; closed by the caller.
        unasked: a registry token from the command line; sent with every request, without waiting for a challenge.
    """

    def __init__(
        self, endpoint: Endpoint, search: CredentialSearch, transport: Transport, *, unasked: str | None = None
    ) -> None:
        self.endpoint = endpoint
        self._search = search
        self._transport = transport
        self._unasked = unasked
        self._lock = threading.Lock()
        self._api_url = ApiUrl(endpoint, transport, self._take_challenge)
        self._challenges: tuple[Challenge, ...] = ()
        self._findings: dict[str, Finding] = {}
        self._scopes: dict[Access, str] = {}
        self._tokens: TokenStore | None = None

    def get(
        self,
        repository: str,
        path: str,
        *,
        subject: str,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = frozenset({200}),
        retries: bool = True,
        document_bytes: int | None = None,
    ) -> Answer:
        """Return the answer to an authenticated GET of ``path`` (``/manifests/…``) in ``repository``.

        ``path`` may end in a query. For ``document_bytes`` see `WireRequest`.

        Raises:
            AuthenticationError: no token could be obtained, or the server refuses it.
            RegistryError: see `Transport.send`.
        """
        if self.endpoint.namespace is not None:
            path += ("&" if "?" in path else "?") + urlencode({"ns": self.endpoint.namespace})

        def get(api_url: str, *, is_trial: bool) -> Answer:
            return self._send(
                "GET",
                WebUrl.parse(f"{api_url}/{repository}{path}"),
                Access(repository),
                WebUrl.parse(api_url),
                subject=subject,
                headers=headers,
                accepted=accepted,
                retries=retries,
                document_bytes=document_bytes,
                is_trial=is_trial,
            )

        with self._api_url.after_the_first():
            # A secret is not sent before the right URL is known.
            if (first := self._api_url.to_try(is_secret=self._unasked is not None)) is not None:
                try:
                    return get(first, is_trial=self._api_url.is_choice)
                except RegistryError as error:
                    if not self._api_url.may_be_other(error):
                        raise
            return get(self.ping(retries=retries), is_trial=False)

    def url_of(self, repository: str, path: str) -> WebUrl:
        """Return the URL of ``path`` (``/blobs/uploads/``, with its query) in ``repository``."""
        return WebUrl.parse(f"{self.ping()}/{repository}{path}")

    def send(
        self,
        method: str,
        url: WebUrl,
        access: Access,
        *,
        subject: str,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = frozenset({200}),
        retries: bool = True,
        document_bytes: int | None = None,
        content: RequestContent | None = None,
    ) -> Answer:
        """Return the answer to an authenticated request.

        Args:
            url: on this server; or on another one that this server has named, which gets no credentials and no headers
                of the configuration.
            access: what the request does, for the token.
            content: the bytes to upload. Content that may be large is not sent again: ``retries`` must be False.

        Raises:
            as `get` does.
        """
        api_url = WebUrl.parse(self.ping(retries=retries))
        return self._send(
            method,
            url,
            access,
            api_url,
            subject=subject,
            headers=headers,
            accepted=accepted,
            retries=retries,
            document_bytes=document_bytes,
            content=content,
        )

    def _send(
        self,
        method: str,
        url: WebUrl,
        access: Access,
        api_url: WebUrl,
        *,
        subject: str,
        headers: Mapping[str, str] | None,
        accepted: frozenset[int],
        retries: bool,
        document_bytes: int | None,
        content: RequestContent | None = None,
        is_trial: bool = False,
    ) -> Answer:
        """Return the answer to an authenticated request; see `send`.

        Args:
            api_url: of this server.
            is_trial: whether the server may have another URL: this one is kept if the server answers.
        """
        is_ours = api_url.may_show_secrets_to(url)
        request = WireRequest(
            method,
            url,
            subject,
            headers=headers or {},
            home_headers=self.endpoint.headers if is_ours else {},
            accepted=accepted | {401} if is_ours else accepted,
            tls=self.endpoint.tls if is_ours else None,
            authorization=self._authorization(access) if is_ours else None,
            retries=retries,
            sent_by=None if is_ours else api_url,
            document_bytes=document_bytes,
            content=content,
            on_answer=functools.partial(self._api_url.keep, str(api_url)) if is_trial else None,
        )
        if not is_trial:
            self._api_url.keep(str(api_url))
        try:
            if not is_ours:
                return self._transport.send(request)
            return self._send_again_if_hidden(request, access, str(api_url))
        except RegistryError as error:
            error.hint = self._explain_refusal(error, access, request.url) or error.hint
            raise

    def _send_again_if_hidden(self, request: WireRequest, access: Access, api_url: str) -> Answer:
        """Return the answer to ``request``; the server is pinged for its challenge where that may give a better one."""
        try:
            return self._send_again_if_refused(request, access)
        except RegistryError as error:
            # No ping was necessary before. Where it asks for credentials, they may make the difference.
            from ociexport.registry.auth.refusals import is_of_other_server  # noqa: PLC0415 - start-up: as above

            is_known = self._api_url.was_pinged or self._challenges or self._unasked is not None
            if error.status not in _HIDING_STATUSES or is_known or is_of_other_server(error, request.url):
                raise
            with suppress(RegistryError):
                self._api_url.ping(api_url, retries=False)
            if not self._has_usable_challenge():
                raise
            authorization = self._authorization(access)
            if authorization is None:
                raise
        return self._send_again_if_refused(replace(request, authorization=authorization, on_answer=None), access)

    def _send_again_if_refused(self, request: WireRequest, access: Access) -> Answer:
        """Return the answer to ``request``, with a new token if the server refuses the one it had.

        A second refusal may only mean that a token is good for a few requests, and that other threads made them. The
        third attempt therefore has a token of its own. A token that only this request had is refused for good: a
        registry may answer 401 for ever.
        """
        answer = self._transport.send(request)
        # The first request of all has no token; its refusal is the challenge.
        unasked = (False,) if request.authorization is None else ()
        for needs_own_token in (*unasked, False, True):
            if answer.status != 401:
                self._api_url.let_others_go()
                return answer
            # The token has another scope or has expired early; the challenge names the required scope.
            refusal = answer.error()
            if not answer.is_from_home:
                # A redirect's target must not choose where credentials are sent.
                raise refusal
            self._take_challenge(answer, access)
            if needs_own_token and (self._tokens is None or not self._tokens.is_shared(request.authorization)):
                raise refusal
            with self._lock:
                if self._tokens is not None:
                    self._tokens.forget(access, request.authorization)
            authorization = self._authorization(access, needs_own_token=needs_own_token)
            if authorization is None and not self._has_usable_challenge():
                from ociexport.registry.auth.refusals import without_usable_challenge  # noqa: PLC0415 - start-up: as above

                raise without_usable_challenge(refusal, self._challenges)
            if authorization is None or authorization == request.authorization:
                raise refusal
            self._api_url.let_others_go()
            request = replace(request, authorization=authorization, on_answer=None)
            answer = self._transport.send(request)
        if answer.status == 401:
            raise answer.error()
        return answer

    def verify_login(self) -> bool:
        """Return True if the server accepts the credentials, and False if it asks for none.

        Raises:
            AuthenticationError: the server does not accept them.
        """
        api_url = self.ping()
        try:
            authorization = self._authorization(Access(""))
            if authorization is None and self._api_url.asks and not self._has_usable_challenge():
                from ociexport.registry.auth.refusals import without_usable_challenge  # noqa: PLC0415 - start-up: as above

                subject = f"registry {self.endpoint.host}: GET {redacted(api_url)}/: {status_line(401)}"
                refusal = AuthenticationError(subject, url=redacted(api_url), status=401)
                raise without_usable_challenge(refusal, self._challenges)
            if authorization is None:
                return False
            request = WireRequest(
                "GET",
                WebUrl.parse(f"{api_url}/"),
                f"registry {self.endpoint.host}",
                home_headers=self.endpoint.headers,
                authorization=authorization,
                tls=self.endpoint.tls,
            )
            self._transport.send(request).close()
        except AuthenticationError as error:
            if self._api_url.asks and not self._has_usable_challenge():
                raise
            error.hint = "check the user name and password; some registries require an access token as the password"
            raise
        return True

    # API URL and challenges

    def ping(self, *, retries: bool = True) -> str:
        """Return the API's URL; the server has answered there, and its challenges are known."""
        return self._api_url.find(retries=retries)

    def _take_challenge(self, answer: Answer, access: Access | None = None) -> None:
        header = text_of_header(answer.headers.get("WWW-Authenticate", ""))
        if not header:
            return
        from ociexport.registry.auth.challenges import parse_challenges  # noqa: PLC0415 - start-up: only a refusal needs it

        challenges = parse_challenges(header)
        if not challenges:
            return
        self._challenges = challenges
        scope = next((challenge.parameters["scope"] for challenge in challenges if "scope" in challenge.parameters), "")
        if access is not None and scope:
            self._scopes[access] = scope

    def _has_usable_challenge(self) -> bool:
        return any(challenge.scheme in _SCHEMES for challenge in self._challenges)

    # Credentials and tokens

    def _authorization(self, access: Access, *, needs_own_token: bool = False) -> str | None:
        """Return the Authorization header for ``access``; None for an anonymous request.

        Args:
            needs_own_token: whether a token must be one that no other request has.
        """
        if self._unasked is not None:
            return f"Bearer {self._unasked}"
        schemes = {challenge.scheme: challenge for challenge in reversed(self._challenges)}
        if not schemes.keys() & _SCHEMES:
            return None
        with self._lock:
            credentials = self._finding(access.repository).credentials
            if credentials.registry_token is not None:
                return f"Bearer {credentials.registry_token}"
            if "bearer" in schemes:
                return self._fetch_bearer(schemes["bearer"], access, credentials, is_own=needs_own_token)
        if credentials.username is None:
            return None
        from ociexport.registry.auth.challenges import basic_authorization  # noqa: PLC0415 - start-up: as above

        return basic_authorization(credentials)

    def _fetch_bearer(self, challenge: Challenge, access: Access, credentials: Credentials, *, is_own: bool) -> str:
        """Return the Authorization header with a token; call it with the lock."""
        if self._tokens is None:
            from ociexport.registry.auth.token_store import TokenStore  # noqa: PLC0415 - start-up: as above

            self._tokens = TokenStore(self.endpoint, self._transport, self._api_url, self._explain_refusal)
        scope = access.scope_with(self._scopes.get(access, ""))
        return self._tokens.authorization(challenge, access, scope, credentials, is_own=is_own)

    def _finding(self, repository: str) -> Finding:
        if repository not in self._findings:
            self._findings[repository] = finding = self._search(repository)
            if self._transport.options.verbose:
                what = f"{repository}: " if repository else ""
                self._transport.progress.say(f"registry {self.endpoint.host}: {what}identity used: {finding}")
        return self._findings[repository]

    def used_finding(self, repository: str) -> Finding | None:
        """Return the credentials used for ``repository``; None where the server did not ask for any."""
        if self._unasked is not None:
            return Finding(Credentials(registry_token=self._unasked), "the command line")
        with self._lock:
            return self._findings.get(repository)

    def _explain_refusal(self, error: RegistryError, access: Access, asked: WebUrl) -> str | None:
        """Return a better hint for ``error``, which answered a request to ``asked``; None if there is none."""
        from ociexport.registry.auth.refusals import hint_for_refusal, is_of_storage  # noqa: PLC0415 - start-up: as above

        if is_of_storage(error, asked):
            return None
        if self._unasked is None and error.status == 401 and not self._has_usable_challenge():
            return None
        return hint_for_refusal(error, self._findings.get(access.repository), access, self.endpoint.registry)
