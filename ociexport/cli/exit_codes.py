"""The exit codes. They are stable: scripts may rely on them."""

from __future__ import annotations

from collections.abc import Iterable

from ociexport.errors import (
    AuthenticationError,
    DigestMismatchError,
    InvalidDigestError,
    InvalidImageError,
    MissingBlobsError,
    NoMatchingPlatformError,
    NotFoundError,
    RateLimitError,
    RegistryError,
    SignatureError,
    SizeMismatchError,
    TransferError,
    UsageError,
)

OK = 0
OTHER_FAILURE = 1
USAGE = 2
NOT_FOUND = 3
AUTHENTICATION = 4
NETWORK = 5
QUOTA = 6
INTEGRITY = 7
MALFORMED_IMAGE = 8
DISK = 9
NO_SUCH_PLATFORM = 10
# A shell reports this for a program that SIGHUP has ended: its terminal was closed.
HUNG_UP = 129
INTERRUPTED = 130
# A shell reports this for a program that SIGPIPE has ended: the reader of standard output, such as `head`, has ended.
READER_GONE = 141
TERMINATED = 143

# The first class that matches decides, so a derived class stands before its base.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, USAGE),
    (InvalidDigestError, USAGE),
    (NotFoundError, NOT_FOUND),
    (AuthenticationError, AUTHENTICATION),
    (RateLimitError, QUOTA),
    (TransferError, NETWORK),
    (RegistryError, OTHER_FAILURE),
    (DigestMismatchError, INTEGRITY),
    (SizeMismatchError, INTEGRITY),
    (MissingBlobsError, INTEGRITY),
    (SignatureError, INTEGRITY),
    (InvalidImageError, MALFORMED_IMAGE),
    (NoMatchingPlatformError, NO_SUCH_PLATFORM),
    (FileNotFoundError, NOT_FOUND),
    (OSError, DISK),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code_of(error: BaseException) -> int:
    """Return the code that the command ends with after ``error``."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), OTHER_FAILURE)


def worst_of(codes: Iterable[int]) -> int:
    """Return the code of a command that worked on several images: `INTEGRITY` if any has it, or else the highest."""
    return max(codes, key=lambda code: (code == INTEGRITY, code), default=OK)
