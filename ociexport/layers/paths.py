"""Paths inside an image, checked before anything on disk is touched."""

from __future__ import annotations

from typing import NewType

from ociexport.errors import InvalidImageError, UnsafeEntryError, quoted_path

# A path inside an image: components joined by single slashes, without "." and ".."; ``b""`` is the root itself.
# Only `Rootfs` turns one into a path on the host.
ImagePath = NewType("ImagePath", bytes)

ROOT = ImagePath(b"")

# Linux's limit for one name; no file system that images are unpacked on allows more.
MAX_NAME_BYTES = 255
# PATH_MAX counts the NUL at its end (limits.h(0p)).
_MAX_TARGET_BYTES = 4095


def parse_image_path(name: bytes) -> ImagePath:
    """Return a tar entry's name as a path inside the image.

    A leading slash, ``./`` and doubled slashes are dropped, and ``a/../b`` is ``b``, as in umoci and docker.

    Raises:
        UnsafeEntryError: it leads out of the root by ``..``.
        InvalidImageError: it contains a NUL, or a name longer than any file system allows.
    """
    # Nearly every name is plain already, so only the others are split.
    path = name[2:] if name[:2] == b"./" else name
    path = path[:-1] if path[-1:] == b"/" else path
    if path[:1] in (b"/", b".", b"") or b"/." in path or b"//" in path:
        path = _cleaned(name)
    if b"\0" in path:
        raise InvalidImageError(f"path {quoted_path(name)}: expected no NUL")
    if len(path) > MAX_NAME_BYTES and max(map(len, path.split(b"/"))) > MAX_NAME_BYTES:
        raise InvalidImageError(f"path {quoted_path(name)}: expected names of at most {MAX_NAME_BYTES} bytes")
    return ImagePath(path)


def _cleaned(name: bytes) -> bytes:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise UnsafeEntryError(f"path {quoted_path(name)}: leads out of the root filesystem")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def verify_parent_name(name: bytes, path: bytes) -> None:
    """Return if a missing parent can be made; its ``name`` may be from the target of a link on the way to ``path``.

    Raises:
        InvalidImageError: the name is longer than any file system allows.
    """
    if len(name) > MAX_NAME_BYTES:
        raise InvalidImageError(
            f"path {quoted_path(path)}: expected names of at most {MAX_NAME_BYTES} bytes, got a link on the way to "
            f"one of {len(name)}"
        )


def verify_symlink_target(target: bytes) -> None:
    """Return if a symbolic link can have ``target``, which may point anywhere.

    Raises:
        InvalidImageError: it is empty, contains a NUL, or is longer than Linux allows.
    """
    if not target or b"\0" in target:
        raise InvalidImageError(f"symlink: expected a target, got {quoted_path(target)}")
    if len(target) > _MAX_TARGET_BYTES:
        raise InvalidImageError(f"symlink: expected a target of at most {_MAX_TARGET_BYTES} bytes, got {len(target)}")
