"""Writes an image's root filesystem as one file: a file system, a cpio archive or a tar, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from ociexport.errors import InvalidImageError, OciexportError, UsageError, quoted_path
from ociexport.images.source import ImageSource
from ociexport.layers.limits import Limits
from ociexport.layers.selection import PathSelection
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.disk.metadata import IdMap, XattrMode, with_mapped_owner
from ociexport.rootfs.disk.preflight import verify_room
from ociexport.rootfs.outputs.flat_image import FlatImage, flat_image
from ociexport.rootfs.outputs.formats import APPEND, NO_COMPRESSION, DiskImageOptions, Format, verify_target
from ociexport.rootfs.outputs.incus import ROOTFS_PREFIX, incus_files
from ociexport.rootfs.outputs.tar import FlattenResult, flatten, no_files
from ociexport.spec.config import Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.system.environment import source_date_epoch
from ociexport.system.files import is_stream, new_file, spool_for
from ociexport.system.parallel_compression import compressed
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.temporary_files import TemporaryFileError

if TYPE_CHECKING:
    from ociexport.rootfs.outputs.verity import Verity

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class DiskImageRequest:
    """What is to be written, and how.

    Args:
        format: of the file.
        options: about the format.
        platform: to choose from an index.
        limits: how large the image may be.
        selection: which paths are written; None for all.
        keep_dirlinks: a directory entry over a link to a directory keeps the link.
        uid_map: None for the image's ids.
        gid_map: the same for groups.
        xattrs: whether attributes that the format can't store are an error (strict), or none is stored at all (none).
        preflight: whether the free space is checked first.
        max_mtime_ns: newer times are replaced by this one; SOURCE_DATE_EPOCH, if that is set, by `write_disk_image`.
    """

    format: Format
    options: DiskImageOptions
    platform: Platform
    limits: Limits
    selection: PathSelection | None = None
    keep_dirlinks: bool = False
    uid_map: IdMap | None = None
    gid_map: IdMap | None = None
    xattrs: XattrMode = XattrMode.WARN
    preflight: bool = True
    max_mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class DiskImage:
    """A disk image that was written.

    Args:
        size: of the file, in bytes; None for a stream.
        verity: its hash tree, if there is one.
    """

    size: int | None
    verity: Verity | None = None


def write_disk_image(
    source: ImageSource, target: str, request: DiskImageRequest, progress: Progress = SILENT
) -> tuple[FlatImage | FlattenResult, DiskImage]:
    """Write the root filesystem of ``source`` to the file ``target``, which appears when it is complete and verified.

    Returns what is in it, and what it is.

    Raises:
        InvalidImageError: as `unpack`, or the format can't store what the image has.
        UsageError, OSError: as `verify_target` and `new_file`, or a map has no range with an owner.
    """
    verify_target(target, request.format)
    options = request.format.complete(request.options, target)
    epoch = source_date_epoch()
    request = replace(request, options=options, max_mtime_ns=None if epoch is None else epoch * 1_000_000_000)
    if request.format.writer is None:
        with new_file(target) as file:
            result = _write_tar(source, request, file, progress)
            size = os.fstat(file.fileno()).st_size
        return result, DiskImage(None if is_stream(target) else size)
    writer = request.format.load_writer()
    leaves_data = request.format.leaves_data and options.compression is None
    with ExitStack() as stack:
        stack.enter_context(_room_explained(target, "its small files" if leaves_data else "its files"))
        begun = stack.enter_context(new_file(target)) if leaves_data else None
        spool = stack.enter_context(spool_for(target))
        with _spool_named(target):
            image = stack.enter_context(
                flat_image(
                    source,
                    spool.fileno(),
                    platform=request.platform,
                    limits=request.limits,
                    image_fd=None if begun is None else begun.fileno(),
                    selection=request.selection,
                    keep_dirlinks=request.keep_dirlinks,
                    max_mtime_ns=request.max_mtime_ns,
                    verify_layers=partial(_verify_room, request, target, spool.fileno()),
                    progress=progress,
                )
            )
        _change(image, request)
        with new_file(target) if begun is None else nullcontext(begun) as file:
            with _limits_explained(request.format.name):
                writer(image, file.fileno(), request.options)
            verity = _write_verity(file.fileno(), target, request, image)
            size = os.fstat(file.fileno()).st_size
    return image, DiskImage(None if is_stream(target) else size, verity)


@contextmanager
def _limits_explained(format_name: str) -> Iterator[None]:
    """Give an error of the writer a hint: by now the image is read and whole, so the error is a limit of the format."""
    try:
        yield
    except InvalidImageError as error:
        error.hint = error.hint or f"a limit of {format_name}; another --format may hold the image"
        raise


def _write_verity(fd: int, target: str, request: DiskImageRequest, image: FlatImage) -> Verity | None:
    if request.options.verity is None:
        return None
    from ociexport.rootfs.outputs.verity import write_verity  # noqa: PLC0415 - start-up: few images have one

    if request.options.verity == APPEND:
        return write_verity(fd, None, image.config.digest)
    # systemd finds both by these names: systemd-nspawn(1), "--root-hash=".
    with new_file(f"{target}.verity") as tree, new_file(f"{target}.roothash") as root_hash:
        verity = write_verity(fd, tree.fileno(), image.config.digest)
        root_hash.write(f"{verity.root_hash}\n".encode())
    return verity


def _write_tar(source: ImageSource, request: DiskImageRequest, file: BinaryIO, progress: Progress) -> FlattenResult:
    options, is_incus = request.options, request.format.name == "incus"
    with compressed(file, options.compression, options.level, options.threads) as sink:
        result = flatten(
            source,
            sink.write,
            platform=request.platform,
            limits=request.limits,
            selection=request.selection,
            keep_dirlinks=request.keep_dirlinks,
            max_mtime_ns=request.max_mtime_ns,
            change=partial(_changed, request),
            prefix=ROOTFS_PREFIX if is_incus else b"",
            first_files=partial(incus_files, max_mtime_ns=request.max_mtime_ns) if is_incus else no_files,
            progress=progress,
        )
    if request.xattrs is XattrMode.NONE:
        result.losses.skipped_xattrs.clear()
    return result


def _change(image: FlatImage, request: DiskImageRequest) -> None:
    image.losses.xattrs_must_fit = request.xattrs is XattrMode.STRICT
    if request.xattrs is XattrMode.NONE:
        image.losses.skipped_xattrs.clear()
    for node in image.nodes:
        entry = node.entry
        if entry.xattrs and request.xattrs is XattrMode.STRICT and not request.format.has_xattrs:
            raise InvalidImageError(
                f"xattr {quoted_path(next(iter(entry.xattrs)))}: expected none in the format {request.format.name}, "
                "which stores none",
                where=quoted_path(node.path),
                hint="--xattrs warn leaves it out",
            )
        try:
            node.entry = _changed(request, entry)
        except UsageError:
            _changed(request, entry._replace(name=node.path))  # raises the error with the path
            raise


def _changed(request: DiskImageRequest, entry: Entry) -> Entry:
    """Return the metadata to write."""
    if request.xattrs is XattrMode.NONE and entry.xattrs:
        entry = entry._replace(xattrs=None)
    if request.uid_map is None and request.gid_map is None:
        return entry
    return with_mapped_owner(entry, request.uid_map, request.gid_map)


def _verify_room(request: DiskImageRequest, target: str, spool_fd: int, layers: tuple[Layer, ...]) -> None:
    if not request.preflight or request.selection is not None or is_stream(target):
        return
    # What is compressed may become as small as the image's own layers, or smaller.
    is_compressed = (request.options.compression or request.format.compressions[0]) != NO_COMPRESSION
    verify_room(spool_fd, layers, target, copies=1 if is_compressed or request.format.leaves_data else 2)


@contextmanager
def _room_explained(target: str, files: str) -> Iterator[None]:
    """Add to the error of a full disk what needs room: the image, and the data of some ``files``."""
    try:
        yield
    except OSError as error:
        is_explained = isinstance(error, OciexportError) or error.strerror != os.strerror(error.errno or 0)
        if error.errno in _FULL and error.filename == target and not is_explained and not is_stream(target):
            error.strerror = f"{error.strerror} (the disk image and the data of {files} need room at once)"
        raise


@contextmanager
def _spool_named(target: str) -> Iterator[None]:
    """Make errors of the spool name ``target``, or the temporary files among which the spool of a stream is."""
    try:
        yield
    except OSError as error:
        # A name in bytes is that of the entry whose data is written. Any other is elsewhere: a blob, a file for events.
        if isinstance(error, OciexportError) or error.errno is None or isinstance(error.filename, str):
            raise
        if is_stream(target):
            raise TemporaryFileError(error) from error
        error.filename = target
        raise
