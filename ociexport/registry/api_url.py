"""ApiUrl: which URL of a server is right; the first request or a ping shows it.

A server may be named without a scheme, so that https and then http are tried, or have another URL of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from ociexport.errors import RegistryError, TransferError
from ociexport.registry.hosts.endpoints import Endpoint
from ociexport.registry.http.failures import is_malformed_answer, was_cut, was_plain_text, was_refused
from ociexport.registry.http.messages import Answer, WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl

# The answer to a ping is {} or an error; a longer answer does not come from a registry.
_MAX_PING_BODY_BYTES = 64 * 1024
# A server that does not answer the ping with 200 may still have the image.
_PING_STATUSES = frozenset({200, 400, 401, 403, 404, 405})
# How a server that expects TLS answers plain text, if at all.
_PLAIN_TEXT_STATUS = 400


class ApiUrl:
    """The URL of one server, found by several threads together.

    Args:
        endpoint: the server.
        transport: sends the pings.
        take_challenge: gets the server's own answer to each ping.

    Attributes:
        was_pinged: whether no ping can tell more about the server's challenges.
        asks: whether the last ping was answered with 401.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport, take_challenge: Callable[[Answer], None]) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._take_challenge = take_challenge
        self._lock = threading.Lock()
        self._known: str | None = None
        self._has_begun = False
        self._others_may_go = threading.Event()
        self.was_pinged = False
        self.asks = False

    @property
    def known(self) -> str | None:
        """The URL, if the server has answered there."""
        return self._known

    @property
    def is_choice(self) -> bool:
        """Whether the server may have one of several URLs."""
        return len(self._endpoint.api_urls) > 1

    # The first request

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """Let the first request of all threads go ahead, until it is known how the server wants to be asked."""
        with self._lock:
            is_first = not self._has_begun
            self._has_begun = True
        if not is_first:
            self._others_may_go.wait()
        try:
            yield
        finally:
            if is_first:
                self.let_others_go()

    def let_others_go(self) -> None:
        """Let all requests go: the server has shown how it wants to be asked."""
        self._others_may_go.set()

    def to_try(self, *, is_secret: bool) -> str | None:
        """Return the URL that the first request may go to; None if the URL is known, or must be found by a ping.

        Args:
            is_secret: whether the request has a secret, which is sent to the right URL only.
        """
        may_be_tried = self._known is None and not (is_secret and self.is_choice)
        return self._endpoint.api_urls[0] if may_be_tried else None

    def may_be_other(self, error: RegistryError) -> bool:
        """Whether another URL may be right after the first request to `to_try` ended with ``error``."""
        is_doubtful = isinstance(error, TransferError) or error.status == _PLAIN_TEXT_STATUS
        return self.is_choice and is_doubtful and not error.codes and self._known is None

    def keep(self, api_url: str, status: int = 200) -> None:
        """Keep ``api_url``, where the server answered, unless ``status`` leaves open whether it is the right one."""
        if status != _PLAIN_TEXT_STATUS:
            with self._lock:
                self._known = self._known or api_url

    # Pings

    def find(self, *, retries: bool = True) -> str:
        """Return the URL; the server has answered there, and its challenges are known.

        Spec: distribution-spec 1.1, "Determining Support".
        """
        with self._lock:
            if self._known is None:
                self._known = self._find(retries)
            return self._known

    def _find(self, retries: bool) -> str:
        *attempts, last = self._endpoint.api_urls
        for api_url in attempts:
            try:
                if self._ping_twice(api_url).status != _PLAIN_TEXT_STATUS:
                    return api_url
            except RegistryError as error:
                same_port = WebUrl.parse(api_url).port is not None
                if error.status is not None or is_malformed_answer(error) or (same_port and was_refused(error)):
                    # The server speaks this protocol, or would refuse the other one too.
                    self.ping(api_url, retries=retries)
                    return api_url
        try:
            self.ping(last, retries=retries)
        except TransferError as error:
            if not attempts or not was_plain_text(error):
                raise
            # The server speaks plain http, and did not answer the first attempts for another reason.
            last = attempts[-1]
            self.ping(last, retries=retries)
        return last

    def _ping_twice(self, api_url: str) -> Answer:
        """Ping, and ping again if the connection is cut: that does not show that the server has another scheme."""
        try:
            return self.ping(api_url, retries=False)
        except TransferError as error:
            if not was_cut(error):
                raise
        return self.ping(api_url, retries=False)

    def ping(self, api_url: str, *, retries: bool) -> Answer:
        """Return the server's answer to a ping, whose challenge is taken."""
        self.was_pinged = True
        answer = self._transport.send(
            WireRequest(
                "GET",
                WebUrl.parse(f"{api_url}/"),
                f"registry {self._endpoint.host}",
                accepted=_PING_STATUSES,
                home_headers=self._endpoint.headers,
                tls=self._endpoint.tls,
                retries=retries,
            )
        )
        self.asks = answer.status == 401
        if answer.is_from_home:
            self._take_challenge(answer)
        # The body is read only to make the connection reusable.
        with suppress(TransferError), closing(answer):
            answer.read_up_to(_MAX_PING_BODY_BYTES)
        return answer
