"""Names content that should be a tar and is not, by its first bytes, with the command that gets what is in it."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from ociexport.system.compression import MAGIC_BYTES, compression_of

# As many of the first bytes as `format_of` needs.
FORMAT_HEAD_BYTES = 4096
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_OFFSET = 257
_BASE64_TEXT = re.compile(rb"[A-Za-z0-9+/\r\n]+={0,2}[\r\n]*")
_BLANKS = b"\r\n"


@dataclass(frozen=True, slots=True)
class KnownFormat:
    """A format that is not read.

    Args:
        name: with its article, as a message has it.
        command: writes to standard output what is in the file whose name follows; None where no one command does.
    """

    name: str
    command: str | None = None


_ZIP = KnownFormat("a zip archive")
_BY_MAGIC: tuple[tuple[bytes, KnownFormat], ...] = (
    (b"PK\x03\x04", _ZIP),
    (b"PK\x05\x06", _ZIP),  # an empty one
    (b"7z\xbc\xaf\x27\x1c", KnownFormat("a 7z archive")),
    (b"Rar!\x1a\x07", KnownFormat("a rar archive")),
    (b"070701", KnownFormat("a cpio archive")),
    (b"070707", KnownFormat("a cpio archive")),
    (b"hsqs", KnownFormat("a squashfs image")),
    # The properties that all encoders use by default, and a dictionary of 2**n bytes, whose lowest byte is 0.
    (b"\x5d\x00\x00", KnownFormat("lzma data", "xz --format=lzma -dc")),
    (b"\x04\x22\x4d\x18", KnownFormat("lz4 data", "lz4 -dc")),
    (b"\x02\x21\x4c\x18", KnownFormat("lz4 data", "lz4 -dc")),  # its older form
    (b"LZIP", KnownFormat("lzip data", "lzip -dc")),
    (b"\x89LZO\0\r\n\x1a\n", KnownFormat("lzop data", "lzop -dc")),
    (b"\x1f\x9d", KnownFormat("compress data", "gzip -dc")),
)
# For the formats that `read_tar_chunks` inflates.
DECOMPRESSING_COMMANDS = {"gzip": "gzip -dc", "zstd": "zstd -dc", "xz": "xz -dc", "bzip2": "bzip2 -dc"}


def format_of(head: bytes) -> KnownFormat | None:
    """Return the format of content that begins with ``head``, up to `FORMAT_HEAD_BYTES`; None if it is not known."""
    compression = compression_of(head[:MAGIC_BYTES])
    if compression is not None:
        return KnownFormat(f"{compression} data", DECOMPRESSING_COMMANDS[compression])
    for magic, found in _BY_MAGIC:
        if head.startswith(magic):
            return found
    return _base64_format_of(head)


def _base64_format_of(head: bytes) -> KnownFormat | None:
    """Return the format if ``head`` is base64 of a tar, or of another known format: any word could be base64."""
    if not _BASE64_TEXT.fullmatch(head):
        return None
    text = head.translate(None, _BLANKS)
    try:
        content = binascii.a2b_base64(text[: len(text) // 4 * 4])
    except binascii.Error:
        return None
    if content[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC):
        return KnownFormat("base64 of a tar", "base64 -d")
    found = None if _BASE64_TEXT.fullmatch(content) else format_of(content)
    return found and KnownFormat(f"base64 of {found.name}", "base64 -d")
