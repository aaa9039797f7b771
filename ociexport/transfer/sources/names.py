"""parse_source_name(): from the text that users type for a source to a transport and a name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from ociexport.errors import UsageError, printable, quoted
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import ImageReference, as_path, is_path, is_url_of_registry, names_registry
from ociexport.storage.directory import is_image_directory
from ociexport.storage.layout_directory import LayoutDirectory

# The transports of skopeo and regctl.
_REGISTRY_PREFIX = "docker://"
_LAYOUT_PREFIXES = ("ocidir://", "oci:")
_ARCHIVE_PREFIXES = ("oci-archive:", "docker-archive:")
_DIRECTORY_PREFIX = "dir:"
# Unsupported transports, each with the command that exports its image.
_UNSUPPORTED_PREFIXES = {
    "docker-daemon:": "docker save {} | ociexport … -",
    "containers-storage:": "podman save {} | ociexport … -",
    "ostree:": "skopeo copy ostree:{} oci:DIR",
}
_STANDARD_INPUT = "-"
_WEB_PREFIXES = ("https://", "http://")
_S3_PREFIX = "s3://"
_TRANSPORTS = (
    *(_REGISTRY_PREFIX, *_LAYOUT_PREFIXES, *_ARCHIVE_PREFIXES, _DIRECTORY_PREFIX, *_WEB_PREFIXES, _S3_PREFIX),
    *_UNSUPPORTED_PREFIXES,
)
# A missing path with one of these endings is reported as a missing archive.
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".tar.bz2")


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
    """An image in an archive; the content determines the kind of archive.

    Args:
        path: of the file; ``-`` is standard input.
        image: tag, reference, ``@digest`` or ``@position``; None for the only one.
    """

    path: str
    image: str | None


@dataclass(frozen=True, slots=True)
class DirectoryName:
    """The image in a directory in skopeo's ``dir:`` format.

    Args:
        path: of the directory.
    """

    path: str

    @property
    def image(self) -> None:
        """None: the directory holds only one."""
        return


@dataclass(frozen=True, slots=True)
class RemoteLayoutName:
    """An image in an OCI layout on a web server or in an object store.

    Args:
        path: URL of the layout's directory, https, http or s3, without a slash at the end.
        image: tag, full reference, ``@digest`` or ``@position``; None for the only one.
    """

    path: str
    image: str | None


SourceName: TypeAlias = RegistryName | LayoutName | ArchiveName | DirectoryName | RemoteLayoutName


def parse_source_name(text: str) -> SourceName:
    """Return what ``text`` means: a transport and a name, a path, or a reference.

    Transports are ``docker://REF``, ``oci:DIR[:NAME|@N]``, ``ocidir://DIR[:TAG]``, ``oci-archive:FILE[:NAME|@N]``,
    ``docker-archive:FILE[:NAME|@N]`` and ``dir:DIR``; ``-`` is an archive on standard input. ``https://…[:NAME|@N]``
    and ``s3://BUCKET/…[:NAME|@N]`` are layouts whose files are there; see `parse_remote_layout`.

    A text that begins with ``./``, ``../`` or ``/`` is a path, and so are ``.`` and ``..``. Since both a path and the
    name after it may contain colons, the files that exist decide where the path ends. Any other text is a reference,
    even if a file of that name exists: ``debian:12`` always means Debian. See `path_meant_by`.

    Raises:
        InvalidReferenceError: the text is neither a path nor a reference.
        UsageError: the transport is not supported.
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
    if is_url(text):
        return parse_remote_layout(text)
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


def is_url(text: str) -> bool:
    """Whether ``text`` is the URL of a place elsewhere: https, http or s3."""
    return text.lower().startswith((*_WEB_PREFIXES, _S3_PREFIX))


def parse_remote_layout(text: str) -> RemoteLayoutName:
    """Return the layout and the image that a URL means; the first colon or at sign of its path ends the layout's URL.

    A colon that belongs to the path is written ``%3A``. Nothing is asked to find out whether it exists. On a host that
    is a registry by its name, a slash before the name says that files are meant: ``https://ghcr.io/layout/:1``.

    Raises:
        UsageError: the URL has a user, a query or no place.
        InvalidReferenceError: it leads to an image in a registry; the hint is its reference.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme != "s3" and is_url_of_registry(f"{scheme}://{rest}"):
        ImageReference.parse(f"{scheme}://{rest}")
    place, slash, _ = rest.partition("/")
    expected = ""
    if scheme != "s3" and "@" in place:
        expected = "expected a URL without user and password"
    elif "?" in rest or "#" in rest:
        expected = "expected a URL without query and fragment"
    elif not place or place[0] in ":@":
        expected = "expected a bucket and a path" if scheme == "s3" else "expected a URL with a host"
    if expected:
        from ociexport.registry.http.failures import redacted  # noqa: PLC0415 - start-up: only an error needs it

        hint = "store credentials in an auth file, or use --creds" if "user" in expected else None
        raise UsageError(f"source '{printable(redacted(text))}': {expected}", hint=hint)
    # The port of a web server follows a colon too, a bucket has none.
    begin = 0 if scheme == "s3" else len(place) + len(slash)
    found = re.compile("[:@]").search(rest, begin)
    if found is None:
        return RemoteLayoutName(f"{scheme}://{rest}".rstrip("/"), None)
    name = rest[found.start() :]
    image = name if name.startswith("@") else name[1:]
    return RemoteLayoutName(f"{scheme}://{rest[: found.start()]}".rstrip("/"), image or None)


def is_s3_url(text: str) -> bool:
    """Whether ``text`` is the URL of a place in an object store."""
    return text.lower().startswith(_S3_PREFIX)


def has_transport(text: str) -> bool:
    """Whether ``text`` begins with a transport, such as ``oci:``."""
    return text.startswith(_TRANSPORTS) or is_url(text)


def path_meant_by(text: str) -> str | None:
    """Return ``text`` typed as a path, if it is read as a reference but images exist at that path; else None."""
    if is_path(text) or text == _STANDARD_INPUT or has_transport(text):
        return None
    for path, _ in _splits(text):
        is_archive = path.endswith(_ARCHIVE_SUFFIXES) and os.path.isfile(path)
        if is_archive or _is_layout(path) or is_image_directory(path):
            return f"./{text}"
    return None


def source_text(source: str | os.PathLike[str]) -> str:
    """Return a source as users type it; a path object never becomes a reference."""
    return source if isinstance(source, str) else as_path(os.fspath(source))


def _parse_image(text: str) -> ImageReference:
    if names_registry(text):
        return ImageReference.parse(text)
    from ociexport.registry.hosts.registries_conf import parse_image  # noqa: PLC0415 - start-up: only short names need registries.conf

    return parse_image(text)


def _parse_path(text: str) -> LayoutName | ArchiveName | DirectoryName:
    """Return the kind of source at a path; a directory counts as a layout if no other kind fits."""
    if is_image_directory(text) and not _is_layout(text):
        return DirectoryName(text)
    path, image = _split_path(text, _is_layout, _is_stream, os.path.isdir)
    if _is_stream(path) or (path.endswith(_ARCHIVE_SUFFIXES) and not os.path.isdir(path)):
        return ArchiveName(path, image)
    return LayoutName(path, image)


def _split_path(text: str, *kinds: Callable[[str], bool]) -> tuple[str, str | None]:
    """Return a path and the name after it; the path is one that exists, of the first of ``kinds`` that has any."""
    splits = list(_splits(text))
    for is_kind in kinds:
        for path, image in splits:
            if is_kind(path):
                return path, image
    # No path exists: the caller's error names the path that skopeo would read.
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
    """Whether ``path`` is a file, a pipe or standard input, and so may hold an archive."""
    return path == _STANDARD_INPUT or (os.path.exists(path) and not os.path.isdir(path))


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield ``text`` as a path alone, and as a path and a name at each colon or at sign, from the left."""
    yield text, None
    for match in re.finditer(r"[:@]", text):
        name = text[match.start() :]
        yield text[: match.start()], name if name.startswith("@") else name[1:]
