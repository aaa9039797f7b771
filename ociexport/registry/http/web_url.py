"""WebUrl: an http or https URL, parsed once by the parser that also makes the connection.

Two parsers may find two different hosts in one text. Then one host would be approved and the other contacted. Every
decision about a URL (which server may see secrets, which addresses are allowed, which proxy is used) and the connection
itself use this type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from ociexport.errors import RegistryError
from ociexport.spec.numerals import number_in

_URL = re.compile(r"(https?)://([^/?#]*)([^\x00-\x1f\x7f]*)", re.IGNORECASE | re.ASCII)
# A host before normalization: letters of any script, which IDNA converts to ASCII.
_WRITTEN_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|\w[\w-]*(?:\.\w[\w-]*)*\.?)(?::([0-9]{1,5})?)?")
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_][a-z0-9_-]*)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class InvalidUrlError(RegistryError):
    """A text is not an http or https URL with a plain ``host[:port]``."""


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A URL whose host is plain: no user, no ``%``, no backslash.

    Args:
        scheme: ``http`` or ``https``.
        host: in lower case and ASCII, without a trailing dot; an IPv6 address without its brackets.
        port: None for the scheme's default port.
        rest: path, query and fragment, exactly as received.
    """

    scheme: str
    host: str
    port: int | None
    rest: str

    @classmethod
    def parse(cls, text: str) -> WebUrl:
        """Return ``text``, which comes from outside this program, as a URL.

        Raises:
            InvalidUrlError: it has another scheme, a control character, an invalid port, or a host that is not plain.
                The message does not show the text, which may contain a secret.
        """
        matched = _URL.fullmatch(text)
        if matched is None or not (written := _WRITTEN_AUTHORITY.fullmatch(matched[2])):
            raise InvalidUrlError("expected an http or https URL with a plain host[:port]")
        try:
            # Only scheme and authority are parsed and normalized; the rest stays as received.
            dialled = parse_url(f"{matched[1]}://{matched[2]}/")
        except LocationParseError as error:
            raise InvalidUrlError("expected an http or https URL with a valid host") from error
        host = (dialled.host or "").lower().removesuffix(".")
        if not _HOST.fullmatch(host) or dialled.auth is not None or (written[1] and not number_in(written[1], 65535)):
            raise InvalidUrlError("expected an http or https URL with a plain host[:port]")
        return cls(matched[1].lower(), host.strip("[]"), dialled.port, matched[3])

    def join(self, location: str) -> WebUrl:
        """Return the target of a redirect from this URL to ``location``.

        Raises:
            InvalidUrlError: see `parse`.
        """
        # urljoin would silently drop some control characters; a valid URL contains none.
        if any(character < " " or character == "\x7f" for character in location):
            raise InvalidUrlError("expected no control characters in a URL")
        try:
            return WebUrl.parse(urljoin(str(self), location))
        except ValueError as error:
            raise InvalidUrlError("expected an http or https URL with a valid host") from error

    @property
    def authority(self) -> str:
        """``host[:port]``, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def actual_port(self) -> int:
        """The port to connect to."""
        return self.port or _DEFAULT_PORTS[self.scheme]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port, which all URLs of one server share."""
        return self.scheme, self.host, self.actual_port

    def may_show_secrets_to(self, there: WebUrl) -> bool:
        """Whether ``there`` is the same server as this one, and its connection is at least as safe."""
        is_upgrade = (self.scheme, self.actual_port, there.scheme, there.actual_port) == ("http", 80, "https", 443)
        return self.origin == there.origin or (self.host == there.host and is_upgrade)

    def __str__(self) -> str:
        """The URL as it is sent: canonical up to the port, and as received after that."""
        return f"{self.scheme}://{self.authority}{self.rest}"


def is_web_url(text: str) -> bool:
    """Whether `WebUrl.parse` accepts ``text``."""
    try:
        WebUrl.parse(text)
    except InvalidUrlError:
        return False
    return True
