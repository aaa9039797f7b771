"""copy_to_directory(): one image into skopeo's ``dir:``, which appears when it is complete.

Spec: containers-transports(5), "dir:path".
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from ociexport.errors import UsageError, quoted
from ociexport.images.source import ImageSource
from ociexport.spec.digest import Digest
from ociexport.storage.directory import DIRECTORY_VERSION
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.files import new_file
from ociexport.system.partial_names import hidden_name, random_name
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult


def copy_to_directory(source: ImageSource, path: str, options: PullOptions, progress: Progress) -> PullResult:
    """Copy one image into a new directory, in skopeo's format, by way of a layout beside it.

    Raises:
        UsageError: ``path`` exists and is not an empty directory.
        as `copy_image` does; then there is no directory.
    """
    place = os.path.abspath(path)
    if os.path.lexists(place) and not (os.path.isdir(place) and not os.listdir(place)):
        raise UsageError(f"{quoted(path)}: expected a new or empty directory, got something else")
    parent, name = os.path.split(place)
    os.makedirs(parent, exist_ok=True)
    aside = os.path.join(parent, random_name(hidden_name(name)))
    try:
        layout = ImageLayout(os.path.join(aside, "layout"))
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
    for descriptor, _ in layout.read_images():
        documents.add(descriptor.digest)
    for algorithm in os.listdir(layout.directory.path_of("blobs")):
        for encoded in os.listdir(layout.directory.path_of(f"blobs/{algorithm}")):
            digest = Digest(algorithm, encoded)
            name = encoded if algorithm == "sha256" else f"{algorithm}-{encoded}"
            if digest == result.digest:
                name = "manifest.json"
            elif digest in documents:
                name = f"{name}.manifest.json"
            os.rename(layout.blob_path(digest), os.path.join(made, name))
    with new_file(os.path.join(made, "version")) as file:
        file.write(DIRECTORY_VERSION.encode())
