"""list_names(): the names of the images in a repository, a layout or an archive."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from ociexport.errors import NotFoundError, UsageError, quoted
from ociexport.spec.reference import as_path
from ociexport.storage.directory import ImageDirectory
from ociexport.storage.index import ListedImage, shown_name
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    RemoteLayoutName,
    parse_source_name,
)
from ociexport.transfer.sources.open import SourceOpener, new_client

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions
    from ociexport.spec.reference import ImageReference
    from ociexport.system.progress.protocol import Progress


def list_names(
    place: str, *, options: RegistryOptions | None = None, progress: Progress | None = None
) -> tuple[str, ...]:
    """Return the tags of a repository, or the names in a layout or archive, in their own order, each once.

    A layout's image without a name is listed by its digest, in the form that may follow the layout's path.

    Args:
        place: a repository without a tag, or a layout or an archive without an image's name.
        options: how registries are reached.
        progress: gets a line for each retry.

    Raises:
        UsageError: ``place`` names one image.
        NotFoundError, RegistryError: ``place`` is missing, or the registry returned no list.
        InvalidImageError: ``place`` is not a layout or archive of images.
    """
    name = parse_source_name(place)
    if isinstance(name, RegistryName):
        return _list_tags(place, name, options, progress)
    if name.image is not None:
        typed = name.path if isinstance(name, RemoteLayoutName) else as_path(name.path)
        raise UsageError(
            f"{quoted(place)}: expected a layout or an archive, got an image in it",
            hint=f"ociexport tags {typed} lists them all",
        )
    with closing(SourceOpener(options=options, progress=progress)) as opener:
        return tuple(dict.fromkeys(shown_name(*image) for image in list_layout_images(name, opener)))


def list_layout_images(
    name: LayoutName | ArchiveName | DirectoryName | RemoteLayoutName, opener: SourceOpener
) -> list[ListedImage]:
    """Return all images of the layout or archive; the image in ``name`` is ignored.

    Args:
        opener: fetches the list of a layout elsewhere.

    Raises:
        NotFoundError, RegistryError: the layout or archive is missing, or can't be fetched.
        InvalidImageError: it is not a layout or archive.
    """
    if isinstance(name, RemoteLayoutName):
        return opener.remote_layout(name.path).read_images()
    if isinstance(name, ArchiveName):
        from ociexport.storage.archive.reader import list_archive_images  # noqa: PLC0415 - start-up: a layout does without

        return list_archive_images(name.path)
    if isinstance(name, DirectoryName):
        return ImageDirectory(name.path).read_images()
    if not os.path.isdir(name.path):
        raise NotFoundError(f"{quoted(name.path)}: expected an OCI layout, there is no such directory")
    return ImageLayout(name.path).read_images()


def _list_tags(
    place: str, name: RegistryName, options: RegistryOptions | None, progress: Progress | None
) -> tuple[str, ...]:
    if "@" in place or ":" in place.rpartition("/")[2]:
        raise UsageError(
            f"{quoted(place)}: expected a repository, got an image in it",
            hint=f"ociexport tags {name.reference.name} lists all tags",
        )
    client = new_client(options, progress, name.reference)
    try:
        return tags_of(client, name.reference)
    finally:
        client.close()


def tags_of(client: RegistryClient, reference: ImageReference) -> tuple[str, ...]:
    """Return all tags of the repository of ``reference``, in the registry's order; see `list_tags`."""
    if client.options.v1:
        from ociexport.registry.v1.repository import find_repository  # noqa: PLC0415 - start-up: few speak v1

        return tuple(find_repository(client, reference).list_tags())
    from ociexport.registry.tags import list_tags  # noqa: PLC0415 - start-up: the wire, which a layout does without

    home = client.home(reference)
    return list_tags(client.session(home), home.repository, reference.name)
