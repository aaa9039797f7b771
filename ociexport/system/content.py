"""What a layer is that is no tar, told by its first bytes.

Spec: POSIX.1-2017 pax, "ustar Interchange Format", for the checksum of a header; the formats' own documents and
``file``'s magic for the numbers.
"""

from __future__ import annotations

import re

from ociexport.errors import UnsupportedMediaTypeError, quoted
from ociexport.spec.mediatypes import is_encrypted, may_be_tar

# How many bytes are looked at: a file system's magic number may stand behind two blocks.
LOOKED_AT_BYTES = 2048
_BLOCK_BYTES = 512
_CHECKSUM, _TAR_MAGIC = slice(148, 156), slice(257, 262)

# The first bytes of a format, and what a message calls it.
_MAGICS = (
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"\x02\x21\x4c\x18", "lz4 data"),
    (b"\x5d\0\0", "lzma data"),
    (b"LZIP", "lzip data"),
    (b"\x89LZO\0\r\n\x1a\n", "lzop data"),
    (b"\xff\x06\0\0sNaPpY", "snappy data"),
    (b"\x1f\x9d", "data of compress"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"07070", "a cpio archive"),
    (b"\xc7\x71", "a cpio archive"),
    (b"!<arch>\n", "an ar archive"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"hsqs", "a squashfs image"),
    (b"QFI\xfb", "a qcow2 image"),
    (b"\x7fELF", "an ELF file"),
    (b"\0asm", "a WebAssembly module"),
    (b"%PDF-", "a PDF document"),
    (b"Salted__", "data encrypted by openssl"),
    (b"age-encryption.org/", "data encrypted by age"),
    (b"-----BEGIN PGP MESSAGE", "data encrypted by PGP"),
)
# The same, with the place of the number.
_MAGICS_WITHIN = ((1024, b"\xe2\xe1\xf5\xe0", "an erofs image"), (1080, b"\x53\xef", "an ext file system"))
# A page may begin with comments.
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_NO_TEXT = re.compile(rb"[^\t\n\f\r\x20-\x7e\x80-\xff]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{60,}=*\s*")
_SHOWN_CHARACTERS = 60


def verify_begins_tar(head: bytes, media_type: str, outer: str | None) -> None:
    """Return if a layer begins as a tar does: with a header or zeros, or with nothing.

    Args:
        head: the first `LOOKED_AT_BYTES` of the layer, decompressed; fewer only if it has no more.
        media_type: of the layer, for the message; it decides nothing.
        outer: name of the format that ``head`` was decompressed from; None for a plain layer.

    Raises:
        UnsupportedMediaTypeError: it does not; the message names what it is.
    """
    if begins_tar(head):
        return
    kind = name_of_content(head)
    if kind is None and is_encrypted(media_type):
        raise encrypted_layer_error(media_type)
    within = f" within {outer} data" if outer is not None else ""
    got = f"{kind or 'bytes of no known format'}{within}"
    if kind is None and outer is None:
        got += ", as an encrypted layer has"
    declared = "" if may_be_tar(media_type) else f"; its media type is {quoted(media_type)}"
    hint = "a proxy or a login page may have answered in the registry's place" if kind == "an HTML page" else None
    raise UnsupportedMediaTypeError(f"expected a tar, got {got}{declared}", hint=hint)


def encrypted_layer_error(media_type: str) -> UnsupportedMediaTypeError:
    """Return the error for a layer whose media type says that it is encrypted, and which is not a tar."""
    return UnsupportedMediaTypeError(
        f"expected a tar, got an encrypted layer, of media type {quoted(media_type)}",
        hint="decrypt it first, as skopeo copy --decryption-key does",
    )


def begins_tar(head: bytes) -> bool:
    """Whether data that begins with ``head`` may be a tar; an empty tar is zeros, or nothing."""
    block = head[:_BLOCK_BYTES]
    if not block.strip(b"\0"):
        return True
    if len(block) < _BLOCK_BYTES:
        return False
    # Compared as text, so the field may hold anything.
    stored = block[_CHECKSUM].lstrip(b" \0").partition(b"\0")[0].strip(b" ").lstrip(b"0")
    others = block[: _CHECKSUM.start] + block[_CHECKSUM.stop :]
    total = sum(others) + 8 * ord(" ")
    # Old systems summed signed bytes.
    return stored in (b"%o" % total, b"%o" % max(total - 256 * sum(byte > 127 for byte in others), 0))


def is_meant_as_tar(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a tar, or one with a damaged first header, and no text.

    Unlike a layer, it has at least one whole block. The magic is looked at too, for an error that says "damaged".
    """
    return (len(head) >= _BLOCK_BYTES and begins_tar(head)) or has_tar_magic(head)


def has_tar_magic(head: bytes) -> bool:
    """Whether data that begins with ``head`` names itself a tar in its first header; old and empty tars do not."""
    return head[_TAR_MAGIC] == b"ustar"


def name_of_content(head: bytes) -> str | None:
    """Return what data that begins with ``head`` is, for a message; None for bytes of no known format."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    for place, magic, name in _MAGICS_WITHIN:
        if head.startswith(magic, place):
            return name
    if _NO_TEXT.search(head) is not None:
        return None
    return _name_of_text(head)


def _name_of_text(head: bytes) -> str | None:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # the last character may be cut
            return None
        text = head[: error.start].decode()
    text = text.lstrip("\ufeff").strip()
    if _HTML.search(head):
        return "an HTML page"
    if text.startswith("<?xml"):
        return "an XML document"
    if text.startswith(("{", "[")):
        return "JSON"
    if _BASE64.fullmatch(head):
        return "base64 text"
    return f"the text {quoted(text[:_SHOWN_CHARACTERS])}{'…' if len(text) > _SHOWN_CHARACTERS else ''}"
