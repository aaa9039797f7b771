"""The formats of disk images: which there are, what each takes, and the code that writes each, loaded when needed."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from ociexport.errors import UsageError, quoted
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.files import is_stream

if TYPE_CHECKING:
    from ociexport.rootfs.outputs.flat_image import FlatImage

# The format that is no disk image: a directory.
TREE = "tree"
# Where a hash tree is: after the image, or in a file of its own.
APPEND, BESIDE = "append", "beside"
_LEVELS = {"gzip": range(1, 10), "deflate": range(1, 10), "zstd": range(1, 23), "xz": range(10)}
_ENDINGS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd", ".xz": "xz", ".txz": "xz"}
NO_COMPRESSION = "none"


@dataclass(frozen=True, slots=True)
class DiskImageOptions:
    """How a disk image is written.

    Args:
        compression: the name of an algorithm, one of those that the format has; None for the format's own default.
        level: of the compression; None for the format's default.
        free_bytes: free space to leave in the file system (ext4); None for a little.
        journal: whether the file system has one (ext4).
        kernel: version of the kernel that mounts the image, as (major, minor); None for any in long-term support.
        threads: how many may compress at a time.
        verity: ``append`` to write a dm-verity hash tree after a file system, ``beside`` to write it and the root hash
            into files of their own, whose names have ``.verity`` and ``.roothash`` after the image's; None for neither.
    """

    compression: str | None = None
    level: int | None = None
    free_bytes: int | None = None
    journal: bool = True
    kernel: tuple[int, int] | None = None
    threads: int = 1
    verity: str | None = None


class DiskImageWriter(Protocol):
    """Writes one format; the same image and options always give the same bytes."""

    def __call__(self, image: FlatImage, fd: int, options: DiskImageOptions) -> None:
        """Write ``image`` into the file ``fd``, which is open for reading and writing at any offset.

        The file is empty, or has the placed data of the image and nothing else; see `Format.leaves_data`.
        The caller gives the file its name when everything is well. A part that is all zeros may be left a hole.

        Raises:
            InvalidImageError: the image has what the format can't store (its place: the path).
            UsageError: an option that the format does not have.
            OSError: the disk failed.
        """


class Format(NamedTuple):
    """A format of disk images, and what it takes.

    Args:
        name: as in ``--format``.
        suffixes: of the names of its files.
        compressions: that it has.
        writer: module in this folder, and the function in it; None for a tar, which has no flattened image.
        check: the same for a function that refuses options which contradict each other; None without one.
        leaves_data: whether the data of large files may stand in an uncompressed image before the rest is known: at
            multiples of 4096, from the second block on.
        is_file_system: whether a kernel mounts it. Then it is written at any offset, and can have a hash tree; any
            other format is written from its beginning to its end.
        options: which options of the command it has besides those for all.
        has_xattrs: whether it stores extended attributes.
    """

    name: str
    suffixes: tuple[str, ...]
    compressions: tuple[str, ...]
    writer: str | None = None
    check: str | None = None
    is_file_system: bool = False
    leaves_data: bool = False
    options: tuple[str, ...] = ()
    has_xattrs: bool = True

    def load_writer(self) -> DiskImageWriter:
        """Return the function that writes it; not for a tar."""
        return cast(DiskImageWriter, _loaded(self.writer or ""))

    def complete(self, options: DiskImageOptions, path: str) -> DiskImageOptions:
        """Return ``options`` with the compression that the name of the file asks for; None for a plain file.

        A file system's compression is left to its writer if ``options`` don't have one.

        Raises:
            UsageError: the format does not have an option, or the name asks for another compression.
        """
        asked = next((name for suffix, name in _ENDINGS.items() if path.endswith(suffix)), None)
        if self.is_file_system:
            asked = None
        elif asked not in self.compressions:
            asked = self.compressions[0]
        name = options.compression or asked
        if name is not None and name not in self.compressions:
            expected = " or ".join(self.compressions)
            raise UsageError(f"--compression: expected {expected} for the format {self.name}, got {quoted(name)}")
        if name != asked and asked not in (None, self.compressions[0]):
            raise UsageError(f"--compression: expected {asked} for {quoted(path)}, got {name}")
        if options.level is not None:
            if name is None:
                raise UsageError(f"level {options.level}: expected a compression beside it, got none")
            levels = _LEVELS.get(name, range(0))
            if options.level not in levels:
                expected = f"a level from {levels[0]} to {levels[-1]}" if levels else "no level"
                raise UsageError(f"--compression: expected {expected} for {name}, got {options.level}")
        given = {
            "free": options.free_bytes is not None,
            "no-journal": not options.journal,
            "kernel": options.kernel is not None,
        }
        for option, is_given in given.items():
            if is_given and option not in self.options:
                others = " or ".join(one.name for one in FORMATS if option in one.options)
                raise UsageError(f"--{option}: expected the format {others}, got {self.name}")
        if options.verity is not None and not self.is_file_system:
            others = " or ".join(one.name for one in FORMATS if one.is_file_system)
            raise UsageError(f"--verity: expected the format {others}, got {self.name}")
        if options.verity not in (None, APPEND, BESIDE):
            raise UsageError(f"verity: expected {APPEND} or {BESIDE}, got {quoted(options.verity)}")
        is_plain = name == NO_COMPRESSION and self.compressions[0] == NO_COMPRESSION
        options = replace(options, compression=None if is_plain else name)
        if self.check is not None:
            _loaded(self.check)(options)
        return options


def _loaded(place: str) -> Callable[..., object]:
    module, _, function = place.partition(":")
    module = f"{__name__.rpartition('.')[0]}.{module}"
    return cast("Callable[..., object]", getattr(importlib.import_module(module), function))


def _cpio(ending: str, *compressions: str) -> Format:
    return Format(f"cpio{ending}", (f".cpio{ending}",), compressions, writer="cpio:write_cpio", has_xattrs=False)


FORMATS = (
    Format(
        name="erofs",
        suffixes=(".erofs",),
        compressions=(NO_COMPRESSION, "deflate", "zstd"),
        writer="erofs.writer:write_erofs",
        check="erofs.compression:algorithm_of",
        is_file_system=True,
        leaves_data=True,
        options=("kernel",),
    ),
    Format(
        name="squashfs",
        suffixes=(".squashfs", ".sqfs"),
        compressions=("gzip", "zstd", NO_COMPRESSION),
        writer="squashfs.image:write_squashfs",
        check="squashfs.compression:parse_compression",
        is_file_system=True,
    ),
    Format(
        name="ext4",
        suffixes=(".ext4",),
        compressions=(NO_COMPRESSION,),
        writer="ext4.writer:write_ext4",
        is_file_system=True,
        options=("free", "no-journal"),
    ),
    _cpio("", NO_COMPRESSION, "gzip", "zstd", "xz"),
    _cpio(".gz", "gzip"),
    _cpio(".zst", "zstd"),
    _cpio(".xz", "xz"),
    Format("tar", (".tar",), (NO_COMPRESSION, "gzip", "zstd", "xz")),
    Format("tar.gz", (".tar.gz", ".tgz"), ("gzip",)),
    Format("tar.zst", (".tar.zst", ".tzst"), ("zstd",)),
    Format("tar.xz", (".tar.xz", ".txz"), ("xz",)),
    Format("incus", (), ("gzip", "zstd", "xz", NO_COMPRESSION)),
    Format("wsl", (".wsl",), ("gzip", "xz")),
)
NAMES = (TREE, *(one.name for one in FORMATS))


def format_of(path: str) -> str:
    """Return the name of the format that the name of a file asks for; `TREE` for any other name."""
    found = [one.name for one in FORMATS if path.endswith(one.suffixes)]
    return found[0] if found else TREE


def format_named(name: str) -> Format:
    """Return the format of this name.

    Raises:
        UsageError: there is none.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    raise UsageError(f"format: expected {', '.join(NAMES[:-1])} or {NAMES[-1]}, got {quoted(name)}")


def verify_target(target: str, chosen: Format) -> None:
    """Return if a disk image may be written to ``target``.

    Raises:
        UsageError: it is a stream, and the format is not written from its beginning to its end.
        OSError: it is a directory.
    """
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if chosen.is_file_system and is_stream(target):
        raise UsageError(
            f"{quoted(target)}: expected a file for {chosen.name}, which is not written in order, got a stream",
            hint="a cpio archive or a tar can be written to a stream",
        )
