"""Indexes of a layout's layers: what was read of a layer once, kept in ``.ociexport/layers`` under its diff_id.

Beside them are the access points of compressed layers (`system/access_points.py`), under the blob's digest.

Both are used only for a blob whose file is as it was when it was verified, and only if they have the digests that were
remembered beside the blob's stamp (`stamps`). So neither damage nor a copied layout can give a wrong answer, and only
points that a run of this user made for this very file reach a C library. A file system image that someone else made can
bring stamps of its own; docs/about/reliability.md says what to do about it.

Only the owner of a layout writes indexes, so that root leaves no files of its own in the layout of another user. Small
layers have none. All errors of writing are ignored: the next run reads the layer again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Protocol, runtime_checkable

from ociexport.errors import InvalidImageError, OciexportError
from ociexport.images.source import BlobOpener, innermost
from ociexport.layers.limits import Limits
from ociexport.spec.config import Layer
from ociexport.spec.digest import Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.layout.blobs import INDEXES_DIRECTORY, blob_name
from ociexport.storage.layout.stamps import BlobStamp, BlobStamps, IndexName
from ociexport.storage.layout_directory import LayoutDirectory
from ociexport.system.access_points import AccessPoints, load_points

# Inflating and hashing a layer of this size takes a few hundredths of a second.
MIN_INDEXED_BYTES = 1024 * 1024
# The index of a layer of 100,000 files has some 15 MB. All of a layout's together have at most the second number; those
# that were written longest ago go first.
_MAX_INDEX_BYTES, _MAX_TOTAL_BYTES = 256 * 1024 * 1024, 1024 * 1024 * 1024


class NewIndex(NamedTuple):
    """The index of a layer that was read and verified.

    Args:
        before: the state of the blob's file before it was read.
        content: the index.
        points: the layer's access points.
    """

    layer: Layer
    before: BlobStamp
    content: bytes
    points: AccessPoints


class LayerIndexes:
    """The indexes in one layout.

    Args:
        directory: of the layout.
        stamps: of its blobs.
        begin: gives the layout to this user while an index is written.
    """

    def __init__(
        self, directory: LayoutDirectory, stamps: BlobStamps, begin: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._directory = directory
        self._stamps = stamps
        self._begin = begin

    def read(self, layer: Layer) -> bytes | None:
        """Return the index of a layer; None if there is none that can be believed."""
        with suppress(OSError, InvalidImageError):
            name = self._stamps.index_of(layer.descriptor.digest, self._status(layer))
            if name is None or name.diff_id != layer.diff_id:
                return None
            content = self._directory.read_file(_file_of(layer.diff_id), _MAX_INDEX_BYTES)
            return content if Digest.of(content) == name.digest else None
        return None

    def read_points(self, layer: Layer) -> AccessPoints:
        """Return the access points of a layer; none if there are none that can be believed."""
        with suppress(OSError, InvalidImageError):
            name = self._stamps.index_of(layer.descriptor.digest, self._status(layer))
            if name is not None and name.points is not None:
                content = self._directory.read_file(_points_file_of(layer.descriptor.digest), _MAX_INDEX_BYTES)
                points = load_points(content) if Digest.of(content) == name.points else None
                if points is not None:
                    return points
        return AccessPoints()

    def look(self, layer: Layer) -> BlobStamp | None:
        """Return the state of a layer's blob before it is read; None if no index of it should be written."""
        with suppress(OSError, InvalidImageError):
            status = self._status(layer)
            if (
                self._directory.is_own()
                and status.st_size >= MIN_INDEXED_BYTES
                and os.access(self._directory.path, os.W_OK)
            ):
                return BlobStamp.of(status)
        return None

    def write(self, indexes: Iterable[NewIndex]) -> None:
        """Keep indexes; without any, do nothing."""
        wanted = [index for index in indexes if len(index.content) <= _MAX_INDEX_BYTES]
        if not wanted:
            return
        with suppress(OSError, OciexportError), self._begin():
            self._directory.make_directory(INDEXES_DIRECTORY)
            for layer, before, content, points in wanted:
                self._write_file(_file_of(layer.diff_id), content)
                self._remember(layer, before, Digest.of(content), points)
            self._make_room({_file_of(index.layer.diff_id) for index in wanted})

    def write_points(self, layer: Layer, before: BlobStamp, points: AccessPoints) -> None:
        """Keep the access points of a layer that has an index.

        Args:
            before: the state of the blob's file before the points were made.
        """
        with suppress(OSError, OciexportError):
            name = self._stamps.index_of(layer.descriptor.digest, self._status(layer))
            if name is None:
                return
            with self._begin():
                self._remember(layer, before, name.digest, points)
                self._make_room({_file_of(layer.diff_id), _points_file_of(layer.descriptor.digest)})

    def _remember(self, layer: Layer, before: BlobStamp, digest: Digest, points: AccessPoints) -> None:
        """Write a layer's points, and remember both their digest and that of its index."""
        content = points.dump() if len(points) else b""
        points_digest = None
        if content and len(content) <= _MAX_INDEX_BYTES:
            self._write_file(_points_file_of(layer.descriptor.digest), content)
            points_digest = Digest.of(content)
        status = self._status(layer)
        if BlobStamp.of(status) == before:
            self._stamps.add(layer.descriptor.digest, status, IndexName(layer.diff_id, digest, points_digest))

    def _write_file(self, name: str, content: bytes) -> None:
        self._directory.write_file(name, content, aside=INDEXES_DIRECTORY, mode=0o600)

    def _make_room(self, newest: Collection[str]) -> None:
        files = {}
        for name in self._directory.list_names(INDEXES_DIRECTORY):
            status = self._directory.status(f"{INDEXES_DIRECTORY}/{name}")
            files[f"{INDEXES_DIRECTORY}/{name}"] = (status.st_mtime_ns, status.st_size)
        total_bytes = sum(size for _, size in files.values())
        for name in sorted(files.keys() - newest, key=files.__getitem__):
            if total_bytes <= _MAX_TOTAL_BYTES:
                return
            self._directory.remove(name)
            total_bytes -= files[name][1]

    def _status(self, layer: Layer) -> os.stat_result:
        return self._directory.status(blob_name(layer.descriptor.digest))


@runtime_checkable
class _Listed(Protocol):
    @property
    def blobs(self) -> object: ...


@runtime_checkable
class _Indexed(Protocol):
    @property
    def layer_indexes(self) -> LayerIndexes: ...


def indexes_for(source: BlobOpener, limits: Limits) -> LayerIndexes | None:
    """Return the indexes of the layers of ``source``; None if it is in no layout.

    Other limits than the default ones are compared with what is in the layers themselves, so these are read then.
    """
    found = innermost(source)
    store = found.blobs if isinstance(found, _Listed) else None
    return store.layer_indexes if isinstance(store, _Indexed) and limits == Limits() else None


def _file_of(diff_id: Digest) -> str:
    return f"{INDEXES_DIRECTORY}/{diff_id.algorithm}-{diff_id.encoded}"


def _points_file_of(blob: Digest) -> str:
    return f"{INDEXES_DIRECTORY}/{blob.algorithm}-{blob.encoded}.points"


def forget_removed_layers(directory: LayoutDirectory, stamps: BlobStamps) -> None:
    """Remove the indexes of layers that are gone; only for the single user of the layout."""
    kept = set()
    for digest, index in stamps.indexed_layers():
        kept.add(_file_of(index.diff_id))
        if index.points is not None:
            kept.add(_points_file_of(digest))
    for name in directory.list_names(INDEXES_DIRECTORY):
        if f"{INDEXES_DIRECTORY}/{name}" not in kept:
            directory.remove(f"{INDEXES_DIRECTORY}/{name}")
    if not kept:
        directory.remove_directory(INDEXES_DIRECTORY)
