"""What a layout remembers of blobs that were read and verified, so that the next pull need not read them again.

``.ociexport/verified`` has a line for each blob: digest, size, inode, and both times of its file in nanoseconds; for a
layer with an index, see `layer_indexes`, also its diff_id, the digest of the index, and that of its access points, if
it has some. A blob whose file is as the line
says is taken as valid; any other is read. So damage that changes no time is not seen by a pull; `verify` and `unpack`
read all they use, and see it.

As in git's index, a stamp is not trusted if its file changed in the same tick of the file system's clock in which the
stamps were written, or later: a second change in that tick would leave the same times. Small blobs have no stamps,
since reading them takes less time than keeping stamps, and a layout of small blobs has no such file.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress

from ociexport.errors import InvalidDigestError, InvalidImageError
from ociexport.spec.digest import Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import number_in
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, OWN_DIRECTORY, blob_name
from ociexport.storage.layout_directory import LayoutDirectory

STAMPS_FILE = f"{OWN_DIRECTORY}/verified"
# SHA-256 of this takes a quarter of a millisecond.
MIN_STAMPED_BYTES = 256 * 1024
# A tenth of that: no image's documents, and no layer of a few files.
_MIN_REMEMBERED_BYTES = 32 * 1024
_HEAD = b"ociexport verified 1\n"
# Room for the stamps of 400,000 blobs. A line has at least a digest and four numbers.
_MAX_BYTES, _MIN_LINE_BYTES = 64 * 1024 * 1024, 72
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
        points: digest of the access points; None if the layer has none.
    """

    diff_id: Digest
    digest: Digest
    points: Digest | None = None


class KnownBlob(NamedTuple):
    """What is remembered of a blob."""

    stamp: BlobStamp
    index_name: IndexName | None = None


class _Stored(NamedTuple):
    """The lines of the file, which are parsed when they are needed: 10,000 take a tenth of a second.

    Args:
        lines: what follows the digest, by the digest's text.
        written_ns: when the file was written.
    """

    lines: dict[str, str]
    written_ns: int

    def get(self, digest: Digest) -> KnownBlob | None:
        """Return what is remembered of a blob; None if that is nothing, or not to be trusted."""
        known = _parse(self.lines.get(str(digest), ""))
        if known is None or max(known.stamp.mtime_ns, known.stamp.ctime_ns) >= self.written_ns:
            return None
        return known


class BlobStamps:
    """The stamps of one layout; several threads may use them.

    Args:
        directory: of the layout.
        recheck: whether stamps of earlier runs are ignored; new ones are written in any case.
    """

    def __init__(self, directory: LayoutDirectory, *, recheck: bool = False) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        # As read from the file; None before it is read.
        self._recheck = recheck
        self._stored: _Stored | None = None
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
        """Remember a blob whose file was verified, until `save`; if it is not small, also for later runs.

        One that is very small is read again in no time, and those of 10,000 images would take memory.
        """
        if index is None and status.st_size < _MIN_REMEMBERED_BYTES:
            return
        with self._lock:
            self._new[digest] = KnownBlob(BlobStamp.of(status), index)

    def _known(self, digest: Digest, stamp: BlobStamp) -> KnownBlob | None:
        new = self._new.get(digest)
        if new is not None and new.stamp == stamp and new.index_name is not None:
            return new
        if stamp.size >= MIN_STAMPED_BYTES:
            if self._stored is None:
                self._stored = _Stored({}, 0) if self._recheck else self._read()
            stored = self._stored.get(digest)
            if stored is not None and stored.stamp == stamp:
                return stored
        return new if new is not None and new.stamp == stamp else None

    def save(self) -> None:
        """Write what was verified since the last call; without any, do nothing. An error of the disk is ignored.

        Only the owner of a layout writes stamps, so that root leaves no directory of its own in the layout of another
        user, who could then write nothing more.
        """
        with self._lock:
            self._stored = None
            verified, self._new = self._new, {}
            new = {digest: known for digest, known in verified.items() if known.stamp.size >= MIN_STAMPED_BYTES}
            if not new or not self._directory.is_own():
                return
            stored = self._read()  # again, since another process may have added some
            before = {digest: stored.get(digest) for digest in new}
            for digest, known in new.items():
                earlier = before[digest]
                if earlier is not None and earlier.stamp == known.stamp and known.index_name is None:
                    new[digest] = earlier
            if before == new:
                return
            newest_ns = max(max(known.stamp.mtime_ns, known.stamp.ctime_ns) for known in new.values())
            with suppress(OSError, InvalidImageError):
                lines = {**self._kept(stored), **{str(digest): _line_of(known) for digest, known in new.items()}}
                self._wait_for_tick(newest_ns)
                content = _HEAD + "".join(f"{digest} {line}\n" for digest, line in lines.items()).encode()
                self._directory.write_file(STAMPS_FILE, content, aside=OWN_DIRECTORY, mode=0o600)

    def _kept(self, stored: _Stored) -> dict[str, str]:
        """Return the trusted lines of blobs that still exist; their directories are listed, which is fast."""
        existing: set[str] = set()
        for algorithm in self._directory.list_names(BLOBS_DIRECTORY) if stored.lines else ():
            with suppress(OSError, InvalidImageError):
                names = self._directory.list_names(f"{BLOBS_DIRECTORY}/{algorithm}")
                existing.update(f"{algorithm}:{name}" for name in names)
        return {
            digest: line
            for digest, line in stored.lines.items()
            if digest in existing and _newest_ns(line) < stored.written_ns
        }

    def indexed_layers(self) -> list[tuple[Digest, IndexName]]:
        """Return each blob with an index that exists, whether its file changed or not."""
        with self._lock:
            stored = self._read()
            with suppress(OSError, InvalidImageError):
                kept = self._kept(stored).items()
                lines = [(digest, line) for digest, line in kept if line.count(" ") >= len(BlobStamp._fields)]
                found = [(Digest.parse(digest), _parse(line)) for digest, line in lines]
                return [(digest, known.index_name) for digest, known in found if known is not None and known.index_name]
        return []

    def forget_removed(self) -> None:
        """Remove the file if none of its blobs is left."""
        with suppress(OSError, InvalidImageError):
            if self._directory.has(STAMPS_FILE) and not any(map(self._exists, self._read().lines)):
                self._directory.remove(STAMPS_FILE)

    def _exists(self, digest: str) -> bool:
        with suppress(InvalidDigestError):
            return self._directory.has(blob_name(Digest.parse(digest)))
        return False

    def _wait_for_tick(self, newest_ns: int) -> None:
        """Wait until the file system's clock is past ``newest_ns``, but not long."""
        end = time.monotonic() + _MAX_TICK_SECONDS
        while time.monotonic() < end and _file_clock_ns() <= newest_ns:
            time.sleep(0.001)

    def _read(self) -> _Stored:
        """Return the stamps; none if the file is missing, damaged, or could be written by another user."""
        nothing = _Stored({}, 0)
        try:
            with self._directory.open_file(STAMPS_FILE) as file:
                status = os.fstat(file.fileno())
                content = (file.read(status.st_size) or b"") if status.st_size <= _MAX_BYTES else b""
        except (OSError, InvalidImageError):
            return nothing
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not content.startswith(_HEAD):
            return nothing
        if content.count(b"\n") > len(content) // _MIN_LINE_BYTES + 1:  # not ours: the lines would take much memory
            return nothing
        lines = content.decode("ascii", "replace").split("\n")[1:-1]
        return _Stored(dict(line.split(" ", 1) for line in lines if " " in line), status.st_mtime_ns)


def _line_of(known: KnownBlob) -> str:
    return " ".join(str(field) for field in (*known.stamp, *(known.index_name or ())) if field is not None)


def _parse(line: str) -> KnownBlob | None:
    fields = line.split(" ")
    count = len(BlobStamp._fields)
    numbers = [number for number in map(number_in, fields[:count]) if number is not None]
    names = fields[count:]
    if len(numbers) != count or len(names) not in (0, 2, len(IndexName._fields)):
        return None
    with suppress(InvalidDigestError):
        return KnownBlob(BlobStamp(*numbers), IndexName(*map(Digest.parse, names)) if names else None)
    return None


def _newest_ns(line: str) -> float:
    """Return the later of both times in a line; infinity if there are none."""
    times = [number for number in map(number_in, line.split(" ")[2:4]) if number is not None]
    return max(times) if len(times) == 2 else math.inf


def _file_clock_ns() -> int:
    return time.clock_gettime_ns(_FILE_CLOCK) if sys.platform == "linux" else time.time_ns()
