"""Half-MD4, the hash by which ext4 indexes the names in a large directory; many names are hashed at once.

One step of the hash takes a microsecond in Python, and a name takes 24 or more. So each step is done for thousands of
names by one operation on a long integer, in which every name has a lane of 64 bits for its 32-bit word. The upper half
of a lane takes the carry of additions and what a rotation shifts out.

Spec: Linux Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories"; RFC 1320, section 3.4 (MD4, of which
this is the first 24 of 48 steps, with half of the input).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

HALF_MD4 = 1
_CHUNK_BYTES = 32
_LANE_BYTES = 8
# So many that their long integers stay in the processor's cache.
_BATCH = 4096
# The kernel keeps this value for the end of a directory when it is read.
_END, _BEFORE_END = 0xFFFFFFFE, 0xFFFFFFFC

_Function = Callable[[int, int, int], int]
# Each round: its function, its constant, the order of the input's words, the rotations.
_ROUNDS: tuple[tuple[_Function, int, tuple[int, ...], tuple[int, ...]], ...] = (
    (lambda x, y, z: z ^ (x & (y ^ z)), 0, (0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19)),
    (lambda x, y, z: (x & y) + ((x ^ y) & z), 0x5A827999, (1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13)),
    (lambda x, y, z: x ^ y ^ z, 0x6ED9EBA1, (3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15)),
)


def half_md4_of(names: Sequence[bytes], seed: bytes) -> list[tuple[int, int]]:
    """Return the hash of each name, and the minor hash, which orders names of the same hash.

    Args:
        names: of 1 to 255 bytes; they are hashed as unsigned bytes.
        seed: 16 bytes.
    """
    found: list[tuple[int, int]] = [(0, 0)] * len(names)
    by_chunks: dict[int, list[int]] = {}
    for index, name in enumerate(names):
        by_chunks.setdefault((len(name) + _CHUNK_BYTES - 1) // _CHUNK_BYTES, []).append(index)
    for chunks, indexes in by_chunks.items():
        for begin in range(0, len(indexes), _BATCH):
            batch = indexes[begin : begin + _BATCH]
            hashes = _hash_batch([names[index] for index in batch], chunks, seed)
            for index, pair in zip(batch, hashes, strict=True):
                found[index] = pair
    return found


def _hash_batch(names: list[bytes], chunks: int, seed: bytes) -> list[tuple[int, int]]:
    count = len(names)
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
    lanes = 0xFFFFFFFF * ones
    state = [word * ones for word in struct.unpack("<4I", seed)]
    for chunk in range(chunks):
        begin = chunk * _CHUNK_BYTES
        words = _words(b"".join([_padded(name[begin:]) for name in names]), count)
        mixed = state
        for function, constant, order, rotations in _ROUNDS:
            for step, word in enumerate(order):
                a, b, c, d = mixed
                rotation = rotations[step % 4]
                a = (a + function(b, c, d) + words[word] + constant * ones) & lanes
                a = (a << rotation | a >> 32 - rotation) & lanes
                mixed = [d, a, b, c]
        state = [(old + new) & lanes for old, new in zip(state, mixed, strict=True)]
    majors, minors = (_values(state[index], count) for index in (1, 2))
    return [
        (major & ~1 if major & ~1 != _END else _BEFORE_END, minor) for major, minor in zip(majors, minors, strict=True)
    ]


def _padded(rest: bytes) -> bytes:
    """Return the next chunk of a name: big-endian words, filled up with the number of bytes that are left."""
    left = len(rest)
    if left >= _CHUNK_BYTES:
        return rest[:_CHUNK_BYTES]
    whole = left & ~3
    fill = bytes((left,))
    # The last word, if it is not whole, has the fill in front.
    last = fill * (4 - left + whole) + rest[whole:] if left != whole else b""
    return (rest[:whole] + last).ljust(_CHUNK_BYTES, fill)


def _words(chunks: bytes, count: int) -> list[int]:
    words = []
    for word in range(0, _CHUNK_BYTES, 4):
        lanes = bytearray(_LANE_BYTES * count)
        for byte in range(4):
            lanes[byte::_LANE_BYTES] = chunks[word + 3 - byte :: _CHUNK_BYTES]
        words.append(int.from_bytes(lanes, "little"))
    return words


def _values(lanes: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", lanes.to_bytes(_LANE_BYTES * count, "little"))
