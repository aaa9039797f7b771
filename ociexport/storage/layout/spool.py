"""Spools for decompressed layers: a tar has a file's size before its content, so layers are decompressed first."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, quoted
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.locks import is_still_there_once_locked
from ociexport.system.partial_names import partial_name
from ociexport.system.temporary_files import make_temporary_directory


@contextmanager
def spool_beside(path: str) -> Iterator[ImageLayout]:
    """Give a layout in ``PATH.partial.layers``, locked for the caller.

    It is removed at the end. After an error that may be temporary it stays, and the next try uses its layers.

    Raises:
        UsageError: something other than a directory of this user has the name.
    """
    directory = f"{partial_name(path)}.layers"
    fd = _open_locked(directory)
    try:
        yield ImageLayout(directory)
    except (InvalidImageError, NotFoundError):
        shutil.rmtree(directory)
        raise
    except BaseException:
        _remove_unless_used(directory)
        raise
    else:
        shutil.rmtree(directory)
    finally:
        os.close(fd)


@contextmanager
def spool_elsewhere() -> Iterator[ImageLayout]:
    """Give a layout in the directory for temporary files; it is removed at the end."""
    with make_temporary_directory() as directory:
        yield ImageLayout(directory)


def _open_locked(directory: str) -> int:
    """Make the directory and return a descriptor of it, locked for the caller."""
    while True:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # its last user has just removed it
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise UsageError(f"{quoted(directory)}: expected a directory, got something else") from error
        try:
            # In a world-writable directory such as /tmp, the owner could change the layers after they are verified.
            if os.fstat(fd).st_uid != os.geteuid():
                raise UsageError(f"{quoted(directory)}: expected a directory of this user, got another user's")
            if is_still_there_once_locked(fd, directory):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _remove_unless_used(directory: str) -> None:
    """Remove the directory unless it contains a layer."""
    for _, _, names in os.walk(os.path.join(directory, "blobs")):
        if names:
            return
    shutil.rmtree(directory)
