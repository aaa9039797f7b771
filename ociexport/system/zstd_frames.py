"""The headers of zstd frames: how much memory a frame takes to decompress.

Spec: RFC 8878 §3.1.1.1.
"""

from __future__ import annotations

# The magic number, a descriptor byte, a window byte, up to 4 bytes of a dictionary's id, up to 8 of the content's size.
MAX_HEADER_BYTES = 18
FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_BYTES = (0, 1, 2, 4)
_CONTENT_BYTES = (0, 2, 4, 8)
_SINGLE_SEGMENT = 0x20


def window_bytes_of(header: bytes) -> int:
    """Return how many bytes of its output a frame's decompressor keeps in memory.

    Args:
        header: the frame's first `MAX_HEADER_BYTES`; of a shorter or a skippable frame, 0 is returned.
    """
    if not header.startswith(FRAME_MAGIC) or len(header) < 6:
        return 0
    descriptor = header[4]
    position = 5
    window = None
    if not descriptor & _SINGLE_SEGMENT:
        exponent, mantissa = header[5] >> 3, header[5] & 7
        window = (1 << (10 + exponent)) // 8 * (8 + mantissa)
        position = 6
    position += _DICTIONARY_BYTES[descriptor & 3]
    count = _CONTENT_BYTES[descriptor >> 6] or (1 if window is None else 0)
    if not count:
        return window or 0
    content = int.from_bytes(header[position : position + count], "little") + (256 if count == 2 else 0)
    return content if window is None else min(window, content)
