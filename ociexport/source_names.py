"""What users type for a source, and the source that it means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ociexport.errors import NotFoundError, UsageError, quoted
from ociexport.layout import ImageLayout
from ociexport.reference import ImageReference, names_registry
from ociexport.sources import ImageSource

if TYPE_CHECKING:
    from ociexport.progress import Progress
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions

# Skopeo's names for transports, and regctl's; what stands behind them is told apart below.
_REGISTRY_PREFIX = "docker://"
_LAYOUT_PREFIXES = ("ocidir://", "oci:")
_UNSUPPORTED_PREFIXES = ("oci-archive:", "docker-archive:", "dir:", "docker-daemon:", "containers-storage:", "ostree:")
# Texts that can only be paths: no reference begins so.
_PATH_PATTERN = re.compile(r"(?:\.{0,2}/|\.{1,2}$|\.{1,2}[:@])")


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


SourceName: TypeAlias = RegistryName | LayoutName


def parse_source_name(text: str) -> SourceName:
    """Return what ``text`` means: ``docker://REF``, ``oci:DIR[:NAME|@N]``, ``ocidir://DIR[:TAG]``, a path or reference.

    A path and a name after it are told apart by what exists, since both may hold colons. A plain word is a layout where
    such a layout exists, and else a reference; what begins with ``./``, ``../`` or ``/`` is always a path.

    Raises:
        InvalidReferenceError: neither a path nor a reference.
        UsageError: a transport that we do not have.
    """
    if text.startswith(_REGISTRY_PREFIX):
        return RegistryName(_parse_image(text.removeprefix(_REGISTRY_PREFIX)))
    for prefix in _LAYOUT_PREFIXES:
        if text.startswith(prefix):
            return _parse_layout_name(text.removeprefix(prefix))
    for prefix in _UNSUPPORTED_PREFIXES:
        if text.startswith(prefix):
            raise UsageError(
                f"source {quoted(text)}: {prefix.rstrip(':')} is not supported",
                hint="sources are registries (docker://REF or REF) and OCI layouts (oci:DIR or ./DIR)",
            )
    if _PATH_PATTERN.match(text):
        return _parse_layout_name(text)
    for path, image in _splits(text):
        if os.path.isfile(os.path.join(path, "oci-layout")):
            return LayoutName(path, image)
    return RegistryName(_parse_image(text))


def _parse_image(text: str) -> ImageReference:
    if names_registry(text):
        return ImageReference.parse(text)
    # Reads registries.conf, for its short names; nothing else needs it so early.
    from ociexport.registry.short_names import parse_image  # noqa: PLC0415

    return parse_image(text)


def _parse_layout_name(text: str) -> LayoutName:
    splits = list(_splits(text))
    for path, image in splits:
        if os.path.isdir(path):
            return LayoutName(path, image)
    # Nothing exists, so an error will tell: of the path that skopeo would read.
    path, image = splits[1] if len(splits) > 1 else splits[0]
    if not path:
        raise UsageError(f"source {quoted(text)}: expected a directory, got none")
    return LayoutName(path, image)


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield ``text`` as a path alone, and as a path and a name at each colon or at sign, from the left."""
    yield text, None
    for match in re.finditer(r"[:@]", text):
        name = text[match.start() :]
        yield text[: match.start()], name if name.startswith("@") else name[1:]


def open_source(
    name: str | SourceName, *, options: RegistryOptions | None = None, progress: Progress | None = None
) -> ImageSource:
    """Return the source that ``name`` means; the caller closes it.

    Args:
        name: see `parse_source_name`.
        options: how registries are reached.
        progress: told of retries.

    Raises:
        NotFoundError: there is no such layout, or no such image in it. A registry is asked only later.
    """
    if isinstance(name, str):
        name = parse_source_name(name)
    if isinstance(name, LayoutName):
        return _open_layout(name)
    return _new_client(options, progress).source(name.reference, owns_client=True)


class SourceOpener:
    """Opens sources for one run; those in registries share connections and logins.

    Args:
        options: how registries are reached.
        progress: told of retries.
    """

    def __init__(self, *, options: RegistryOptions | None = None, progress: Progress | None = None) -> None:
        self._options = options
        self._progress = progress
        self._client: RegistryClient | None = None

    def open(self, name: SourceName) -> ImageSource:
        """Return the source that ``name`` means; the caller closes it before this opener. Raises as `open_source`."""
        if isinstance(name, LayoutName):
            return _open_layout(name)
        if self._client is None:
            self._client = _new_client(self._options, self._progress)
        return self._client.source(name.reference)

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()


def _open_layout(name: LayoutName) -> ImageSource:
    if not os.path.isdir(name.path):
        raise NotFoundError(f"{quoted(name.path)}: expected an OCI layout, there is no such directory")
    return ImageLayout(name.path).open_image(name.image)


def _new_client(options: RegistryOptions | None, progress: Progress | None) -> RegistryClient:
    # The wire costs a tenth of a second to import, which a layout need not pay.
    from ociexport.progress import SILENT  # noqa: PLC0415
    from ociexport.registry.client import RegistryClient  # noqa: PLC0415
    from ociexport.registry.options import DEFAULT_OPTIONS  # noqa: PLC0415

    return RegistryClient(options or DEFAULT_OPTIONS, progress or SILENT)
