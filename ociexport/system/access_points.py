"""Access points: places in a compressed layer where inflating can begin, so that a file is read without all before it.

There are two kinds. At the beginning of a gzip member, a zstd frame or another stream, nothing else is needed. Within a
gzip member, at the beginning of a deflate block, the 32 KiB of output before it are needed too: its window.

Points as bytes::

    head     JSON: "version", "spacing" in bytes of the tar, "count"; then a newline
    numbers  three columns of signed 64-bit little-endian numbers: bits of the blob before the point, bytes of the tar
             before it, bytes of its window as stored, -1 for a point that needs none
    windows  one after another, each compressed by zlib
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from bisect import bisect_right, insort
from collections.abc import Iterator

from ociexport.spec.named_tuple import NamedTuple

# Inflating this much takes a fortieth of a second. A window takes some 12 KiB.
_SPACING_BYTES = 8 * 1024 * 1024
# With more points, every second one is dropped.
_MAX_POINTS = 4096
# The window of deflate; RFC 1951 §2.
WINDOW_BYTES = 32 * 1024
_VERSION = 1
_NO_WINDOW = -1


class AccessPoint(NamedTuple):
    """A place in a compressed layer where inflating can begin.

    Args:
        tar_offset: bytes of the tar before it.
        bit: bits of the blob before it.
        window: the output before it, compressed by zlib; None if a stream begins here.
    """

    tar_offset: int
    bit: int
    window: bytes | None

    def unpacked_window(self) -> bytes:
        """Return the output before the point; ``b""`` if none is needed.

        Raises:
            zlib.error: it is damaged.
        """
        if self.window is None:
            return b""
        return zlib.decompressobj().decompress(self.window, WINDOW_BYTES)


START = AccessPoint(0, 0, None)


class AccessPoints:
    """The access points of one layer, in order.

    Args:
        spacing: of the points, in bytes of the tar; None for the usual one.

    Attributes:
        is_changed: whether points were added since they were loaded.
    """

    def __init__(self, spacing: int | None = None) -> None:
        self.spacing = spacing or _SPACING_BYTES
        self.is_changed = False
        self._points: list[AccessPoint] = []

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[AccessPoint]:
        return iter(self._points)

    def wants(self, tar_offset: int) -> bool:
        """Whether a point here is far enough from the others."""
        points = self._points  # another thread may drop some
        place = bisect_right(points, tar_offset, key=_tar_offset)
        before = points[place - 1].tar_offset if place else 0
        return tar_offset - before >= self.spacing and (
            place == len(points) or points[place].tar_offset - tar_offset >= self.spacing
        )

    def bytes_until_wanted(self, tar_offset: int) -> int:
        """Return after how many bytes of the tar a point may be wanted; 0 or less if one may be wanted here."""
        return self.before(tar_offset).tar_offset + self.spacing - tar_offset

    def add(self, point: AccessPoint) -> None:
        """Add a point that is wanted."""
        insort(self._points, point)
        self.is_changed = True
        if len(self._points) > _MAX_POINTS:
            self._points = self._points[1::2]
            self.spacing *= 2

    def add_stream(self, tar_offset: int, blob_offset: int) -> None:
        """Add the beginning of a gzip member, a zstd frame or another stream, if it is wanted."""
        if self.wants(tar_offset):
            self.add(AccessPoint(tar_offset, 8 * blob_offset, None))

    def before(self, tar_offset: int, *, windows: bool = True) -> AccessPoint:
        """Return the last point that is not after ``tar_offset``.

        Args:
            windows: whether it may be one that needs its window.
        """
        points = self._points
        place = bisect_right(points, tar_offset, key=_tar_offset)
        while place and not windows and points[place - 1].window is not None:
            place -= 1
        return points[place - 1] if place else START

    def is_far(self, tar_offset: int) -> bool:
        """Whether the last point before ``tar_offset`` is so far away that another one is worth its making."""
        return tar_offset - self.before(tar_offset).tar_offset >= 2 * self.spacing

    def add_all(self, others: AccessPoints) -> None:
        """Add those of other points of the same layer that are wanted."""
        for point in others._points:
            if self.wants(point.tar_offset):
                self.add(point)

    def dump(self) -> bytes:
        """Return the points as bytes."""
        numbers = array("q", [point.bit for point in self._points])
        numbers.extend(point.tar_offset for point in self._points)
        numbers.extend(_NO_WINDOW if point.window is None else len(point.window) for point in self._points)
        if sys.byteorder != "little":
            numbers.byteswap()
        head = {"version": _VERSION, "spacing": self.spacing, "count": len(self._points)}
        windows = (point.window for point in self._points if point.window is not None)
        return b"".join([json.dumps(head).encode(), b"\n", numbers.tobytes(), *windows])


def load_points(content: bytes) -> AccessPoints | None:
    """Return the points that `AccessPoints.dump` wrote; None if another version of this code did."""
    end = content.index(b"\n")
    head = json.loads(content[:end])
    if head["version"] != _VERSION:
        return None
    points, count = AccessPoints(head["spacing"]), head["count"]
    position = end + 1 + 3 * 8 * count
    numbers = array("q")
    numbers.frombytes(content[end + 1 : position])
    if sys.byteorder != "little":
        numbers.byteswap()
    for bit, tar_offset, size in zip(numbers[:count], numbers[count : 2 * count], numbers[2 * count :], strict=True):
        window = None if size == _NO_WINDOW else content[position : position + size]
        position += len(window or b"")
        points._points.append(AccessPoint(tar_offset, bit, window))
    return points


def _tar_offset(point: AccessPoint) -> int:
    return point.tar_offset
