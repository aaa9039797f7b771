"""copy_to_directory(): one image into skopeo's ``dir:``, which appears when it is complete.

Spec: containers-transports(5), "dir:path".
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from ociexport.errors import UsageError, quoted
from ociexport.images.companions import is_companion_tag
from ociexport.images.source import ImageSource
from ociexport.spec.digest import Digest
from ociexport.storage.directory import DIRECTORY_VERSION, document_file, tagged_file
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.files import new_file
from ociexport.system.partial_names import hidden_name, random_name
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult


def verify_is_new(path: str) -> None:
    """Return if ``path`` does not exist or is an empty directory.

    Raises:
        UsageError: it is something else.
    """
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UsageError(f"{quoted(path)}: expected a new or empty directory, got something else")


def copy_to_directory(
    source: ImageSource, path: str, options: PullOptions, progress: Progress, *, cache: BlobCache | None = None
) -> PullResult:
    """Copy one image into a new directory, in skopeo's format, by way of a layout beside it.

    Args:
        cache: blobs that layouts share; those of the directory are links into it, or copies.

    Raises:
        UsageError: ``path`` exists and is not an empty directory.
        as `copy_image` does; then there is no directory.
    """
    verify_is_new(path)
    place = os.path.abspath(path)
    parent, name = os.path.split(place)
    os.makedirs(parent, exist_ok=True)
    aside = os.path.join(parent, random_name(hidden_name(name)))
    try:
        layout = ImageLayout(os.path.join(aside, "layout"), cache=cache)
        result = copy_image(source, layout, options, progress)
        made = os.path.join(aside, "made")
        os.mkdir(made)
        _move_files(layout, made, result)
        with suppress(FileNotFoundError):
            os.rmdir(place)
        os.rename(made, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return result


def _move_files(layout: ImageLayout, made: str, result: PullResult) -> None:
    """Move the blobs of ``layout`` into the directory ``made``, with the names that skopeo gives them."""
    documents = {one.digest for one in result.manifests} | {result.digest}
    for descriptor, called in layout.read_images():
        documents.add(descriptor.digest)
        if called.tag is not None and is_companion_tag(called.tag) and descriptor.digest != result.digest:
            shutil.copyfile(layout.blob_path(descriptor.digest), os.path.join(made, tagged_file(called.tag)))
    for algorithm in os.listdir(layout.directory.path_of("blobs")):
        for encoded in os.listdir(layout.directory.path_of(f"blobs/{algorithm}")):
            digest = Digest(algorithm, encoded)
            name = encoded if algorithm == "sha256" else f"{algorithm}-{encoded}"
            if digest == result.digest:
                name = "manifest.json"
            elif digest in documents:
                name = document_file(digest)
            os.rename(layout.blob_path(digest), os.path.join(made, name))
    with new_file(os.path.join(made, "version")) as file:
        file.write(DIRECTORY_VERSION.encode())
