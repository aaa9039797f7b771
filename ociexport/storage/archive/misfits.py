"""Names what is no archive of images for what it is, with a command that makes one of it; only errors load this."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Sequence

from ociexport.errors import InvalidImageError, describe_content, quoted
from ociexport.layers.tar.header_fields import verify_checksum
from ociexport.layers.tar.reader import BLOCK_BYTES
from ociexport.storage.archive.file_names import DOCKER_MANIFEST_FILE, REPOSITORIES_FILE
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE
from ociexport.system.known_formats import DECOMPRESSING_COMMANDS, FORMAT_HEAD_BYTES, KnownFormat, format_of

# Any of these shows an archive's kind.
_LISTS = (INDEX_FILE, DOCKER_MANIFEST_FILE, REPOSITORIES_FILE)
_DAMAGED_HINT = "the archive is damaged or incomplete: copy or save it again"
# How libmagic describes content that it does not know, and a tar, of whose damage the reader knows more.
_DESCRIBED_BETTER_BY_READER = re.compile("data|.*tar archive.*")


def no_tar_error(fd: int, path: str, place: str, compression: str | None, reason: str) -> InvalidImageError:
    """Return the error for a file of which no entry could be read.

    Args:
        fd: the file, after decompression.
        path: the archive as a user names it.
        place: its name in messages.
        compression: the format in which it was compressed; None if it was not.
        reason: why no entry could be read.
    """
    head = os.pread(fd, FORMAT_HEAD_BYTES, 0)
    if not head or _begins_with_header(head):
        what, hint = f"a damaged one ({reason})" if head else "an empty file", _DAMAGED_HINT
    elif (known := format_of(head)) is not None:
        what, hint = known.name, _hint_for(known, path, compression)
    else:
        description = describe_content(head)
        detail = reason if _DESCRIBED_BETTER_BY_READER.fullmatch(description) else description
        what = f"a damaged one or none ({detail})"
        hint = "an archive is a layout in a tar, or what docker save and podman save write"
    inside = "" if compression is None else f" in {compression} data"
    return InvalidImageError(f"expected a tar, got {what}{inside}", where=place, hint=hint)


def damaged_tar_error(place: str, last: str, reason: str) -> InvalidImageError:
    """Return the error for a tar of which ``last`` is the last name that could be read."""
    what = f"a damaged one (after {quoted(last)}: {reason})"
    return InvalidImageError(f"expected a tar, got {what}", where=place, hint=_DAMAGED_HINT)


def _begins_with_header(head: bytes) -> bool:
    if len(head) < BLOCK_BYTES:
        return False
    try:
        verify_checksum(head[:BLOCK_BYTES])
    except InvalidImageError:
        return False
    return True


def _hint_for(known: KnownFormat, path: str, compression: str | None) -> str:
    if known.command is None:
        return "unpack it, and name the layout or the archive that is in it"
    commands = [known.command, "ociexport … -"]
    if compression is not None:
        commands.insert(0, DECOMPRESSING_COMMANDS[compression])
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
