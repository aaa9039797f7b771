"""What a layout remembers of blobs that were read and verified, so that the next pull need not read them again.

``.ociexport/verified`` has a line for each blob: digest, size, inode, and both times of its file in nanoseconds; for a
layer with an index, see `layer_indexes`, also its diff_id and the digest of the index. A blob whose file is as the line
says is taken as valid; any other is read. So damage that changes no time is not seen by a pull; `verify` and `unpack`
read all they use, and see it.

As in git's index, a stamp is not trusted if its file changed in the same tick of the file system's clock in which the
stamps were written, or later: a second change in that tick would leave the same times. Small blobs have no stamps,
since reading them takes less time than keeping stamps, and a layout of small blobs has no such file.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from ociexport.errors import InvalidDigestError, InvalidImageError
from ociexport.spec.digest import Digest
from ociexport.spec.numerals import number_in
from ociexport.storage.layout.blobs import OWN_DIRECTORY, blob_name
from ociexport.storage.layout_directory import LayoutDirectory

STAMPS_FILE = f"{OWN_DIRECTORY}/verified"
# SHA-256 of this takes a quarter of a millisecond.
MIN_STAMPED_BYTES = 256 * 1024
_HEAD = b"ociexport verified 1\n"
# Room for the stamps of two million blobs.
_MAX_BYTES = 256 * 1024 * 1024
# The kernel's clock for files has ticks of up to 10 ms. Waiting longer would not help on file systems whose times are
# in whole seconds; there, what was just written is read again once.
_MAX_TICK_SECONDS = 0.02
# CLOCK_REALTIME_COARSE, which gives files their times (clock_gettime(2)); Python has no name for it.
_FILE_CLOCK = 5


class BlobStamp(NamedTuple):
    """What changes if a file is replaced or written to.

    Args:
        size: in bytes.
        inode: number of the file.
        mtime_ns: nanoseconds since 1970.
        ctime_ns: the same; no program can set it.
    """

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> BlobStamp:
        """Return the stamp of a file."""
        return cls(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


class IndexName(NamedTuple):
    """Which index a layer has.

    Args:
        diff_id: of the layer, verified.
        digest: of the index.
    """

    diff_id: Digest
    digest: Digest


class KnownBlob(NamedTuple):
    """What is remembered of a blob."""

    stamp: BlobStamp
    index_name: IndexName | None = None


class BlobStamps:
    """The stamps of one layout; several threads may use them.

    Args:
        directory: of the layout.
        recheck: whether stamps of earlier runs are ignored; new ones are written in any case.
    """

    def __init__(self, directory: LayoutDirectory, *, recheck: bool = False) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        # As read from the file, without those that are not trusted; None before it is read.
        self._recheck = recheck
        self._stored: dict[Digest, KnownBlob] | None = None
        # Verified by this process.
        self._new: dict[Digest, KnownBlob] = {}

    def is_verified(self, digest: Digest, status: os.stat_result) -> bool:
        """Whether a blob's file is as it was when it was verified."""
        with self._lock:
            return self._known(digest, BlobStamp.of(status)) is not None

    def index_of(self, digest: Digest, status: os.stat_result) -> IndexName | None:
        """Return which index a verified blob has; None if it has none, or its file changed since."""
        with self._lock:
            known = self._known(digest, BlobStamp.of(status))
        return known.index_name if known is not None else None

    def add(self, digest: Digest, status: os.stat_result, index: IndexName | None = None) -> None:
        """Remember a blob whose file was verified, until `save`; if it is not small, also for later runs."""
        with self._lock:
            self._new[digest] = KnownBlob(BlobStamp.of(status), index)

    def _known(self, digest: Digest, stamp: BlobStamp) -> KnownBlob | None:
        new = self._new.get(digest)
        if new is not None and new.stamp == stamp and new.index_name is not None:
            return new
        if stamp.size >= MIN_STAMPED_BYTES:
            if self._stored is None:
                self._stored = {} if self._recheck else self._read()
            stored = self._stored.get(digest)
            if stored is not None and stored.stamp == stamp:
                return stored
        return new if new is not None and new.stamp == stamp else None

    def save(self) -> None:
        """Write what was verified since the last call; without any, do nothing. An error of the disk is ignored."""
        with self._lock:
            self._stored = None
            verified, self._new = self._new, {}
            new = {digest: known for digest, known in verified.items() if known.stamp.size >= MIN_STAMPED_BYTES}
            if not new:
                return
            stored = self._read()  # again, since another process may have added some
            for digest, known in new.items():
                before = stored.get(digest)
                if before is not None and before.stamp == known.stamp and known.index_name is None:
                    new[digest] = before
            if all(stored.get(digest) == known for digest, known in new.items()):
                return
            stored.update(new)
            kept = {digest: known for digest, known in stored.items() if self._directory.has(blob_name(digest))}
            newest_ns = max(max(known.stamp.mtime_ns, known.stamp.ctime_ns) for known in new.values())
            with suppress(OSError, InvalidImageError):
                self._wait_for_tick(newest_ns)
                content = _HEAD + b"".join(_line_of(digest, known) for digest, known in kept.items())
                self._directory.write_file(STAMPS_FILE, content, aside=OWN_DIRECTORY, mode=0o600)

    def remembered(self) -> dict[Digest, KnownBlob]:
        """Return what earlier runs left of blobs that still exist, whether their files changed or not."""
        with self._lock:
            stored = self._read()
        return {digest: known for digest, known in stored.items() if self._directory.has(blob_name(digest))}

    def forget_removed(self) -> None:
        """Remove the file if none of its blobs is left."""
        with suppress(OSError, InvalidImageError):
            if self._directory.has(STAMPS_FILE) and not self.remembered():
                self._directory.remove(STAMPS_FILE)

    def _wait_for_tick(self, newest_ns: int) -> None:
        """Wait until the file system's clock is past ``newest_ns``, but not long."""
        end = time.monotonic() + _MAX_TICK_SECONDS
        while time.monotonic() < end and _file_clock_ns() <= newest_ns:
            time.sleep(0.001)

    def _read(self) -> dict[Digest, KnownBlob]:
        """Return the trusted stamps; none if the file is missing, damaged, or could be written by another user."""
        try:
            with self._directory.open_file(STAMPS_FILE) as file:
                status = os.fstat(file.fileno())
                content = file.read(_MAX_BYTES) or b""
        except (OSError, InvalidImageError):
            return {}
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not content.startswith(_HEAD):
            return {}
        found = filter(None, map(_parse_line, content.decode("ascii", "replace").split("\n")[1:-1]))
        return {
            digest: known
            for digest, known in found
            if max(known.stamp.mtime_ns, known.stamp.ctime_ns) < status.st_mtime_ns
        }


def _line_of(digest: Digest, known: KnownBlob) -> bytes:
    return " ".join(map(str, (digest, *known.stamp, *(known.index_name or ())))).encode() + b"\n"


def _parse_line(line: str) -> tuple[Digest, KnownBlob] | None:
    digest, *fields = line.split(" ")
    count = len(BlobStamp._fields)
    numbers = [number for number in map(number_in, fields[:count]) if number is not None]
    names = fields[count:]
    if len(numbers) != count or len(names) not in (0, len(IndexName._fields)):
        return None
    with suppress(InvalidDigestError):
        index = IndexName(*map(Digest.parse, names)) if names else None
        return Digest.parse(digest), KnownBlob(BlobStamp(*numbers), index)
    return None


def _file_clock_ns() -> int:
    return time.clock_gettime_ns(_FILE_CLOCK) if sys.platform == "linux" else time.time_ns()
