"""expand_list(): from the entries of a list to single images: of the tags that it asks for, and of whole layouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ociexport.errors import NotFoundError, OciexportError
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.reference import is_path
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.sources.list_names import tags_of
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RegistryName, has_transport, parse_source_name
from ociexport.transfer.sources.open import SourceOpener, new_client

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions
    from ociexport.system.progress.protocol import Progress


def expand_list(
    entries: Iterable[ListEntry],
    registry: RegistryOptions | None,
    progress: Progress,
    opener: SourceOpener | None = None,
) -> Iterator[tuple[ListEntry, OciexportError | OSError | None]]:
    """Yield an entry for each image: for every tag that a selection takes, and for all images of a layout or archive.

    An entry whose tags or images can't be listed is yielded with the error.

    Args:
        opener: knows the images of layouts and archives afterwards; stays open.
    """
    with ExitStack() as stack:
        client: RegistryClient | None = None
        for entry in entries:
            try:
                if entry.selection is None:
                    if opener is None and _is_local(entry):
                        opener = stack.enter_context(closing(SourceOpener()))
                    found = list(_images_of(entry, opener)) if opener is not None else [entry]
                else:
                    if client is None:
                        client = stack.enter_context(closing(new_client(registry, progress)))
                    found = list(_tags_of(entry, client))
                    progress.say(f"{entry.image}: {', '.join(one.image.rpartition(':')[2] for one in found)}")
            except (OciexportError, OSError) as error:
                yield entry, error
                continue
            yield from ((one, None) for one in found)


def _is_local(entry: ListEntry) -> bool:
    return is_path(entry.image) or has_transport(entry.image)


def _images_of(entry: ListEntry, opener: SourceOpener) -> Iterator[ListEntry]:
    """Yield an entry for each image of a layout or an archive, as `pull` takes them; any other entry as it is."""
    if entry.locked is not None or not _is_local(entry):
        yield entry
        return
    name = parse_source_name(entry.image)
    each = opener.name_each(name, everything=False)
    if each == [name]:
        yield entry
        return
    for one in each:
        if isinstance(one, LayoutName | ArchiveName):
            yield replace(entry, image=f"{entry.image}:{one.image}")


def _tags_of(entry: ListEntry, client: RegistryClient) -> Iterator[ListEntry]:
    name = parse_source_name(entry.image)
    if not isinstance(name, RegistryName) or entry.selection is None:
        raise NotFoundError(f"{entry.image}: expected a repository in a registry")
    tags = entry.selection.choose(tags_of(client, name.reference))
    if not tags:
        raise NotFoundError(f"tags of {entry.image}: expected some for {entry.selection}, there are none")
    for tag in tags:
        yield replace(entry, image=f"{entry.image}:{tag}", selection=None)
