"""CRC-32C, the checksum of all ext4 metadata, in pure Python at the speed of `bytes.translate`.

A loop over bytes in Python takes 100 ns a byte. But a CRC is linear: the CRC of a row is the exclusive or of what each
byte adds, and what a byte adds depends only on its value and on its distance from the end. So many rows of the same
width are computed at once, column by column: `bytes.translate` looks up what a whole column adds, and one exclusive or
of long integers adds it. Columns that have the same byte in all rows cost nearly nothing; most columns of inodes do.

Here a CRC is neither inverted before nor after: ext4 begins with all ones and stores the plain remainder.

Spec: Linux Documentation/filesystems/ext4/checksums.rst; RFC 3720, appendix B.4 (the polynomial).
"""

from __future__ import annotations

ALL_ONES = 0xFFFFFFFF
_POLYNOMIAL = 0x82F63B78  # bits reversed
# Rows are taken in segments of this size, the last one up to twice as long: so few distances occur, each with a table.
_SEGMENT_BYTES = 256


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_remainder(byte) for byte in range(256))
# What a byte adds, if `index` bytes follow it: the four bytes of the CRC, lowest first, each for all 256 values.
_Planes = tuple[bytes, bytes, bytes, bytes]
_planes_by_distance: list[_Planes] = [
    tuple(bytes(value >> shift & 0xFF for value in _TABLE) for shift in (0, 8, 16, 24))  # type: ignore[list-item]
]


def crc32c(data: bytes | bytearray | memoryview, crc: int = ALL_ONES) -> int:
    """Return the CRC of ``data`` after that of what came before; for a few short pieces."""
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def crc32c_of_rows(rows: bytes | bytearray, width: int, seeds: bytes, *, zeros: int = 0) -> bytes:
    """Return the CRC of each row, four bytes each, lowest first.

    Args:
        rows: the rows, one after the other.
        width: of a row, in bytes, at least 4.
        seeds: the CRC of what comes before each row, in the same form.
        zeros: how many zero bytes follow each row, which ``rows`` lacks.
    """
    total = width + zeros
    segments = max(1, total // _SEGMENT_BYTES)
    for segment in range(segments):
        begin = segment * _SEGMENT_BYTES
        end = begin + _SEGMENT_BYTES if segment + 1 < segments else total
        seeds = _crc_of_columns(rows, width, begin, end, seeds)
    return seeds


def _crc_of_columns(rows: bytes | bytearray, width: int, begin: int, end: int, seeds: bytes) -> bytes:
    """Return the CRC of each row's bytes from ``begin`` to ``end``, at least 4; beyond ``width`` they are zeros."""
    count = len(rows) // width
    planes = _planes_up_to(end - begin)
    total = [0, 0, 0, 0]
    same = 0  # what is added to all rows
    for position in range(begin, max(min(end, width), begin + 4)):
        column = bytes(rows[position::width]) if position < width else bytes(count)
        if position < begin + 4:  # the CRC so far is added to the first four bytes
            column = _sum(column, seeds[position - begin :: 4]).to_bytes(count, "little")
        added = planes[end - 1 - position]
        if not column.strip(column[:1]):
            if column[0]:
                same ^= int.from_bytes(bytes(plane[column[0]] for plane in added), "little")
            continue
        for index, plane in enumerate(added):
            total[index] ^= int.from_bytes(column.translate(plane), "little")
    crcs = bytearray(4 * count)
    for index in range(4):
        repeated = bytes((same >> 8 * index & 0xFF,)) * count
        crcs[index::4] = (total[index] ^ int.from_bytes(repeated, "little")).to_bytes(count, "little")
    return bytes(crcs)


def _planes_up_to(count: int) -> list[_Planes]:
    known, first = _planes_by_distance, _planes_by_distance[0]
    while len(known) < count:  # one more byte follows
        last = known[-1]
        lowest = last[0]
        shifted = (_sum(lowest.translate(first[index]), last[index + 1]).to_bytes(256, "little") for index in range(3))
        known.append((*shifted, lowest.translate(first[3])))  # type: ignore[arg-type]
    return known


def _sum(one: bytes, other: bytes) -> int:
    return int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
