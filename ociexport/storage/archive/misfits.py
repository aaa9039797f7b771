"""Names what is no archive of images for what it is, with a command that makes one of it; only errors load this."""

from __future__ import annotations

import binascii
import os
import posixpath
import re
import shlex
from collections.abc import Sequence

from ociexport.errors import InvalidImageError, quoted
from ociexport.storage.archive.file_names import DOCKER_MANIFEST_FILE, REPOSITORIES_FILE
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE
from ociexport.system.content import LOOKED_AT_BYTES, begins_tar, has_tar_magic, name_of_content

# Any of these shows an archive's kind.
_LISTS = (INDEX_FILE, DOCKER_MANIFEST_FILE, REPOSITORIES_FILE)
_DAMAGED_HINT = "the archive is damaged or incomplete: copy or save it again"
# What a file may be instead, as `name_of_content` calls it, and the command that writes what is in it; None if several
# files may be in it.
_COMMANDS = {
    "gzip data": "gzip -dc",
    "zstd data": "zstd -dc",
    "xz data": "xz -dc",
    "bzip2 data": "bzip2 -dc",
    "lz4 data": "lz4 -dc",
    "lzma data": "xz --format=lzma -dc",
    "lzip data": "lzip -dc",
    "lzop data": "lzop -dc",
    "data of compress": "gzip -dc",
    "a zip archive": None,
    "a 7z archive": None,
    "a rar archive": None,
    "a cpio archive": None,
}
# As many of the first bytes as tell what a file is, also if it is encoded in base64.
_LOOKED_AT_BYTES = 2 * LOOKED_AT_BYTES
_BASE64_TEXT = re.compile(rb"[A-Za-z0-9+/\r\n]+={0,2}[\r\n]*")


def no_tar_error(fd: int, path: str, place: str, compression: str | None, reason: str) -> InvalidImageError:
    """Return the error for a file of which no entry could be read.

    Args:
        fd: the file, after decompression.
        path: the archive as a user names it.
        place: its name in messages.
        compression: the format in which it was compressed; None if it was not.
        reason: why no entry could be read.
    """
    head = os.pread(fd, _LOOKED_AT_BYTES, 0)
    name = _name_of_base64(head) or name_of_content(head[:LOOKED_AT_BYTES])
    if not head or begins_tar(head):
        what, hint = f"a damaged one ({reason})" if head else "an empty file", _DAMAGED_HINT
    elif name is not None and (name in _COMMANDS or name.startswith("base64 of ")):
        what, hint = name, _hint_for(_COMMANDS.get(name, "base64 -d"), path, compression)
    else:
        what = f"a damaged one or none ({name or reason})"
        hint = "an archive is a layout in a tar, or what docker save and podman save write"
    inside = "" if compression is None else f" in {compression} data"
    return InvalidImageError(f"expected a tar, got {what}{inside}", where=place, hint=hint)


def _name_of_base64(head: bytes) -> str | None:
    """Return what ``head`` is if it is base64 of a tar, or of another format with a command: any word may be base64."""
    if not _BASE64_TEXT.fullmatch(head):
        return None
    text = head.translate(None, b"\r\n")
    try:
        content = binascii.a2b_base64(text[: len(text) // 4 * 4])
    except binascii.Error:
        return None
    is_tar = has_tar_magic(content)
    name = "a tar" if is_tar else name_of_content(content[:LOOKED_AT_BYTES])
    return f"base64 of {name}" if is_tar or name in _COMMANDS else None


def damaged_tar_error(place: str, last: str, reason: str) -> InvalidImageError:
    """Return the error for a tar of which ``last`` is the last name that could be read."""
    what = f"a damaged one (after {quoted(last)}: {reason})"
    return InvalidImageError(f"expected a tar, got {what}", where=place, hint=_DAMAGED_HINT)


def _hint_for(command: str | None, path: str, compression: str | None) -> str:
    if command is None:
        return "unpack it, and name the layout or the archive that is in it"
    commands = [command, "ociexport … -"]
    if compression is not None:
        commands.insert(0, f"{compression} -dc")
    if path != "-":
        commands[0] += f" {shlex.quote(path)}"
    return " | ".join(commands)


def without_images_error(names: Sequence[str], path: str, place: str) -> InvalidImageError:
    """Return the error for a tar that lists no images at its top; if it lists some in a directory, that is said.

    Args:
        names: of the files in the tar.
        path: the archive as a user names it.
        place: its name in messages.
    """
    directory = _directory_of_images(names)
    message, hint = f"got a tar without {INDEX_FILE} and {DOCKER_MANIFEST_FILE}", None
    if directory is not None:
        file = "FILE" if path == "-" else shlex.quote(path)
        message = f"got a tar that has one a directory down, in {quoted(directory)}"
        hint = f"repack it: tar -xf {file} && tar -cf NEW.tar -C {shlex.quote(directory)} ."
    return InvalidImageError(f"expected an archive of images, {message}", where=place, hint=hint)


def _directory_of_images(names: Sequence[str]) -> str | None:
    """Return the directory of a layout in a tar, or the one that has all files of the tar and lists images."""
    layouts = {posixpath.dirname(name) for name in names if posixpath.basename(name) == LAYOUT_FILE}
    for name in names:
        directory, base = posixpath.split(name)
        if base == INDEX_FILE and directory in layouts:
            return directory
    top = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
    return top if any(posixpath.join(top, name) in names for name in _LISTS) else None
