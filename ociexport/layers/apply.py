"""Application of layers, in order, to a target: a tree on disk, a tree in memory, a tar being written.

Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidImageError, LimitExceededError, OciexportError, quoted_path
from ociexport.images.source import BlobOpener
from ociexport.layers.limits import Limits
from ociexport.layers.losses import Losses
from ociexport.layers.paths import ImagePath, parse_image_path, verify_symlink_target
from ociexport.layers.selection import PathSelection
from ociexport.layers.stream import LayerStream
from ociexport.layers.tar.reader import Entry, EntryType, TarReader, verify_device
from ociexport.layers.whiteouts import AUFS_LINKS, WHITEOUT_PREFIX, WhiteoutKind, parse_whiteout
from ociexport.spec.config import Layer
from ociexport.system.progress.protocol import Progress

if TYPE_CHECKING:
    from ociexport.system.access_points import AccessPoints

# The kernel's errors for names and links in the archive, as opposed to errors of the disk.
_ARCHIVE_ERRORS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR})
# Errors for what an archive may contain, but this file system can't: another one may take it.
_FILE_SYSTEM_ERRORS = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EMLINK, errno.EILSEQ, errno.EFBIG, errno.EOVERFLOW}
)
# Looking up a module's name is faster than looking up a member of an enumeration.
_FILE, _DIRECTORY, _SYMLINK = EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK
_HARD_LINK = EntryType.HARD_LINK
# The block size of nearly all file systems: what one byte of data takes.
_BLOCK_BYTES = 4096
# How many skipped devices are remembered for hard links to them, and the longest path remembered.
_MAX_SKIPPED_DEVICES, _MAX_SKIPPED_PATH_BYTES = 10_000, 1024


class DeviceRefusedError(OciexportError):
    """A device can't be made in this target; no file has its name."""


class LayerTarget(Protocol):
    """A target that layers are applied to; `Rootfs` documents each call."""

    def begin_layer(self) -> None: ...

    def make_directory(self, path: ImagePath, entry: Entry) -> None: ...

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None: ...

    def make_symlink(self, path: ImagePath, entry: Entry) -> None: ...

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None: ...

    def make_device(self, path: ImagePath, entry: Entry) -> None: ...

    def hide(self, path: ImagePath) -> None: ...

    def hide_children(self, path: ImagePath) -> None: ...


class FileLocator(Protocol):
    """Is told where in a layer's tar the files' data is."""

    def new_points(self) -> AccessPoints:
        """Return an object for the access points of a layer that will be read."""

    def begin_tar(self, points: AccessPoints) -> None:
        """Begin the layer that the points, which grow while it is read, are of."""

    def locate_file(self, offset: int) -> None:
        """Take the offset of the stored data that the next call of `LayerTarget.write_file` is about."""


class LayerTar(Protocol):
    """The tar of one layer.

    Attributes:
        tar_bytes: how many bytes of the tar were read.
        failure: the error of the stream itself, as opposed to one of the entry being read; None so far.
    """

    @property
    def tar_bytes(self) -> int: ...

    @property
    def failure(self) -> InvalidImageError | None: ...

    def __iter__(self) -> Iterator[bytes]: ...

    def count_blocks(self, block_bytes: int) -> None: ...

    def verify_diff_id(self) -> None: ...


class LayerApplier:
    """Applies layers to a target, one after another.

    Args:
        target: receives the changes.
        limits: bound the number and size of entries.
        losses: counts what is left out.
        selection: the paths to apply; None for all.
        placeholder_devices: devices that can't be made become empty files.
        refused: called with the error of each entry that can't be applied; the entry is left out. With None, the first
            such error is raised. A `LimitExceededError` is always raised.
        locator: is told where files are.
    """

    def __init__(
        self,
        target: LayerTarget,
        limits: Limits,
        losses: Losses,
        *,
        selection: PathSelection | None = None,
        placeholder_devices: bool = False,
        refused: Callable[[InvalidImageError], None] | None = None,
        locator: FileLocator | None = None,
    ) -> None:
        self._target = target
        self._locator = locator
        self._limits = limits
        self._placeholder_devices = placeholder_devices
        self._selection = selection
        self._losses = losses
        self._refused = refused
        # Remembered because hard links to them can't be made either.
        self._skipped_devices: set[ImagePath] = set()
        self.has_aufs_links = False
        self.metadata_bytes = 0
        # Each segment of a sparse file takes a block on disk, even if it is only a few bytes in the tar.
        self.block_bytes = 0
        self.entries = 0
        self.tar_bytes = 0

    def apply_all(
        self, source: BlobOpener, layers: Sequence[Layer], progress: Progress, *, doing: str = "reading"
    ) -> None:
        """Apply all ``layers`` of an image, lowest first; see `apply_some`."""
        self.apply_some(source, layers, progress, doing=doing)
        self.finish(self._target)

    def apply_some(
        self, source: BlobOpener, layers: Sequence[Layer], progress: Progress, *, doing: str = "reading"
    ) -> None:
        """Apply ``layers`` in this order and verify each; an error names its layer.

        Args:
            source: opens the blobs.
            layers: some or all layers of an image, lowest first.
            progress: receives the progress.
            doing: the word for the task in progress messages.
        """
        with progress.phase(doing, sum(layer.descriptor.size for layer in layers)):
            for layer, stream in _streams_ahead(source, layers, progress, self._limits, doing, locator=self._locator):
                if self._locator is not None and stream.points is not None:
                    self._locator.begin_tar(stream.points)
                with _locating_layer(layer, stream):
                    self.apply(stream)

    def finish(self, target: LayerTarget) -> None:
        """Hide AUFS's directory of linked files in ``target``, to which all layers were applied."""
        if self.has_aufs_links:
            # In a layer of its own, so that the names that layers gave to these files stay.
            target.begin_layer()
            target.hide(AUFS_LINKS)

    def apply(self, stream: LayerTar) -> None:
        """Apply one layer's changes and verify its diff_id.

        Whiteouts hide only entries of lower layers, wherever the whiteouts are in the tar.

        Raises:
            UnsafeEntryError: an entry would act outside the tree; that entry was not applied.
            DigestMismatchError: the tar is not the right one. This is known only at the end, when the changes are
                already applied, so the caller discards the tree.

        Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
        """
        limits = self._limits
        max_entries, max_tar_bytes = limits.max_entries, limits.max_bytes - self.tar_bytes
        self._target.begin_layer()
        reader = TarReader(iter(stream), max_extended_header_bytes=limits.max_extended_header_bytes)
        for entry in reader:
            self.entries += 1
            if self.entries > max_entries or stream.tar_bytes > max_tar_bytes:
                limits.verify_totals(self.entries, self.tar_bytes + stream.tar_bytes)
            try:
                if entry.segments is not None:
                    self._count_blocks(entry, stream)
                self._apply_entry(entry, reader)
            except InvalidImageError as error:
                if error is stream.failure:
                    raise
                error.add_place(f"entry {quoted_path(entry.name)}")
                if self._refused is None or isinstance(error, LimitExceededError):
                    raise
                self._refused(error)
            except OSError as error:
                if isinstance(error.filename, str):
                    raise  # the error names the output, such as standard output; names in trees are bytes
                if error.errno not in _ARCHIVE_ERRORS:
                    error.filename = _placed(error.filename, entry.name)
                    if error.errno in _FILE_SYSTEM_ERRORS:
                        error.strerror = f"{error.strerror}: this file system can't store the entry"
                    raise
                raise InvalidImageError(f"entry {quoted_path(entry.name)}: {error.strerror}") from error
        reader.drain()
        stream.verify_diff_id()
        self.tar_bytes += stream.tar_bytes

    def _apply_entry(self, entry: Entry, reader: TarReader) -> None:
        name = entry.name
        if len(name) > 256 or entry.xattrs is not None or len(entry.link_name) > 256:
            self._count_metadata(entry)
        path = parse_image_path(name)
        if WHITEOUT_PREFIX in name and self._apply_whiteout(path, entry, reader):
            return
        if self._selection is not None and not self._selection.takes(path):
            return
        kind = entry.type
        if kind is _FILE:
            self._write_file(path, entry, reader)
        elif kind is _DIRECTORY:
            self._target.make_directory(path, entry)
        elif kind is _SYMLINK:
            verify_symlink_target(entry.link_name)
            self._target.make_symlink(path, entry)
        elif kind is _HARD_LINK:
            self._make_hard_link(path, parse_image_path(entry.link_name))
        else:
            self._make_device(path, entry)

    def _count_metadata(self, entry: Entry) -> None:
        self._limits.verify_path(entry.name)
        xattrs = entry.xattrs or {}
        self.metadata_bytes += len(entry.name) + len(entry.link_name)
        self.metadata_bytes += sum(len(name) + len(value) for name, value in xattrs.items())
        self._limits.verify_metadata(self.metadata_bytes)

    def _count_blocks(self, entry: Entry, stream: LayerTar) -> None:
        self._limits.verify_sparse_size(entry.size)
        block_bytes = _BLOCK_BYTES * len(entry.segments or ())
        stream.count_blocks(block_bytes)
        self.block_bytes += block_bytes
        self._limits.verify_totals(self.entries, self.tar_bytes + stream.tar_bytes + self.block_bytes)

    def _apply_whiteout(self, path: ImagePath, entry: Entry, reader: TarReader) -> bool:
        """Hide what a whiteout hides; return False if the entry is not a whiteout."""
        whiteout = parse_whiteout(path, is_file=entry.type is EntryType.FILE)
        if whiteout is None:
            return False
        if whiteout.kind is WhiteoutKind.PLAIN:
            self._target.hide(whiteout.path)
        elif whiteout.kind is WhiteoutKind.OPAQUE:
            self._target.hide_children(whiteout.path)
        elif whiteout.kind is WhiteoutKind.AUFS_LINK:
            # Hard links to it follow. moby makes a copy for each; here they share one inode, as they did in AUFS.
            self.has_aufs_links = True
            self._write_file(path, entry, reader)
        return True

    def _write_file(self, path: ImagePath, entry: Entry, reader: TarReader) -> None:
        if self._locator is not None:
            self._locator.locate_file(reader.data_offset)
        self._target.write_file(path, entry, reader.read_data())

    def _make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        is_aufs_link = target.startswith(AUFS_LINKS + b"/")
        if self._selection is not None and not (is_aufs_link or self._selection.takes(target)):
            # The file's content was under a name that is not selected, and was skipped.
            self._losses.hard_links += 1
            return
        try:
            self._target.make_hard_link(path, target)
        except InvalidImageError:
            if target not in self._skipped_devices:
                raise
            self._remember_skipped(path)

    def _make_device(self, path: ImagePath, entry: Entry) -> None:
        verify_device(entry)
        try:
            self._target.make_device(path, entry)
        except DeviceRefusedError:
            if not self._placeholder_devices:
                self._losses.devices += 1
                self._remember_skipped(path)
                return
            self._target.write_file(path, entry, iter(()))
            self._losses.placeholders += 1

    def _remember_skipped(self, path: ImagePath) -> None:
        if len(self._skipped_devices) < _MAX_SKIPPED_DEVICES and len(path) <= _MAX_SKIPPED_PATH_BYTES:
            self._skipped_devices.add(path)


def _streams_ahead(
    source: BlobOpener,
    layers: Sequence[Layer],
    progress: Progress,
    limits: Limits,
    doing: str,
    *,
    locator: FileLocator | None,
) -> Iterator[tuple[Layer, LayerStream]]:
    """Yield each layer and its stream; while one layer is applied, the next is already being fetched and inflated."""
    with ExitStack() as stack:

        def begin(layer: Layer) -> LayerStream:
            points = locator.new_points() if locator is not None else None
            return stack.enter_context(closing(LayerStream(source, layer, progress, limits, doing, points=points)))

        following: LayerStream | None = None
        for number, layer in enumerate(layers):
            stream = following or begin(layer)
            following = begin(layers[number + 1]) if number + 1 < len(layers) else None
            yield layer, stream
            stream.close()


def _placed(file_name: object, path: bytes) -> bytes:
    """Return the entry's path for an error of the disk, whose own file name is only the last name or ``xattr …``."""
    if isinstance(file_name, bytes) and file_name.startswith(b"xattr "):
        return path + b": " + file_name
    return path


@contextmanager
def _locating_layer(layer: Layer, stream: LayerStream) -> Iterator[None]:
    """Add the layer to an error's place; if the blob turns out to be the wrong one, raise that error instead."""
    try:
        try:
            yield
        except InvalidImageError as error:
            stream.verify_blob_after(error)
            raise
    except InvalidImageError as error:
        error.add_place(str(layer))
        raise
