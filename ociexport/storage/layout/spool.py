"""Where layers are inflated to before an archive is written: a tar says a file's size before its content."""

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
    """Give a layout in ``PATH.partial.layers``; who has it is alone.

    After an error that another try may mend it stays, and the next try takes the layers in it.

    Raises:
        UsageError: something else is in the place.
    """
    directory = f"{partial_name(path)}.layers"
    fd = _open_locked(directory)
    try:
        yield ImageLayout(directory)
    except (InvalidImageError, NotFoundError):
        shutil.rmtree(directory)
        raise
    except BaseException:
        _remove_if_in_vain(directory)
        raise
    else:
        shutil.rmtree(directory)
    finally:
        os.close(fd)


@contextmanager
def spool_elsewhere() -> Iterator[ImageLayout]:
    """Give a layout in the directory for temporary files, which is gone afterwards."""
    with make_temporary_directory() as directory:
        yield ImageLayout(directory)


def _open_locked(directory: str) -> int:
    """Make the directory and return a descriptor of it, which no other process or thread has."""
    while True:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # removed by whoever had it
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise UsageError(f"{quoted(directory)}: expected a directory, got something else") from error
        try:
            # In a directory for all, such as /tmp, somebody else could change in theirs what was verified.
            if os.fstat(fd).st_uid != os.geteuid():
                raise UsageError(f"{quoted(directory)}: expected a directory of our own, got somebody else's")
            if is_still_there_once_locked(fd, directory):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _remove_if_in_vain(directory: str) -> None:
    """Remove the directory unless a layer is in it."""
    for _, _, names in os.walk(os.path.join(directory, "blobs")):
        if names:
            return
    shutil.rmtree(directory)
