"""KnownFiles: the files of a layer that was read and verified before, each read alone and compared with its digest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import DigestMismatchError, InvalidImageError, quoted_path
from ociexport.layers.change_index import LayerIndex
from ociexport.layers.file_notes import HashedData
from ociexport.layers.part_reader import PartReader
from ociexport.layers.tar.reader import Entry


class KnownFiles:
    """The files of one layer; a context manager.

    Args:
        reader: reads the layer's tar; closed with this object.
        index: of the layer.

    Attributes:
        are_as_before: whether all files that were read to their ends had their digests.
    """

    def __init__(self, reader: PartReader, index: LayerIndex) -> None:
        self._reader = reader
        self._index = index
        self.are_as_before = True

    def __enter__(self) -> KnownFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()

    @contextmanager
    def reading(self, entry: Entry, number: int) -> Iterator[tuple[Entry, Iterator[memoryview]]]:
        """Give a file's entry, with the segments of a sparse file, and its stored data, to be read to its end.

        Args:
            entry: as in the index.
            number: of the file in the layer, from 1.

        Raises:
            InvalidImageError: at the end of the ``with`` block or while reading: the data is not as it was when the
                layer was verified.
        """
        segments = self._index.segments
        if segments is None:
            raise InvalidImageError("the index has no segments of sparse files")
        entry = entry._replace(segments=segments.get(number - 1))
        count = entry.size if entry.segments is None else sum(count for _, count in entry.segments)
        data = HashedData(self._reader.read(self._index.offsets[number - 1], count))
        try:
            yield entry, data
            if data.digest != self._index.digest_of(number - 1):
                raise DigestMismatchError("expected the data that it had when the layer was verified, got other")
        except InvalidImageError as error:
            self.are_as_before = False
            error.add_place(f"entry {quoted_path(entry.name)}")
            raise

    def is_as_before(self, entry: Entry, number: int) -> bool:
        """Read a file, and return whether its data is as it was when the layer was verified."""
        with suppress(InvalidImageError):
            with self.reading(entry, number) as (_, data):
                for _ in data:
                    pass
            return True
        return False
