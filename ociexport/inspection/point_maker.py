"""PointMaker: makes the access points of a gzip layer in a thread, while the layer is read for the first time."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing, suppress

from ociexport.errors import OciexportError
from ociexport.images.source import BlobOpener
from ociexport.spec.config import Layer
from ociexport.spec.digest import ByteStream
from ociexport.system.access_points import START, AccessPoints
from ociexport.system.compression import MAGIC_BYTES, compression_of
from ociexport.system.gzip_points import PointInflater, can_inflate_from_points
from ociexport.system.threads import start_thread


class PointMaker:
    """Makes the points of one layer; with one processor none, since reading would take twice as long.

    Args:
        source: opens the blob a second time.
        layer: whose points are made.
    """

    def __init__(self, source: BlobOpener, layer: Layer) -> None:
        self._source = source
        self._layer = layer
        self._points = AccessPoints()
        self._inflater: PointInflater | None = None
        self._thread: threading.Thread | None = None
        self._end = 0

    def extend(self, tar_offset: int) -> None:
        """Make the points up to this place, if they are not being made already."""
        if self._thread is None and _has_processors() and can_inflate_from_points():
            self._end = tar_offset
            self._inflater = PointInflater(self._open, START, self._points)
            self._thread = start_thread(self._make, name=f"points of layer {self._layer.number}")

    def finish(self) -> AccessPoints:
        """Wait for the points and return them."""
        if self._thread is not None:
            self._thread.join()
        return self._points

    def stop(self) -> None:
        """End the thread soon."""
        if self._inflater is not None:
            self._inflater.stop()

    def _make(self) -> None:
        # Whatever is wrong with the layer, its reading says better.
        with suppress(OciexportError, OSError):
            with closing(self._open(0)) as blob:
                if compression_of(blob.read(MAGIC_BYTES)) != "gzip":
                    return
            if self._inflater is not None:
                self._inflater.make_points(self._end)

    def _open(self, offset: int) -> ByteStream:
        return self._source.open_blob(self._layer.descriptor, offset)


def _has_processors() -> bool:
    """Whether this process may use more than one processor."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return (count or 1) > 1
