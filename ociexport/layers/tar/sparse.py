"""Sparse files in a tar: GNU's old format and its three PAX formats, all parsed into (offset, bytes) segments.

Spec: GNU tar manual, "Storing Sparse Files", "Old GNU Format", "PAX Format, Versions 0.0, 0.1, 1.0".
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from ociexport.errors import InvalidImageError, LimitExceededError, counted, quoted_path
from ociexport.layers.tar.header_fields import parse_number
from ociexport.layers.tar.pax import parse_decimal
from ociexport.spec.numerals import MAX_SIZE

# A map is kept in memory. A million segments are a sparse file of terabytes, or an attack.
MAX_SPARSE_SEGMENTS = 1_000_000
_ZEROS = bytes(64 * 1024)
# Major and minor version of the formats whose map is in the records; GNU tar 1.14 to 1.15.91 wrote no version.
_MAP_IN_RECORDS = frozenset({(b"", b""), (b"0", b"0"), (b"0", b"1")})


class SparseSegments:
    """The segments of a sparse file, as a sequence of (offset, bytes); each takes 16 bytes of memory."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q")

    def add(self, offset: int, count: int) -> None:
        """Append a segment.

        Raises:
            InvalidImageError: a number is too large for a file.
            LimitExceededError: there are too many segments.
        """
        try:
            self._numbers.extend((offset, count))
        except OverflowError as error:
            raise _disorder(offset, count) from error
        _verify_count(len(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparseSegments) and self._numbers == other._numbers

    __hash__ = None  # type: ignore[assignment] # mutable, like a list

    def __repr__(self) -> str:
        return f"SparseSegments({list(self)})"

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)


def parse_gnu_sparse_headers(block: bytes, read_block: Callable[[], bytes]) -> tuple[SparseSegments, int]:
    """Return the segments and the real size of a file of type ``S``.

    Args:
        block: the file's header, with four segments at byte 386, a flag for more, and the real size.
        read_block: returns the next extension block, of 21 segments.
    """
    segments = SparseSegments()
    _add_gnu_segments(segments, block[386:482])
    size = parse_number(block[483:495], "sparse size")
    extended = block[482]
    while extended:
        block = read_block()
        _add_gnu_segments(segments, block[:504])
        extended = block[504]
    return segments, size


def _add_gnu_segments(segments: SparseSegments, numbers: bytes) -> None:
    for start in range(0, len(numbers), 24):
        if not numbers[start + 12]:
            break
        offset, count = numbers[start : start + 12], numbers[start + 12 : start + 24]
        segments.add(parse_number(offset, "sparse offset"), parse_number(count, "sparse bytes"))


def parse_pax_sparse(
    sparse: dict[bytes, bytes], size: int, read_block: Callable[[], bytes]
) -> tuple[SparseSegments, int] | None:
    """Return the segments of a file and its real size from GNU's records; None if they contain no map.

    Without a map, or with an unknown version, the records are ignored, as in Go's archive/tar. Readers must agree on
    the size: otherwise one of them reads data as headers. A map without numbers is refused, as in GNU tar; bsdtar takes
    such a file for one hole, and Go for a file without holes, unless the records name the version.

    Args:
        sparse: the records.
        size: size of the data, which is also the real size unless a record gives another.
        read_block: returns the data's next block, for a map in front of the data.

    Raises:
        InvalidImageError: a number does not parse, or the map is broken.
    """
    version = (sparse.get(b"GNU.sparse.major", b""), sparse.get(b"GNU.sparse.minor", b""))
    if version == (b"1", b"0"):
        segments = _read_map_before_data(read_block)
    elif version in _MAP_IN_RECORDS and b"GNU.sparse.map" in sparse:
        segments = _parse_map_in_records(sparse[b"GNU.sparse.map"])
        _verify_numblocks(sparse, segments)
    else:
        return None
    # Format 1.0 has the second key, the older formats the first.
    for key in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
        if sparse.get(key):
            return segments, parse_decimal(key, sparse[key])
    return segments, size


def _parse_map_in_records(text: bytes) -> SparseSegments:
    """Return the segments of format 0.1, or of format 0.0 after its pairs were joined."""
    if not text:
        raise InvalidImageError("tar: sparse map: expected pairs of numbers in GNU.sparse.map, got none")
    numbers = [parse_decimal(b"GNU.sparse.map", number) for number in text.split(b",")]
    if len(numbers) % 2:
        raise InvalidImageError(f"tar: sparse map: expected pairs of numbers, got {counted(len(numbers), 'number')}")
    segments = SparseSegments()
    for offset, count in zip(numbers[::2], numbers[1::2], strict=True):
        segments.add(offset, count)
    return segments


def _verify_numblocks(sparse: dict[bytes, bytes], segments: SparseSegments) -> None:
    """Return if the map has as many segments as the records say, or if they do not say how many."""
    key = b"GNU.sparse.numblocks"
    if key in sparse and (count := parse_decimal(key, sparse[key])) != len(segments):
        raise InvalidImageError(
            f"tar: sparse map: expected {counted(count, 'segment')} (GNU.sparse.numblocks), got {len(segments)}"
        )


def _read_map_before_data(read_block: Callable[[], bytes]) -> SparseSegments:
    """Return the segments of format 1.0: decimal lines in front of the data, padded to whole blocks."""
    lines = _MapLines(read_block)
    count = lines.next_number()
    _verify_count(count)
    segments = SparseSegments()
    for _ in range(count):
        segments.add(lines.next_number(), lines.next_number())
    return segments


class _MapLines:
    """The numbers of a map, read block by block; after the map, the rest of its block is padding."""

    def __init__(self, read_block: Callable[[], bytes]) -> None:
        self._read_block = read_block
        self._rest = b""

    def next_number(self) -> int:
        while b"\n" not in self._rest:
            if len(self._rest) > 20:
                raise InvalidImageError(f"tar: sparse map: expected a number, got {quoted_path(self._rest[:20])}")
            self._rest += self._read_block()
        line, _, self._rest = self._rest.partition(b"\n")
        return parse_decimal(b"GNU.sparse map", line)


def verify_sparse_segments(segments: SparseSegments, size: int, stored_bytes: int) -> None:
    """Return if the segments are in order, do not overlap, are within the file, and cover exactly the stored data.

    Args:
        segments: as read from the tar.
        size: bytes of the file, holes included.
        stored_bytes: bytes of the data in the tar.

    Raises:
        InvalidImageError: they are not, or ``size`` is out of range.
    """
    end = 0
    for offset, count in segments:
        if offset < end or count < 0:
            raise _disorder(offset, count)
        end = offset + count
    if not 0 <= size <= MAX_SIZE:
        raise InvalidImageError(f"tar: sparse map: expected a size from 0 to {MAX_SIZE}, got {size}")
    if end > size:
        raise InvalidImageError(
            f"tar: sparse map: expected segments within {counted(size, 'byte')}, got one that ends at {end}"
        )
    mapped = sum(count for _, count in segments)
    if mapped != stored_bytes:
        raise InvalidImageError(
            f"tar: sparse map: expected segments of {counted(stored_bytes, 'byte')} in all, got {mapped}"
        )


def _disorder(offset: int, count: int) -> InvalidImageError:
    return InvalidImageError(f"tar: sparse map: expected segments in order, got {counted(count, 'byte')} at {offset}")


def _verify_count(count: int) -> None:
    if count > MAX_SPARSE_SEGMENTS:
        raise LimitExceededError(f"tar: sparse map: expected at most {MAX_SPARSE_SEGMENTS} segments, got {count}")


def filled_parts(segments: SparseSegments, size: int, data: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the whole content of a sparse file, with its holes as zeros.

    Args:
        segments: already verified against the data.
        size: bytes of the file, holes included.
        data: the stored data, in chunks of any size.
    """
    position = 0
    for offset, part in located_parts(segments, data):
        yield from _zeros(offset - position)
        yield part
        position = offset + len(part)
    yield from _zeros(size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        part = min(count, len(_ZEROS))
        yield _ZEROS[:part]
        count -= part


def located_parts(segments: SparseSegments, data: Iterator[memoryview]) -> Iterator[tuple[int, memoryview]]:
    """Yield the stored data of a sparse file in parts, each with its offset in the file.

    Args:
        segments: already verified against the data.
        data: the stored data, in chunks of any size.
    """
    chunk = memoryview(b"")
    for segment_offset, count in segments:
        offset, end = segment_offset, segment_offset + count
        while offset < end:
            chunk = chunk or next(data)
            part, chunk = chunk[: end - offset], chunk[end - offset :]
            yield offset, part
            offset += len(part)
