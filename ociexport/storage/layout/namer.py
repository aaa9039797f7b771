"""The process that names the images of other processes, so that ``index.json`` changes once for many of them.

A run on an executor has workers, which store images, and one process that began it and can name them: the namer. It
keeps a file of the layout locked, whose random name the workers were told. A worker that finds this file locked leaves
the names to the namer. Any other worker writes them itself: the namer has not begun or has ended, it sees another
directory under the same path, or the file system has no locks that all machines see.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import closing, suppress

from ociexport.errors import InvalidImageError
from ociexport.spec.digest import Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.index import ListedImage
from ociexport.storage.layout.hold import NAMER_FILE
from ociexport.storage.layout_directory import LayoutDirectory


class HandedOver(NamedTuple):
    """What a worker leaves to the namer.

    Args:
        names: of complete images, in their order.
        discarded: blobs of refused images.
    """

    names: tuple[ListedImage, ...]
    discarded: frozenset[Digest]


class Namer:
    """Tells workers that this process names their images, until it is closed. The caller holds the layout meanwhile.

    Args:
        directory: of the layout.
        mark: of the layout in this run: a random name.
    """

    def __init__(self, directory: LayoutDirectory, mark: str) -> None:
        self._directory = directory
        self._name = NAMER_FILE + mark
        self._fd = directory.open_locked(self._name)

    def close(self) -> None:
        """From now on, each worker names its own images."""
        with suppress(OSError, InvalidImageError):
            self._directory.remove(self._name)
        os.close(self._fd)


def has_namer(directory: LayoutDirectory, mark: str) -> bool:
    """Whether the run with this mark has a namer, which is alive and sees the same directory."""
    try:
        file = directory.open_file(NAMER_FILE + mark)
    except (OSError, InvalidImageError):
        return False
    with closing(file):
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask don't meet each other
        except BlockingIOError:
            return True
        except OSError:  # the file system has no locks
            return False
    return False
