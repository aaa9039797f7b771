"""Reads the data of some files of layers below, for a layer that has hard links to them.

A layer that is a directory is read there. A layer that is not, or whose files this user may not read, is read again
from the image.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from ociexport.images.source import BlobOpener
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits
from ociexport.layers.losses import Losses
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.layers.targets import PickingTarget
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, OPEN_FILE
from ociexport.rootfs.outputs.flat_image import Extent, SpoolingTree
from ociexport.rootfs.outputs.layers.index import Place
from ociexport.spec.config import Layer
from ociexport.system.progress.protocol import Progress

_CHUNK_BYTES = 1024 * 1024


def read_file_in(directory: str, parts: Sequence[bytes], size: int, spool: SpoolingTree) -> Sequence[Extent]:
    """Return where in the spool the data of a file in a layer's directory is.

    Args:
        directory: of the layer.
        parts: names that lead to the file; none of them is a link.
        size: of the file.

    Raises:
        OSError: the file can't be read, or is another one.
    """
    fd = os.open(directory, OPEN_DIRECTORY)
    try:
        for part, flags in zip(parts, [*[OPEN_DIRECTORY] * (len(parts) - 1), OPEN_FILE], strict=True):
            below = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = below
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size != size:
            raise OSError(errno.EIO, os.strerror(errno.EIO), parts[-1])
        segments = SparseSegments()
        for offset, count in _data_segments(fd, size):
            segments.add(offset, count)
        entry = IMPLIED_DIRECTORY._replace(type=EntryType.FILE, size=size, segments=segments)
        return spool.store(entry, _data_of(fd, segments))
    finally:
        os.close(fd)


def _data_segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        offset = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        yield begin, offset - begin


def _data_of(fd: int, segments: SparseSegments) -> Iterator[memoryview]:
    for offset, count in segments:
        position, end = offset, offset + count
        while position < end:
            chunk = os.pread(fd, min(_CHUNK_BYTES, end - position), position)
            if not chunk:
                raise OSError(errno.EIO, "a file of a layer below became shorter")
            yield memoryview(chunk)
            position += len(chunk)


def read_again(
    places: Sequence[Place],
    layers: Mapping[str, Layer],
    source: BlobOpener,
    spool: SpoolingTree,
    *,
    limits: Limits,
    progress: Progress,
) -> dict[Place, Sequence[Extent]]:
    """Return where in the spool the data of each file is; each layer that has some is read once, and verified.

    Args:
        places: of the files.
        layers: of the image, by diff_id.
        source: opens the layers.
        spool: takes the data.
    """
    found: dict[Place, Sequence[Extent]] = {}
    for diff_id in dict.fromkeys(place.diff_id for place in places):
        wanted = {(1, place.number): place for place in places if place.diff_id == diff_id}
        target = _Copying(wanted, spool, found)
        LayerApplier(target, limits, Losses()).apply_some(source, [layers[diff_id]], progress, doing="reading again")
    return found


class _Copying(PickingTarget[Place]):
    """Copies the data of the selected files to the spool."""

    def __init__(
        self, wanted: Mapping[tuple[int, int], Place], spool: SpoolingTree, found: dict[Place, Sequence[Extent]]
    ) -> None:
        super().__init__(wanted)
        self._spool = spool
        self._found = found

    def take_file(self, wanted: Place, entry: Entry, data: Iterator[memoryview]) -> None:
        self._found[wanted] = self._spool.store(entry, data) if entry.size else ()
