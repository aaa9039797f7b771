"""TokenStore: the tokens for one server, fetched from its token service and kept until they expire."""

from __future__ import annotations

import time
from collections.abc import Callable

from ociexport.errors import AuthenticationError, RegistryError, TransferError
from ociexport.registry.api_url import ApiUrl
from ociexport.registry.auth.access import Access
from ociexport.registry.auth.challenges import (
    MAX_TOKEN_BODY_BYTES,
    Challenge,
    Token,
    TokenRequest,
    parse_token,
    plan_token_requests,
)
from ociexport.registry.auth.refusals import blaming_registry
from ociexport.registry.hosts.endpoints import Endpoint
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import has_wrong_certificate, redacted
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import Credentials

# A token is renewed this long before it expires, since a request takes time to arrive.
_RENEWAL_SECONDS = 10
# The answers of token services that do not support the POST form (GCR, JFrog and others do or did this).
_NO_POST_STATUSES = frozenset({401, 404, 405})


class TokenStore:
    """Tokens by what they are for; its caller lets one thread in at a time.

    Args:
        endpoint: the server.
        transport: sends the requests for tokens.
        api_url: where the server is; credentials for it are not sent with less protection.
        explain: returns a better hint for a refusal, or None.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        api_url: ApiUrl,
        explain: Callable[[RegistryError, Access, WebUrl], str | None],
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._api_url = api_url
        self._explain = explain
        self._tokens: dict[Access, tuple[Token, float]] = {}
        # The Authorization headers that more than one request has.
        self._shared: set[str | None] = set()

    def authorization(
        self, challenge: Challenge, access: Access, scope: str, credentials: Credentials, *, is_own: bool
    ) -> str:
        """Return the Authorization header for ``access``.

        Args:
            scope: that the token must have.
            is_own: whether the token must be one that no other request has; it is not kept.

        Raises:
            AuthenticationError, RegistryError: the token service gives none.
        """
        held = self._tokens.get(access)
        if not is_own and held is not None and held[1] > time.monotonic():
            authorization = f"Bearer {held[0].value}"
            self._shared.add(authorization)
            return authorization
        token = self._fetch(challenge, access, scope, credentials)
        if not is_own:
            self._tokens[access] = (token, time.monotonic() + max(token.lifetime_seconds - _RENEWAL_SECONDS, 0))
        return f"Bearer {token.value}"

    def is_shared(self, authorization: str | None) -> bool:
        """Whether more than one request had this header."""
        return authorization in self._shared

    def forget(self, access: Access, authorization: str | None) -> None:
        """Drop the refused token, unless another thread has already replaced it."""
        held = self._tokens.get(access)
        if held is not None and f"Bearer {held[0].value}" == authorization:
            del self._tokens[access]

    def _fetch(self, challenge: Challenge, access: Access, scope: str, credentials: Credentials) -> Token:
        where = f"registry {self._endpoint.host}"
        *others, last = plan_token_requests(challenge, credentials, scope, where=where)
        for planned in others:
            try:
                return self._request(planned, access)
            except RegistryError as error:
                if error.status not in _NO_POST_STATUSES:
                    raise
        return self._request(last, access)

    def _request(self, planned: TokenRequest, access: Access) -> Token:
        realm = redacted(planned.url.partition("?")[0])
        subject = f"registry {self._endpoint.host}: its token service"
        bears_secret = planned.authorization is not None or planned.form is not None
        if bears_secret and planned.url.startswith("http:") and (self._api_url.known or "").startswith("https:"):
            raise AuthenticationError(
                f"{subject}: expected https, as for the registry itself, got {realm}",
                url=realm,
                hint="credentials are never sent unencrypted; report this to the registry's operators",
            )
        url = WebUrl.parse(planned.url)
        at_registry = any(url.origin == WebUrl.parse(api_url).origin for api_url in self._endpoint.api_urls)
        request = WireRequest(
            "GET" if planned.form is None else "POST",
            url,
            subject,
            authorization=planned.authorization,
            body=planned.form,
            tls=self._endpoint.tls if at_registry else None,
            sent_by=WebUrl.parse(self._api_url.known or self._endpoint.api_urls[0]),
            document_bytes=MAX_TOKEN_BODY_BYTES + 1,
        )
        try:
            answer = self._transport.send(request)
        except TransferError as error:
            if has_wrong_certificate(error):
                # The user can fix this, and the error's own hint explains how.
                raise
            raise blaming_registry(error, self._endpoint.host, realm) from error
        except RegistryError as error:
            error.hint = self._explain(error, access, url) or error.hint
            raise
        raw = undo_for_document(answer.read_up_to(MAX_TOKEN_BODY_BYTES + 1), answer)
        where = f"{subject}: {request.method} {realm}"
        if len(raw) > MAX_TOKEN_BODY_BYTES:
            raise AuthenticationError(f"{where}: expected at most {MAX_TOKEN_BODY_BYTES} bytes, got more")
        return parse_token(raw, where)
