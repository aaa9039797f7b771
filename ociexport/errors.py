"""Every error that ociexport raises, one tree.

    OciexportError
    ├─ UsageError                   what was asked for can't be meant: a target in use, options that exclude each other
    │  └─ InvalidReferenceError     an image reference or source name that does not parse
    ├─ InvalidDigestError           a digest that does not parse
    ├─ NotFoundError                the image, tag, layout or file is not there
    ├─ RegistryError                method, redacted URL, status, the registry's own codes
    │  ├─ AuthenticationError       401 or 403, or no token to be had
    │  ├─ RegistryNotFoundError     404; a NotFoundError too
    │  ├─ RateLimitError            429 after all retries
    │  └─ TransferError             the connection could not be made or broke, retries included
    ├─ InvalidImageError            the data we were given breaks the specification; `where` says at which field
    │  ├─ DigestMismatchError       the bytes are not those that the digest names
    │  │  └─ DiffIdMismatchError    the blob is the right one, but not the tar in it
    │  ├─ SizeMismatchError         more or fewer bytes than declared
    │  ├─ UnsupportedMediaTypeError a document or layer of a kind that can't be used here
    │  ├─ UnsafeEntryError          a tar entry would act outside the rootfs
    │  └─ LimitExceededError        larger than the limit that guards this machine
    ├─ SignatureError               not signed, or not by the keys that were given
    └─ NoMatchingPlatformError      lists the platforms there are

Local `OSError`s pass through as they are: the command line turns them into one line too.

A message gives place, subject, expected, got, in that order; `hint`, where the user can act, says what to do.

`describe_content` says what unexpected bytes are, in libmagic's words: it knows every format there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# What a registry or an archive wrote may be of any length; a message quotes so much of it.
MAX_QUOTED_CHARACTERS = 200
# libmagic tells by the beginning of a file; the tar magic stands at byte 257.
_MAX_LOOKED_AT_BYTES = 4096


class OciexportError(Exception):
    """The base of all errors that ociexport defines."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OciexportError):
    """What was asked for can't be done as asked; nothing was begun."""


class InvalidReferenceError(UsageError):
    """An image reference or a source name does not parse."""


class InvalidDigestError(OciexportError):
    """A text is no digest: unknown algorithm, wrong alphabet or wrong length."""


class NotFoundError(OciexportError):
    """The image, tag, layout or file that was named is not there."""


class RegistryError(OciexportError):
    """A registry answered with an error, or not as the protocol demands."""

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        url: str = "",
        status: int | None = None,
        codes: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        """Keep what the request was.

        Args:
            message: the whole line for people, with neither secret nor signed query string.
            method: of the HTTP request.
            url: of the request, redacted.
            status: of the HTTP response; None where there was none.
            codes: the registry's own, such as ``MANIFEST_UNKNOWN`` (distribution-spec, "Error Codes").
            hint: what the user can do.
        """
        super().__init__(message, hint=hint)
        self.method = method
        self.url = url
        self.status = status
        self.codes = tuple(codes)


class AuthenticationError(RegistryError):
    """The registry or its token service refused us, or no token was to be had."""


class RegistryNotFoundError(RegistryError, NotFoundError):
    """The registry says that it has no such repository, tag, manifest or blob."""


class RateLimitError(RegistryError):
    """The registry's quota is used up (429), retries included."""


class TransferError(RegistryError):
    """The connection could not be made or broke, retries included."""


class InvalidImageError(OciexportError):
    """Data that we were given breaks the specification."""

    def __init__(self, message: str, *, where: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.message = message
        self.where = where

    def add_place(self, place: str) -> None:
        """Put ``place`` in front of ``where``: an outer document tells its name as the error passes through."""
        self.where = f"{place}: {self.where}" if self.where else place

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class DigestMismatchError(InvalidImageError):
    """The bytes are not those that the digest names."""


class DiffIdMismatchError(DigestMismatchError):
    """The blob is what its digest says, but the tar in it is not the one that the config names."""


class SizeMismatchError(InvalidImageError):
    """There are more or fewer bytes than were declared."""


class UnsupportedMediaTypeError(InvalidImageError):
    """A document or layer is of a kind that can't be used here."""


class UnsafeEntryError(InvalidImageError):
    """A tar entry would act outside the rootfs; it was not applied."""


class LimitExceededError(InvalidImageError):
    """The data is larger than the limit that guards this machine."""


class SignatureError(OciexportError):
    """The image is not signed, or not by one of the keys that were given; nothing of it was kept."""


class NoMatchingPlatformError(OciexportError):
    """No manifest of an index fits the wanted platform; the message lists those there are."""


@contextmanager
def locating(place: str) -> Iterator[None]:
    """Add ``place`` to the `where` of any `InvalidImageError` that passes through."""
    try:
        yield
    except InvalidImageError as error:
        error.add_place(place)
        raise


def quoted(untrusted: object) -> str:
    """Return text from outside as a message may show it: one line, no control characters, bounded length."""
    if not isinstance(untrusted, str):
        return printable(repr(untrusted))
    return f"'{printable(untrusted)}'"


def printable(untrusted: str) -> str:
    """Return text from outside as it may stand within a line; see `quoted`."""
    safe = escaped(untrusted[: MAX_QUOTED_CHARACTERS + 1])
    return safe if len(safe) <= MAX_QUOTED_CHARACTERS else safe[:MAX_QUOTED_CHARACTERS] + "…"


def escaped(text: str) -> str:
    """Return ``text`` with all that a terminal might obey, or fail to show, written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def describe_content(content: bytes) -> str:
    """Return what ``content`` is, for an error message: ``HTML document, ASCII text``."""
    try:
        # pylibmagic brings the C library as a wheel and must be imported first: it tells python-magic where that is.
        import pylibmagic  # noqa: F401, PLC0415 - start-up: heavy, and only an error needs it
        import magic  # isort: skip # noqa: PLC0415 - start-up: as above

        description = str(magic.from_buffer(content[:_MAX_LOOKED_AT_BYTES]))
    except (ImportError, OSError):
        # An error about the real trouble must not be lost because this machine's libmagic is broken.
        return f"{len(content)} bytes of something else"
    return description


def quoted_path(path: bytes) -> str:
    """Return a path of any bytes as a message may show it."""
    return quoted(path.decode("utf-8", "backslashreplace"))
