"""RegistrySession: requests to one registry, with whatever it wants to know about who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from ociexport.errors import AuthenticationError, RegistryError, TransferError
from ociexport.registry.auth import (
    MAX_TOKEN_BODY_BYTES,
    Challenge,
    Token,
    TokenRequest,
    basic_authorization,
    parse_challenges,
    parse_token,
    plan_token_request,
)
from ociexport.registry.credentials import Credentials
from ociexport.registry.failures import redacted, was_refused
from ociexport.registry.hosts import Endpoint
from ociexport.registry.transport import Answer, Transport, WireRequest

# A token is renewed so long before its end, since a request takes time to arrive.
_RENEWAL_SECONDS = 10
# The answer to a ping is {} or an error; what is longer is a page of something else.
_MAX_PING_BODY_BYTES = 64 * 1024

_PING_STATUSES = frozenset({200, 400, 401, 403, 404, 405})


class RegistrySession:
    """Requests to one registry with one set of credentials; used by several threads.

    Tokens are kept for each scope and renewed before they expire, and once when the registry refuses them.
    """

    def __init__(self, endpoint: Endpoint, credentials: Credentials, transport: Transport) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._transport = transport
        self._lock = threading.Lock()
        self._base_url: str | None = None
        self._challenges: tuple[Challenge, ...] = ()
        self._tokens: dict[str, tuple[Token, float]] = {}

    def get(
        self,
        path: str,
        *,
        subject: str,
        scope: str,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = frozenset({200}),
    ) -> Answer:
        """Return the answer to a GET of ``path`` (``/v2/…``), authenticated as the registry wants it.

        Raises:
            AuthenticationError: no token is to be had, or the registry does not believe it.
            RegistryError: see `Transport.send`.
        """
        base_url = self._ping()
        request = WireRequest(
            "GET",
            base_url + path,
            subject,
            headers=headers or {},
            accepted=accepted | {401},
            tls=self._endpoint.tls,
            authorization=self._authorization(scope),
        )
        answer = self._transport.send(request)
        if answer.status != 401:
            return answer
        # 1. The token was not for this, or has expired early; the challenge tells what is wanted.
        self._take_challenge(answer)
        self._forget_token(scope, request.authorization)
        authorization = self._authorization(scope)
        if authorization is None or authorization == request.authorization:
            raise answer.error(_rest_of(answer))
        answer.close()
        # 2. Once more, and not again: a registry may say 401 for ever.
        return self._transport.send(replace(request, authorization=authorization, accepted=accepted))

    def _ping(self) -> str:
        """Return the base URL, once it is known to be a registry's and what it wants to know.

        Spec: distribution-spec 1.1, "Determining Support".
        """
        with self._lock:
            if self._base_url is None:
                self._base_url = self._find_base_url()
            return self._base_url

    def _find_base_url(self) -> str:
        *attempts, last = self._endpoint.base_urls
        for base_url in attempts:
            try:
                if self._send_ping(base_url, retries=False).status != 400:
                    return base_url
            except RegistryError as error:
                if error.status is not None or was_refused(error):
                    # The protocol is not what was wrong.
                    self._send_ping(base_url, retries=True)
                    return base_url
        self._send_ping(last, retries=True)
        return last

    def _send_ping(self, base_url: str, *, retries: bool) -> Answer:
        answer = self._transport.send(
            WireRequest(
                "GET",
                f"{base_url}/v2/",
                f"registry {self._endpoint.registry}",
                # One that has no such page may still have the image.
                accepted=_PING_STATUSES,
                tls=self._endpoint.tls,
                retries=retries,
            )
        )
        self._take_challenge(answer)
        answer.read_up_to(_MAX_PING_BODY_BYTES)
        answer.close()
        return answer

    def _take_challenge(self, answer: Answer) -> None:
        challenges = parse_challenges(answer.headers.get("WWW-Authenticate", ""))
        if challenges:
            self._challenges = challenges

    def _authorization(self, scope: str) -> str | None:
        """Return the Authorization header for ``scope``; None where the registry asked for none."""
        if self._credentials.registry_token is not None:
            return f"Bearer {self._credentials.registry_token}"
        schemes = {challenge.scheme: challenge for challenge in reversed(self._challenges)}
        if "bearer" in schemes:
            with self._lock:
                return f"Bearer {self._token(schemes['bearer'], scope).value}"
        if "basic" in schemes and self._credentials.username is not None:
            return basic_authorization(self._credentials)
        return None

    def _forget_token(self, scope: str, authorization: str | None) -> None:
        """Drop the token that was refused, unless another thread has a newer one already."""
        with self._lock:
            held = self._tokens.get(scope)
            if held is not None and f"Bearer {held[0].value}" == authorization:
                del self._tokens[scope]

    def _token(self, challenge: Challenge, scope: str) -> Token:
        held = self._tokens.get(scope)
        if held is None or held[1] <= time.monotonic():
            token = self._fetch_token(plan_token_request(challenge, self._credentials, scope))
            held = (token, time.monotonic() + max(token.lifetime_seconds - _RENEWAL_SECONDS, 0))
            self._tokens[scope] = held
        return held[0]

    def _fetch_token(self, planned: TokenRequest) -> Token:
        realm = redacted(planned.url)
        subject = f"registry {self._endpoint.registry}: its token service"
        try:
            answer = self._transport.send(
                WireRequest(
                    "GET" if planned.form is None else "POST",
                    planned.url,
                    subject,
                    authorization=planned.authorization,
                    body=planned.form,
                )
            )
        except (TransferError, AuthenticationError) as error:
            raise self._explain(error, realm) from error
        try:
            raw = answer.read_up_to(MAX_TOKEN_BODY_BYTES + 1)
        finally:
            answer.close()
        if len(raw) > MAX_TOKEN_BODY_BYTES:
            raise AuthenticationError(f"token service {realm}: expected at most {MAX_TOKEN_BODY_BYTES} bytes, got more")
        return parse_token(raw, realm)

    def _explain(self, error: RegistryError, realm: str) -> RegistryError:
        """Say whose fault it is that there is no token; the user named the registry only, not this service."""
        if isinstance(error, AuthenticationError):
            return error
        return TransferError(
            f"{error}; the registry's own token service is misconfigured or unreachable",
            method=error.method,
            url=error.url,
            status=error.status,
            codes=error.codes,
            hint=f"registry {self._endpoint.registry} sends its clients to {realm} for tokens: tell those who run it",
        )


def _rest_of(answer: Answer) -> bytes:
    try:
        return answer.read_up_to(_MAX_PING_BODY_BYTES)
    finally:
        answer.close()
