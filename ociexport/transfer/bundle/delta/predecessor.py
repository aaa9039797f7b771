"""Which older layers a new layer is likely to have the most in common with.

First the layer at the same place of the image of the same name. If that shares less than half of the new layer's
files, the layer that shares the most files comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import FileIO

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.source import ImageName
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import normalize_platform
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.delta.bases import BaseImage, BaseLayer
from ociexport.transfer.bundle.delta.make import TarFile
from ociexport.transfer.bundle.delta.spool import spool_tar
from ociexport.transfer.bundle.delta.tar_members import tar_members

# A layer is inflated once to list its files. Beyond this many layers the search takes longer than it may gain.
_MAX_LISTED_LAYERS = 64
# A recipe has at most two bases.
_MAX_OPEN_TARS = 2
_ENOUGH = 0.5
_TAG = re.compile(r"(?<=[^/]):[^/:]+$|@.*$")


class Predecessors:
    """Finds likely predecessors, and remembers the files of the layers that it looked into.

    Args:
        images: older images.
        progress: gets a line for a layer that can't be read.
    """

    def __init__(self, images: Sequence[BaseImage], progress: Progress) -> None:
        self._images = images
        self._progress = progress
        self._files: dict[Digest, frozenset[bytes]] = {}
        self._tars: dict[Digest, FileIO] = {}

    def tar_of(self, layer: BaseLayer) -> TarFile:
        """Return the tar of an older layer; it stays open until other layers are asked for.

        Raises:
            InvalidImageError, NotFoundError: it is damaged or missing.
            TemporaryFileError: there is no room for it.
        """
        tar = self._tars.pop(layer.diff_id, None)
        if tar is None:
            while len(self._tars) >= _MAX_OPEN_TARS:
                self._tars.pop(next(iter(self._tars))).close()
            tar = spool_tar(layer.open(), layer.diff_id, layer.descriptor.size)
        self._tars[layer.diff_id] = tar
        return TarFile(tar.fileno(), layer.diff_id)

    def close(self) -> None:
        """Close all tars."""
        while self._tars:
            self._tars.popitem()[1].close()

    def find(
        self, fd: int, diff_id: Digest, name: ImageName, platform: Platform | None, position: int
    ) -> list[BaseLayer]:
        """Return up to two older layers, the most similar first; none if no layer shares a file.

        Args:
            fd: the new layer's tar.
            diff_id: of that tar.
            name: of its image.
            platform: of its image.
            position: of the layer in its image, from 0.
        """
        near = _nearest(self._images, name, platform)
        layers = {layer.diff_id: layer for image in near for layer in image.layers if layer is not None}
        if diff_id in layers:
            return [layers[diff_id]]
        files = _files_of(fd)
        beside = [image.layers[position] for image in near if position < len(image.layers)]
        first = next((layer for layer in beside if layer is not None), None)
        shared = self._shared(files, first) if first is not None else 0
        if first is not None and shared >= _ENOUGH * len(files) and shared:
            return [first]
        others = list(layers.values())[:_MAX_LISTED_LAYERS]
        best = max(others, key=lambda layer: self._shared(files, layer), default=None)
        found = [best] if best is not None and self._shared(files, best) > shared else []
        return found + ([first] if first is not None and shared else [])

    def _shared(self, files: frozenset[bytes], layer: BaseLayer) -> int:
        known = self._files.get(layer.diff_id)
        if known is None:
            try:
                known = _files_of(self.tar_of(layer).fd)
            except (InvalidImageError, NotFoundError) as error:
                self._progress.warn(f"older layer {layer.descriptor.digest}: {error}; no recipe is made from it")
                known = frozenset()
            self._files[layer.diff_id] = known
        return len(files & known)


def _files_of(fd: int) -> frozenset[bytes]:
    return frozenset(member.name for member in tar_members(fd) if member.size)


def _nearest(images: Sequence[BaseImage], name: ImageName, platform: Platform | None) -> list[BaseImage]:
    """Return the images of the same name, or else of the same repository, or else all; of the platform if known."""
    if platform is not None:
        wanted = _plain(platform)
        images = [one for one in images if one.platform is None or _plain(one.platform) == wanted]
    same = [one for one in images if one.name.full is not None and one.name.full == name.full]
    repository = _TAG.sub("", name.full or "")
    alike = [one for one in images if repository and _TAG.sub("", one.name.full or "") == repository]
    return list(_once([*same, *alike])) or list(images)


def _plain(platform: Platform) -> tuple[str, str, str | None]:
    normal = normalize_platform(platform)
    return normal.os, normal.architecture, normal.variant


def _once(images: Sequence[BaseImage]) -> Iterator[BaseImage]:
    seen: list[BaseImage] = []
    for image in images:
        if not any(image is one for one in seen):
            seen.append(image)
            yield image
