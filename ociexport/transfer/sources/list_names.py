"""What a repository, a layout or an archive calls its images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ociexport.errors import NotFoundError, UsageError, quoted
from ociexport.spec.reference import as_path
from ociexport.storage.directory import ImageDirectory
from ociexport.storage.index import ListedImage, shown_name
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.sources.names import ArchiveName, DirectoryName, LayoutName, RegistryName, parse_source_name
from ociexport.transfer.sources.open import new_client

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions
    from ociexport.spec.reference import ImageReference
    from ociexport.system.progress.protocol import Progress


def list_names(
    place: str, *, options: RegistryOptions | None = None, progress: Progress | None = None
) -> tuple[str, ...]:
    """Return the tags of a repository, or the names in a layout or archive, in their own order, each once.

    An image of a layout that has no name is told by its digest, as it may stand after the layout's path.

    Args:
        place: a repository, with no tag; a layout or an archive, with no name after it.
        options: how registries are reached.
        progress: told of retries.

    Raises:
        UsageError: ``place`` names one image.
        NotFoundError, RegistryError: there is none such, or it gives no list.
        InvalidImageError: what is there is no layout or archive of images.
    """
    name = parse_source_name(place)
    if isinstance(name, RegistryName):
        return _list_tags(place, name, options, progress)
    if name.image is not None:
        raise UsageError(
            f"{quoted(place)}: expected a layout or an archive, got an image in it",
            hint=f"ociexport tags {as_path(name.path)} lists them all",
        )
    return tuple(dict.fromkeys(shown_name(*image) for image in list_local_images(name)))


def list_local_images(name: LayoutName | ArchiveName | DirectoryName) -> list[ListedImage]:
    """Return the images of a layout or archive, whatever image ``name`` means.

    Raises:
        NotFoundError: there is no such layout or archive.
        InvalidImageError: what is there is none.
    """
    if isinstance(name, ArchiveName):
        # Costs more than a layout needs.
        from ociexport.storage.archive.reader import list_archive_images  # noqa: PLC0415 - start-up: as above

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
    client = new_client(options, progress)
    try:
        return tags_of(client, name.reference)
    finally:
        client.close()


def tags_of(client: RegistryClient, reference: ImageReference) -> tuple[str, ...]:
    """Return all tags of the repository that ``reference`` is in, in the registry's order; see `list_tags`."""
    if client.options.v1:
        from ociexport.registry.v1.repository import find_repository  # noqa: PLC0415 - start-up: few speak v1

        return tuple(find_repository(client, reference).list_tags())
    from ociexport.registry.tags import list_tags  # noqa: PLC0415 - start-up: the wire, which a layout does without

    home = client.home(reference)
    return list_tags(client.session(home), home.repository, reference.name)
