"""Limits that no honest image meets, so that a hostile one can't fill the disk or the memory."""

from __future__ import annotations

from dataclasses import dataclass

from ociexport.errors import LimitExceededError
from ociexport.layers.tar.reader import MAX_EXTENDED_HEADER_BYTES, Entry
from ociexport.system.compression import MAX_RATIO, RATIO_FROM_BYTES

_GIB = 1024**3
# PATH_MAX is 4096 bytes, so no program could reach what is deeper by its path.
MAX_DEPTH = 2_000
# A path may lead through 40 links of 2,000 names each, and so may the next one. Five for each entry that there may be
# are more than honest images have, since layers name what a link leads to, not the link; they take some ten seconds.
MAX_STEPS = 100_000_000
# What an entry that is kept whole takes of memory beside its bytes: measured, rounded up.
_ENTRY_BYTES = 300
# The same of an attribute: two objects, and their place in a dictionary.
_XATTR_BYTES = 160


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an image's tree may be.

    Args:
        max_bytes: of all tars together, uncompressed; the largest images seen (CUDA, games) have a tenth of it.
        max_entries: of all layers together.
        max_ratio: of uncompressed to compressed bytes of one layer.
        ratio_from_bytes: uncompressed bytes of a layer from which on the ratio is held.
        max_depth: directories within directories, however the tar's paths lead there.
        max_path_bytes: of one name in a tar.
        max_extended_header_bytes: of one PAX or GNU extension, which is read into memory.
        max_metadata_bytes: of all attributes and long names together; those of directories are kept until the end.
        max_name_bytes: of memory for a tree's names: of a tree on disk, its directories (800 each) and what each layer
            writes; of one that is not built on disk, all (600 each).
        max_steps: names that links lead over, for all paths through links together; what it takes to open deep
            directories again and again counts too.
    """

    max_bytes: int = 1024 * _GIB
    max_entries: int = 20_000_000
    max_ratio: int = MAX_RATIO
    ratio_from_bytes: int = RATIO_FROM_BYTES
    max_depth: int = MAX_DEPTH
    max_path_bytes: int = 65_536
    max_extended_header_bytes: int = MAX_EXTENDED_HEADER_BYTES
    max_metadata_bytes: int = _GIB // 4
    max_name_bytes: int = 2 * _GIB
    max_steps: int = MAX_STEPS

    def verify_ratio(self, tar_bytes: int, blob_bytes: int) -> None:
        """Return if ``blob_bytes`` may become ``tar_bytes``.

        Raises:
            LimitExceededError: they are a bomb.
        """
        if tar_bytes > self.ratio_from_bytes and tar_bytes > self.max_ratio * blob_bytes:
            raise LimitExceededError(
                f"expected at most {self.max_ratio} times the {blob_bytes} compressed bytes, got {tar_bytes} so far",
                hint="if you trust the image, raise --max-ratio",
            )

    def verify_totals(self, entries: int, tar_bytes: int) -> None:
        """Return if all layers up to now may have so many entries and uncompressed bytes.

        Raises:
            LimitExceededError: they are too many.
        """
        if entries > self.max_entries:
            raise LimitExceededError(
                f"expected at most {self.max_entries} entries", hint="if you trust the image, raise --max-files"
            )
        if tar_bytes > self.max_bytes:
            raise LimitExceededError(
                f"expected at most {self.max_bytes} uncompressed bytes",
                hint="if you trust the image, raise --max-size",
            )

    def verify_path(self, path: bytes) -> None:
        """Return if one path may be so long and so deep.

        Raises:
            LimitExceededError: it may not.
        """
        if len(path) > self.max_path_bytes:
            raise LimitExceededError(
                f"path: expected at most {self.max_path_bytes} bytes, got {len(path)}",
                hint="if you trust the image, raise --max-path",
            )
        verify_depth(path.count(b"/"), self.max_depth)

    def verify_metadata(self, metadata_bytes: int) -> None:
        """Return if all layers up to now may have attributes and long names of so many bytes.

        Raises:
            LimitExceededError: they are too many.
        """
        if metadata_bytes > self.max_metadata_bytes:
            raise LimitExceededError(
                f"expected at most {self.max_metadata_bytes} bytes of attributes and long names in all layers",
                hint="if you trust the image, raise --max-metadata",
            )

    def verify_sparse_size(self, size: int) -> None:
        """Return if one file, holes included, may have ``size`` bytes: who copies the tree may write them out.

        Raises:
            LimitExceededError: it may not.
        """
        if size > self.max_bytes:
            raise LimitExceededError(
                f"sparse file: expected at most {self.max_bytes} bytes, got {size}",
                hint="if you trust the image, raise --max-size",
            )


def verify_depth(depth: int, max_depth: int) -> None:
    """Return if a directory may be in ``depth`` others.

    Raises:
        LimitExceededError: it may not.
    """
    if depth > max_depth:
        raise LimitExceededError(
            f"path: expected at most {max_depth} directories, got {depth}",
            hint="if you trust the image, raise --max-depth",
        )


def verify_steps(steps: int, max_steps: int) -> None:
    """Return if the paths of an image may lead over so many names of links and deep directories.

    Raises:
        LimitExceededError: they may not.
    """
    if steps > max_steps:
        raise LimitExceededError(f"expected at most {max_steps} names on the ways through links and deep directories")


def weight_of(entry: Entry) -> int:
    """Return how many bytes of memory an entry takes; those without a name are shared by many nodes."""
    if not entry.name:
        return len(entry.link_name)
    xattrs = 0
    if entry.xattrs:
        xattrs = sum(_XATTR_BYTES + len(name) + len(value) for name, value in entry.xattrs.items())
    return _ENTRY_BYTES + len(entry.name) + len(entry.link_name) + xattrs


class NameBudget:
    """The memory that the names of one or several trees may take together.

    Args:
        limits: `Limits.max_name_bytes` is held.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_bytes = limits.max_name_bytes
        self._taken_bytes = 0

    def take(self, count: int) -> None:
        """Take note of ``count`` more bytes; a negative number gives some back.

        Raises:
            LimitExceededError: together they are too many.
        """
        if self._taken_bytes + count > self._max_bytes:
            raise LimitExceededError(
                f"expected at most {self._max_bytes} bytes of memory for names",
                hint="if you trust the image, raise --max-memory",
            )
        self._taken_bytes += count
