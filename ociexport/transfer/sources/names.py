"""What users type for a source, and the source that it means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ociexport.errors import UsageError, printable, quoted
from ociexport.spec.reference import ImageReference, as_path, is_path, names_registry
from ociexport.storage.directory import is_image_directory
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    pass

# Skopeo's names for transports, and regctl's; what stands behind them is told apart below.
_REGISTRY_PREFIX = "docker://"
_LAYOUT_PREFIXES = ("ocidir://", "oci:")
_ARCHIVE_PREFIXES = ("oci-archive:", "docker-archive:")
_DIRECTORY_PREFIX = "dir:"
# What keeps images elsewhere than in files of its own, and what brings them out.
_UNSUPPORTED_PREFIXES = {
    "docker-daemon:": "docker save {} | ociexport … -",
    "containers-storage:": "podman save {} | ociexport … -",
    "ostree:": "skopeo copy ostree:{} oci:DIR",
}
_STANDARD_INPUT = "-"
_TRANSPORTS = (_REGISTRY_PREFIX, *_LAYOUT_PREFIXES, *_ARCHIVE_PREFIXES, _DIRECTORY_PREFIX, *_UNSUPPORTED_PREFIXES)
# What is taken for an archive by its name, where it is not there.
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True, slots=True)
class RegistryName:
    """An image in a registry."""

    reference: ImageReference


@dataclass(frozen=True, slots=True)
class LayoutName:
    """An image in an OCI layout.

    Args:
        path: of the layout's directory.
        image: tag, full reference, ``@digest`` or ``@position``; None for the only one.
    """

    path: str
    image: str | None


@dataclass(frozen=True, slots=True)
class ArchiveName:
    """An image in an archive; of which kind that is, its content tells.

    Args:
        path: of the file; ``-`` is standard input.
        image: tag, reference, ``@digest`` or ``@position``; None for the only one.
    """

    path: str
    image: str | None


@dataclass(frozen=True, slots=True)
class DirectoryName:
    """The image in a directory that skopeo calls ``dir:``.

    Args:
        path: of the directory.
    """

    path: str

    @property
    def image(self) -> None:
        """None: there is only one."""
        return


SourceName: TypeAlias = RegistryName | LayoutName | ArchiveName | DirectoryName


def parse_source_name(text: str) -> SourceName:
    """Return what ``text`` means: a transport and a name, a path, or a reference.

    Transports are ``docker://REF``, ``oci:DIR[:NAME|@N]``, ``ocidir://DIR[:TAG]``, ``oci-archive:FILE[:NAME|@N]``,
    ``docker-archive:FILE[:NAME|@N]`` and ``dir:DIR``; ``-`` is an archive on standard input.

    What begins with ``./``, ``../`` or ``/`` is a path, and so are ``.`` and ``..``. A path and a name after it are
    told apart by what exists, since both may hold colons. Any other word is a reference, whatever lies in the working
    directory: who unpacks ``debian:12`` in somebody else's directory gets Debian. See `path_meant_by`.

    Raises:
        InvalidReferenceError: neither a path nor a reference.
        UsageError: a transport that we do not have.
    """
    if text.startswith(_REGISTRY_PREFIX):
        return RegistryName(_parse_image(text.removeprefix(_REGISTRY_PREFIX)))
    for prefix in _LAYOUT_PREFIXES:
        if text.startswith(prefix):
            return LayoutName(*_split_path(text.removeprefix(prefix), os.path.isdir))
    for prefix in _ARCHIVE_PREFIXES:
        if text.startswith(prefix):
            return ArchiveName(*_split_path(text.removeprefix(prefix), _is_stream))
    if text.startswith(_DIRECTORY_PREFIX):
        return DirectoryName(_path_of(text.removeprefix(_DIRECTORY_PREFIX)))
    for prefix, way in _UNSUPPORTED_PREFIXES.items():
        if text.startswith(prefix):
            raise UsageError(
                f"source {quoted(text)}: {prefix.rstrip(':')} is not supported",
                hint=way.format(printable(text.removeprefix(prefix)) or "IMAGE"),
            )
    if text == _STANDARD_INPUT:
        return ArchiveName(text, None)
    if is_path(text):
        return _parse_path(text)
    return RegistryName(_parse_image(text))


def has_transport(text: str) -> bool:
    """Whether ``text`` begins with a transport, such as ``oci:``."""
    return text.startswith(_TRANSPORTS)


def path_meant_by(text: str) -> str | None:
    """Return how to type the images at the path ``text``, where they are there and ``text`` is read as a reference."""
    if is_path(text) or text == _STANDARD_INPUT or has_transport(text):
        return None
    for path, _ in _splits(text):
        is_archive = path.endswith(_ARCHIVE_SUFFIXES) and os.path.isfile(path)
        if is_archive or _is_layout(path) or is_image_directory(path):
            return f"./{text}"
    return None


def source_text(source: str | os.PathLike[str]) -> str:
    """Return a source as users type it; of a path as such, which is never a reference."""
    return source if isinstance(source, str) else as_path(os.fspath(source))


def _parse_image(text: str) -> ImageReference:
    if names_registry(text):
        return ImageReference.parse(text)
    # Reads registries.conf, for its short names; nothing else needs it so early.
    from ociexport.registry.hosts.registries_conf import parse_image  # noqa: PLC0415 - start-up: as above

    return parse_image(text)


def _parse_path(text: str) -> LayoutName | ArchiveName | DirectoryName:
    """Return what is at a path; a directory that is no layout only where nothing else fits."""
    if is_image_directory(text) and not _is_layout(text):
        return DirectoryName(text)
    path, image = _split_path(text, _is_layout, _is_stream, os.path.isdir)
    if _is_stream(path) or (path.endswith(_ARCHIVE_SUFFIXES) and not os.path.isdir(path)):
        return ArchiveName(path, image)
    return LayoutName(path, image)


def _split_path(text: str, *kinds: Callable[[str], bool]) -> tuple[str, str | None]:
    """Return a path and the name after it; the path is of the first of ``kinds`` that is there."""
    splits = list(_splits(text))
    for is_kind in kinds:
        for path, image in splits:
            if is_kind(path):
                return path, image
    # Nothing exists, so an error will tell: of the path that skopeo would read.
    path, image = splits[1] if len(splits) > 1 else splits[0]
    if not path:
        raise UsageError(f"source {quoted(text)}: expected a path, got none")
    return path, image


def _path_of(text: str) -> str:
    if not text:
        raise UsageError("source 'dir:': expected a path, got none")
    return text


def _is_layout(path: str) -> bool:
    return LayoutDirectory(path).has("oci-layout")


def _is_stream(path: str) -> bool:
    """Whether ``path`` is of a file, a pipe or standard input, and so may hold an archive."""
    return path == _STANDARD_INPUT or (os.path.exists(path) and not os.path.isdir(path))


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield ``text`` as a path alone, and as a path and a name at each colon or at sign, from the left."""
    yield text, None
    for match in re.finditer(r"[:@]", text):
        name = text[match.start() :]
        yield text[: match.start()], name if name.startswith("@") else name[1:]
