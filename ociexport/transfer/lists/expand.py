"""expand_list(): from the entries of a list to single images; the tags that a list asks for are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ociexport.errors import NotFoundError, OciexportError
from ociexport.spec.lazy_dataclass import replace
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.sources.list_names import tags_of
from ociexport.transfer.sources.names import RegistryName, parse_source_name
from ociexport.transfer.sources.open import new_client

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions
    from ociexport.system.progress.protocol import Progress


def expand_list(
    entries: Iterable[ListEntry], registry: RegistryOptions | None, progress: Progress
) -> Iterator[tuple[ListEntry, OciexportError | None]]:
    """Yield each entry without a selection as it is, and for each with one, an entry for every tag that it takes.

    An entry whose tags can't be listed is yielded with the error.
    """
    with ExitStack() as stack:
        client: RegistryClient | None = None
        for entry in entries:
            if entry.selection is None:
                yield entry, None
                continue
            if client is None:
                client = stack.enter_context(closing(new_client(registry, progress)))
            try:
                found = list(_tags_of(entry, client))
            except OciexportError as error:
                yield entry, error
                continue
            progress.say(f"{entry.image}: {', '.join(one.image.rpartition(':')[2] for one in found)}")
            yield from ((one, None) for one in found)


def _tags_of(entry: ListEntry, client: RegistryClient) -> Iterator[ListEntry]:
    name = parse_source_name(entry.image)
    if not isinstance(name, RegistryName) or entry.selection is None:
        raise NotFoundError(f"{entry.image}: expected a repository in a registry")
    tags = entry.selection.choose(tags_of(client, name.reference))
    if not tags:
        raise NotFoundError(f"tags of {entry.image}: expected some for {entry.selection}, there are none")
    for tag in tags:
        yield replace(entry, image=f"{entry.image}:{tag}", selection=None)
