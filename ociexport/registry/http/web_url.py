"""WebUrl: an http or https URL, parsed once by the parser that dials.

Two parsers may read two hosts in one text, so that one host is approved and another is asked. Every decision about a
URL (who may see secrets, which addresses it may lead to, which proxy it takes) and the connection itself use this type.
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
# A host as it is written: letters of any script, which IDNA makes ASCII.
_WRITTEN_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|\w[\w-]*(?:\.\w[\w-]*)*\.?)(?::([0-9]{1,5})?)?")
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_][a-z0-9_-]*)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class InvalidUrlError(RegistryError):
    """A text is no http or https URL with a plain ``host[:port]``."""


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A URL whose host is plain: no user, no ``%``, no backslash.

    Args:
        scheme: ``http`` or ``https``.
        host: in lower case and ASCII, without a trailing dot; an IPv6 address without its brackets.
        port: None where the scheme's is meant.
        rest: path, query and fragment, exactly as they came.
    """

    scheme: str
    host: str
    port: int | None
    rest: str

    @classmethod
    def parse(cls, text: str) -> WebUrl:
        """Return the URL that ``text``, which somebody else wrote, stands for.

        Raises:
            InvalidUrlError: it has another scheme, a control character, a port that can't be, or a host that is not
                plain. The message does not show the text, which may hold a secret.
        """
        matched = _URL.fullmatch(text)
        if matched is None or not (written := _WRITTEN_AUTHORITY.fullmatch(matched[2])):
            raise InvalidUrlError("expected an http or https URL with a plain host[:port]")
        try:
            # Only what decides where to go: the rest of the URL stays as it came.
            dialled = parse_url(f"{matched[1]}://{matched[2]}/")
        except LocationParseError as error:
            raise InvalidUrlError("expected an http or https URL with a host that can be") from error
        host = (dialled.host or "").lower().removesuffix(".")
        if not _HOST.fullmatch(host) or dialled.auth is not None or (written[1] and not number_in(written[1], 65535)):
            raise InvalidUrlError("expected an http or https URL with a plain host[:port]")
        return cls(matched[1].lower(), host.strip("[]"), dialled.port, matched[3])

    def join(self, location: str) -> WebUrl:
        """Return where a redirect from here to ``location`` leads.

        Raises:
            InvalidUrlError: see `parse`.
        """
        # urljoin drops some control characters; no URL has any.
        if any(character < " " or character == "\x7f" for character in location):
            raise InvalidUrlError("expected no control characters in a URL")
        try:
            return WebUrl.parse(urljoin(str(self), location))
        except ValueError as error:
            raise InvalidUrlError("expected an http or https URL with a host that can be") from error

    @property
    def authority(self) -> str:
        """``host[:port]``, an IPv6 address in its brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def actual_port(self) -> int:
        """The port that is dialled."""
        return self.port or _DEFAULT_PORTS[self.scheme]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what is the same for all URLs of one server."""
        return self.scheme, self.host, self.actual_port

    def may_show_secrets_to(self, there: WebUrl) -> bool:
        """Whether ``there`` is the same server as this one, reached no less safely."""
        is_upgrade = (self.scheme, self.actual_port, there.scheme, there.actual_port) == ("http", 80, "https", 443)
        return self.origin == there.origin or (self.host == there.host and is_upgrade)

    def __str__(self) -> str:
        """The URL as it is sent: canonical up to the port, and as it came from there on."""
        return f"{self.scheme}://{self.authority}{self.rest}"


def is_web_url(text: str) -> bool:
    """Whether ``text``, which somebody else wrote, is a URL that `WebUrl` takes."""
    try:
        WebUrl.parse(text)
    except InvalidUrlError:
        return False
    return True
