"""Reports an error: one line, a hint if the user can act, and the exit code."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from typing import TypeGuard

from ociexport.cli.exit_codes import exit_code_of
from ociexport.errors import (
    MAX_QUOTED_CHARACTERS,
    InvalidImageError,
    InvalidReferenceError,
    RegistryError,
    TransferError,
    UnsupportedMediaTypeError,
    escaped,
)
from ociexport.spec.reference import as_path, is_path
from ociexport.transfer.sources.names import path_meant_by

# Linux accepts no longer path in a call; an image may have longer ones, and these are made through descriptors.
_PATH_MAX = 4096
# The commands that may meet a broken image, and the option of `verify` that checks as much as they read.
_MET_BY = {"pull": "", "push": "", "copy": "", "inspect": "", "unpack": "--deep ", "diff": "--deep "}


def report_error(
    error: BaseException, proof: str | None = None, path_hint: str | None = None, message: str | None = None
) -> int:
    """Print ``error`` on standard error and return the command's exit code.

    Args:
        proof: the result of `proof_of`.
        path_hint: the result of `path_hint_of`; it takes precedence over the error's own hint.
        message: its `one_line` with more before it; None for that alone.
    """
    print(f"ociexport: error: {message or one_line(error)}", file=sys.stderr)
    hint = path_hint or _hint_of(error, proof)
    if hint:
        print(f"hint: {escaped(hint)}", file=sys.stderr)
    return exit_code_of(error)


def path_hint_of(error: BaseException, image: str) -> str | None:
    """Return how to type ``image`` as a path, if its failed reference is also the name of a local file."""
    if not isinstance(error, RegistryError | InvalidReferenceError):
        return None
    path = path_meant_by(image)
    if path is None and not is_path(image) and os.path.exists(image):
        path = as_path(image)
    return f"a path begins with ./: {path}" if path is not None else None


def proof_of(command: str, image: str, error: BaseException, written: str | None = None) -> str | None:
    """Return what to do about an ``error`` in an image: the command that lists all problems; None for other commands.

    Args:
        written: the layout that the command writes to. An error in it is none of the image's.
    """
    if written and isinstance(error, InvalidImageError):
        from ociexport.storage.layout.blobs import OWN_DIRECTORY  # noqa: PLC0415 - start-up: few errors need it

        place = error.where.rpartition(": ")[2]
        if place.startswith(os.path.join(written, OWN_DIRECTORY, "")):
            own = shlex.quote(os.path.join(written, OWN_DIRECTORY))
            return f"no image needs {own}; while nothing uses the layout, it may be removed"
        if place.startswith(os.path.join(written, "")):
            return f"ociexport verify {shlex.quote(as_path(written))} lists its problems"
    if image == "-" or command not in _MET_BY:
        return None
    return f"ociexport verify {_MET_BY[command]}{shlex.quote(image)} lists its problems"


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; an `OSError`'s with the file's name first."""
    if isinstance(error, OSError) and error.strerror:
        names = [_shown(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        if _is_directory_gone(error):
            names.insert(0, "the working directory")
        text = ": ".join([*names, error.strerror])
    elif isinstance(error, UnicodeEncodeError):
        text = f"{error.object!a}: expected a name that the locale can write, got one beyond {error.encoding}"
    elif isinstance(error, MemoryError):
        text = "not enough memory"
    else:
        text = str(error) or type(error).__name__
    return escaped(" ".join(text.split("\n")))


def _hint_of(error: BaseException, proof: str | None) -> str | None:
    """Return what the user can do: the error's own hint, or else the hint for its kind."""
    if hint := getattr(error, "hint", None):
        return str(hint)
    if _is_directory_gone(error):
        return "it was removed; cd to another directory"
    if isinstance(error, UnicodeEncodeError):
        return "PYTHONUTF8=1 makes names UTF-8 whatever the locale"
    if _is_disk_full(error):
        # Small files use up inodes before bytes; the error's text then names inodes.
        unit = "-i" if "inodes" in (error.strerror or "") else "-h"
        return f"check the free space: df {unit} {shlex.quote(_nearest_directory(_path_of(error)))}"
    if isinstance(error, TransferError) and error.url:
        scheme, _, rest = error.url.partition("://")
        # Quoted, because the host may come from a redirect and hold characters that a shell would interpret.
        server = shlex.quote(f"{scheme}://{rest.partition('/')[0]}/v2/")
        return f"check whether the server can be reached from here: curl -I {server}"
    if isinstance(error, InvalidImageError) and not isinstance(error, UnsupportedMediaTypeError) and proof:
        return proof
    return None


def _is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether a directory's disk is full; False for a device or a stream such as /dev/full."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return False
    path = _path_of(error)
    if os.path.dirname(path) == "/dev" or path.startswith("/proc/"):
        return False
    return os.sep in path and (not os.path.exists(path) or os.path.isfile(path) or os.path.isdir(path))


def _nearest_directory(path: str) -> str:
    """Return the lowest directory above ``path`` that exists: clean-up may have removed what could not be written."""
    while path and not os.path.isdir(path):
        path = os.path.dirname(path)
    return path or "."


def _path_of(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def _shown(name: str | bytes) -> str:
    """Return a file's name; of a name too long for any call, both ends."""
    text = os.fsdecode(name)
    return text if len(text) <= _PATH_MAX else f"{text[:MAX_QUOTED_CHARACTERS]}…{text[-MAX_QUOTED_CHARACTERS:]}"


def _is_directory_gone(error: BaseException) -> bool:
    """Whether a file is missing because the working directory was removed."""
    if not isinstance(error, FileNotFoundError) or os.path.isabs(_path_of(error)):
        return False
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
