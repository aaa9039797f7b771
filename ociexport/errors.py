"""The tree of all errors that ociexport defines.

    OciexportError
    ├─ UsageError                   the request can't be carried out: a target in use, options that exclude each other
    │  └─ InvalidReferenceError     an image reference or source name that does not parse
    ├─ InvalidDigestError           a digest that does not parse
    ├─ NotFoundError                the image, tag, layout or file does not exist
    ├─ RegistryError                method, redacted URL, status, the registry's own codes
    │  ├─ AuthenticationError       401 or 403, or no token could be obtained
    │  ├─ RegistryNotFoundError     404; a NotFoundError too
    │  ├─ RateLimitError            429 after all retries
    │  └─ TransferError             the connection failed or broke, after all retries
    ├─ InvalidImageError            the image's data breaks the specification; `where` names the field
    │  ├─ DigestMismatchError       the bytes do not have the expected digest
    │  │  └─ DiffIdMismatchError    the blob has its digest, but the tar in it does not have its diff_id
    │  ├─ SizeMismatchError         more or fewer bytes than declared
    │  ├─ UnsupportedMediaTypeError a document or layer of an unsupported kind
    │  ├─ UnsafeEntryError          a tar entry would act outside the rootfs
    │  └─ LimitExceededError        larger than the limit that protects this machine
    ├─ MissingBlobsError            neither the source nor the destination has them
    ├─ SignatureError               not signed, or not by one of the given keys
    └─ NoMatchingPlatformError      lists the available platforms

Local `OSError`s are not translated; the command line prints them as one line too.

A message gives place, subject, expected, got, in that order. Where the user can act, `hint` gives the action.

`describe_content` names the format of unexpected bytes, as libmagic identifies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Text from a registry or an archive may be of any length; a message quotes at most this much of it.
MAX_QUOTED_CHARACTERS = 200
# libmagic identifies a file by its beginning; the tar magic is at byte 257.
_MAX_LOOKED_AT_BYTES = 4096
# The surrogate that stands for byte 0 of a file name (PEP 383).
_FIRST_BYTE = 0xDC00


class OciexportError(Exception):
    """The base of all errors that ociexport defines."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OciexportError):
    """The request can't be carried out as given; nothing was started."""


class InvalidReferenceError(UsageError):
    """An image reference or a source name does not parse."""


class InvalidDigestError(OciexportError):
    """A text is not a digest: unknown algorithm, wrong alphabet or wrong length."""


class NotFoundError(OciexportError):
    """The named image, tag, layout or file does not exist."""


class RegistryError(OciexportError):
    """A registry answered with an error, or broke the protocol."""

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
        """Keep the facts of the request beside the message.

        Args:
            message: the whole line for people, without secrets and signed query strings.
            method: the HTTP method.
            url: the request's URL, redacted.
            status: the HTTP status; None if no response arrived.
            codes: the registry's own error codes, such as ``MANIFEST_UNKNOWN`` (distribution-spec, "Error Codes").
            hint: what the user can do.
        """
        super().__init__(message, hint=hint)
        self.method = method
        self.url = url
        self.status = status
        self.codes = tuple(codes)
        # How long the server asks its clients to wait before they try again; None if it does not ask.
        self.asked_seconds: float | None = None


class AuthenticationError(RegistryError):
    """The registry or its token service denied access, or no token could be obtained."""


class RegistryNotFoundError(RegistryError, NotFoundError):
    """The registry has no such repository, tag, manifest or blob."""


class RateLimitError(RegistryError):
    """The registry's rate limit is exhausted (429), after all retries."""


class TransferError(RegistryError):
    """The connection failed or broke, after all retries."""


class _Placed:
    """An error in a document; outer documents, and the image, add their names in front."""

    message: str
    where: str

    def add_place(self, place: str) -> None:
        """Put ``place`` in front of ``where``: an outer document adds its name as the error passes through."""
        self.where = f"{place}: {self.where}" if self.where else place

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InvalidImageError(_Placed, OciexportError):
    """The image's data breaks the specification."""

    def __init__(self, message: str, *, where: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.message = message
        self.where = where


class DigestMismatchError(InvalidImageError):
    """The bytes do not have the expected digest."""


class DiffIdMismatchError(DigestMismatchError):
    """The blob has its digest, but the tar in it does not have the diff_id in the config."""


class SizeMismatchError(InvalidImageError):
    """There are more or fewer bytes than declared."""


class UnsupportedMediaTypeError(InvalidImageError):
    """A document or layer is of an unsupported kind."""


class UnsafeEntryError(InvalidImageError):
    """A tar entry would act outside the rootfs; it was not applied."""


class LimitExceededError(InvalidImageError):
    """The data is larger than the limit that protects this machine."""


class MissingBlobsError(OciexportError):
    """An image has blobs that neither the source nor the destination has; nothing was named."""


class SignatureError(OciexportError):
    """The image is not signed, or not by one of the given keys; nothing of it was kept."""


class NoMatchingPlatformError(_Placed, OciexportError):
    """No manifest of an index fits the requested platform; the message lists the available ones."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.message = message
        self.where = ""


@contextmanager
def locating(place: str) -> Iterator[None]:
    """Add ``place`` to the `where` of an error in a document that passes through."""
    try:
        yield
    except (InvalidImageError, NoMatchingPlatformError) as error:
        error.add_place(place)
        raise


def quoted(untrusted: object) -> str:
    """Return untrusted text in quotes, safe to show in a message: one line, no control characters, bounded length."""
    if not isinstance(untrusted, str):
        return printable(repr(untrusted))
    return f"'{printable(untrusted)}'"


def printable(untrusted: str) -> str:
    """Return untrusted text safe to show within a line, without quotes; see `quoted`."""
    safe = escaped(untrusted[: MAX_QUOTED_CHARACTERS + 1])
    return safe if len(safe) <= MAX_QUOTED_CHARACTERS else safe[:MAX_QUOTED_CHARACTERS] + "…"


def escaped(text: str) -> str:
    """Return ``text`` with each character that a terminal might obey, or can't show, as an escape.

    A byte of a file name that is not UTF-8 becomes ``\\xNN``, as in `quoted_path`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in with_bytes_shown(text)
    )


def with_bytes_shown(text: str) -> str:
    """Return ``text`` with each byte that is not UTF-8, which `os.fsdecode` keeps as a lone surrogate, as ``\\xNN``."""
    if text.isascii():
        return text
    return "".join(
        f"\\x{ord(character) - _FIRST_BYTE:02x}" if "\udc80" <= character <= "\udcff" else character
        for character in text
    )


def counted(count: int, noun: str) -> str:
    """Return a number and its noun for a message: ``1 layer``, ``3 layers``, ``0 entries``.

    Args:
        noun: in the singular; words before it may be part of it, as in ``free inode``. Its plural ends with ``s``, or
            with ``ies`` in place of a ``y`` after a consonant.
    """
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun[:-1]}ies" if noun[-1:] == "y" and noun[-2:-1] not in "aeiou" else f"{count} {noun}s"


def describe_content(content: bytes) -> str:
    """Return the format of ``content``, for an error message: ``HTML document, ASCII text``."""
    try:
        # pylibmagic's wheel holds the C library. It is imported first, because it shows python-magic where that is.
        import pylibmagic  # noqa: F401, PLC0415 - start-up: heavy, and only an error needs it
        import magic  # isort: skip # noqa: PLC0415 - start-up: as above

        description = str(magic.from_buffer(content[:_MAX_LOOKED_AT_BYTES]))
    except (ImportError, OSError):
        # A broken libmagic must not hide the error that is being reported.
        return f"{counted(len(content), 'byte')} of unidentified content"
    return description


def quoted_path(path: bytes) -> str:
    """Return a path of any bytes in quotes, safe to show in a message; see `quoted`."""
    return quoted(path.decode("utf-8", "backslashreplace"))
