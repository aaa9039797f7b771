"""read_list(): a list of images from a file, a URL or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ociexport.errors import UsageError, quoted
from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.nodes import MAX_LIST_BYTES
from ociexport.transfer.lists.parse import parse_list
from ociexport.transfer.sources.names import RegistryName, RemoteLayoutName, parse_source_name

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions
    from ociexport.system.progress.protocol import Progress

STANDARD_INPUT = "-"
_URLS = ("https://", "http://")


def is_list_url(name: str) -> bool:
    """Whether the name of a list is a URL."""
    return name.lower().startswith(_URLS)


def read_list(
    name: str,
    *,
    profiles: Sequence[str] = (),
    registry: RegistryOptions | None = None,
    progress: Progress | None = None,
) -> ImageList:
    """Return the images of a list; its content tells its format, see `parse_list`.

    Args:
        name: path of a file, an http or https URL, or ``-`` for standard input.
        profiles: the active profiles of a compose file.
        registry: how a URL is reached.
        progress: gets a line for each retry.

    Raises:
        UsageError: it is no list of images, or does not parse; the message names file and line.
        RegistryError: a URL has no list.
        OSError: the file can't be read.
    """
    if name == STANDARD_INPUT:
        raw = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        return parse_list(raw, "standard input", profiles=profiles)
    if is_list_url(name):
        from ociexport.registry.http.failures import redacted  # noqa: PLC0415 - start-up: few lists are at a URL
        from ociexport.registry.web_document import fetch_web_document  # noqa: PLC0415 - start-up: as above
        from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: as above

        raw = fetch_web_document(name, MAX_LIST_BYTES, registry, progress or SILENT)
        found = parse_list(raw, redacted(name), profiles=profiles)
        for entry in found.entries:
            # What a server says must not make us copy this machine's files.
            source = parse_source_name(entry.image)
            is_on_the_web = isinstance(source, RemoteLayoutName) and not source.path.startswith("s3:")
            if not isinstance(source, RegistryName) and not is_on_the_web:
                raise UsageError(f"{entry.why[0]}: expected images in registries, got {quoted(entry.image)}")
        return found
    with open(name, "rb") as file:
        raw = file.read(MAX_LIST_BYTES + 1)
    return parse_list(raw, name, directory=os.path.dirname(name) or ".", profiles=profiles)
