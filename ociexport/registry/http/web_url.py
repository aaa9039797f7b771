"""WebUrl: an http or https URL, parsed once by the parser that also makes the connection.

Two parsers may find two different hosts in one text. Then one host would be approved and the other contacted. Every
decision about a URL (which server may see secrets, which addresses are allowed, which proxy is used) and the connection
itself use this type.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from ociexport.errors import RegistryError
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.numerals import number_in

_URL = re.compile(r"((?i:https?))://([^/?#]*)(.*)", re.ASCII | re.DOTALL)
# Control characters, and surrogates other than those of `text_of_header`; anything else can be sent.
_NOT_SENDABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Characters that can't stand in a request line.
_NOT_IN_TARGET = re.compile(r"[^\x21-\x7e]+")
# A host before normalization: letters of any script, which IDNA converts to ASCII.
_WRITTEN_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|\w[\w-]*(?:\.\w[\w-]*)*\.?)(?::([0-9]{1,5})?)?")
# An authority in which urllib3 changes nothing but the case. Its parser would compile patterns for two milliseconds.
_PLAIN_AUTHORITY = re.compile(r"(\w[\w-]*(?:\.\w[\w-]*)*)\.?(?::([1-9][0-9]{0,4}))?", re.ASCII)
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
        if matched is None or not _is_sendable(matched[3]):
            raise InvalidUrlError("expected an http or https URL with a plain host[:port]")
        plain = _PLAIN_AUTHORITY.fullmatch(matched[2])
        if plain is not None and (port := number_in(plain[2] or "0", 65535)) is not None:
            return cls(matched[1].lower(), plain[1].lower(), port or None, matched[3])
        if not (written := _WRITTEN_AUTHORITY.fullmatch(matched[2])):
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
        """Return the target of a redirect from this URL to ``location``, with path and query as they came.

        Dot segments are resolved only where ``location`` is a path relative to this URL's.

        Args:
            location: of a header, made by `text_of_header`.

        Raises:
            InvalidUrlError: see `parse`.
        """
        if _SCHEME.match(location):
            return WebUrl.parse(location)
        if location.startswith("//"):
            return WebUrl.parse(f"{self.scheme}:{location}")
        location, _, _ = location.partition("#")
        path, _, _ = self.target.partition("?")
        if location.startswith("?"):
            rest = path + location
        elif location.startswith("/") or not location:
            rest = location or self.target
        else:
            directory, _, _ = path.rpartition("/")
            rest = _without_dot_segments(f"{directory}/{location}")
        return WebUrl.parse(f"{self.scheme}://{self.authority}{rest}")

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

    @property
    def target(self) -> str:
        """Path and query as they are sent, byte for byte as received.

        A signature may cover the spelling of each escape, so none is added to ASCII or changed. Only blanks and
        characters beyond ASCII, which can't stand in a request line, are percent-encoded, as UTF-8.
        """
        path_and_query, _, _ = self.rest.partition("#")
        received = path_and_query if path_and_query.startswith("/") else f"/{path_and_query}"
        return _NOT_IN_TARGET.sub(_percent_encoded, received)

    def may_show_secrets_to(self, there: WebUrl) -> bool:
        """Whether ``there`` is the same server as this one, and its connection is at least as safe."""
        is_upgrade = (self.scheme, self.actual_port, there.scheme, there.actual_port) == ("http", 80, "https", 443)
        return self.origin == there.origin or (self.host == there.host and is_upgrade)

    def __str__(self) -> str:
        """The URL for messages and for further parsing: canonical up to the port, and as received after that."""
        return f"{self.scheme}://{self.authority}{self.rest}"


def text_of_header(value: str) -> str:
    """Return a header's value as UTF-8; http.client makes one character of each byte.

    A byte that is not UTF-8 becomes a surrogate, which `WebUrl.target` sends as that byte.
    """
    return value if value.isascii() else value.encode("latin-1").decode("utf-8", "surrogateescape")


def _is_sendable(rest: str) -> bool:
    # The pattern is compiled only for a text that may match it: that takes half a millisecond.
    return (rest.isascii() and rest.isprintable()) or _NOT_SENDABLE.search(rest) is None


def _percent_encoded(characters: re.Match[str]) -> str:
    return quote_from_bytes(characters[0].encode("utf-8", "surrogateescape"), safe="")


def _without_dot_segments(path_and_query: str) -> str:
    """Spec: RFC 3986 5.2.4, "Remove Dot Segments"."""
    path, mark, query = path_and_query.partition("?")
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "".join(f"/{segment}" for segment in kept) + mark + query


def is_web_url(text: str) -> bool:
    """Whether `WebUrl.parse` accepts ``text``."""
    try:
        WebUrl.parse(text)
    except InvalidUrlError:
        return False
    return True
