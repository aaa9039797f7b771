"""Limits beyond any honest image, which keep a hostile image from filling the disk or the memory."""

from __future__ import annotations

from ociexport.errors import LimitExceededError, counted
from ociexport.layers.tar.reader import MAX_EXTENDED_HEADER_BYTES, Entry
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.compression import MAX_RATIO, RATIO_FROM_BYTES

_GIB = 1024**3
MAX_BYTES = 1024 * _GIB
# PATH_MAX is 4096 bytes, so no program could reach a deeper file by its path.
MAX_DEPTH = 2_000
# Each path may lead through 40 links of 2,000 names each. Five names for each allowed entry are more than honest images
# have, since layers name the target of a link, not the link. This many take some ten seconds.
MAX_STEPS = 100_000_000
# Memory that a whole entry takes beside its bytes: measured, rounded up.
_ENTRY_BYTES = 300
# Memory that an attribute takes beside its bytes: two objects, and their place in a dictionary.
_XATTR_BYTES = 160


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an image's tree may be.

    Args:
        max_bytes: bytes of all tars together, uncompressed; the largest images seen (CUDA, games) have a tenth of it.
        max_entries: entries of all layers together.
        max_ratio: ratio of uncompressed to compressed bytes of one layer.
        ratio_from_bytes: uncompressed bytes of a layer above which the ratio is checked.
        max_depth: depth of nested directories, by whatever paths the tar reaches them.
        max_path_bytes: bytes of one name in a tar.
        max_extended_header_bytes: bytes of one PAX or GNU extension, which is read into memory.
        max_metadata_bytes: bytes of all attributes and long names together; those of directories stay in memory.
        max_name_bytes: bytes of memory for a tree's names. On disk, a tree's directories (800 each) and the names that
            each layer writes count; in memory, all names (600 each).
        max_window_bytes: bytes of its output that a decompressor keeps in memory, as zstd and xz streams declare. None
            is for what zstd supports and this machine has. Two layers are decompressed at a time.
        max_steps: names walked through links, for all paths together; reopening deep directories counts too.
    """

    max_bytes: int = MAX_BYTES
    max_entries: int = 20_000_000
    max_ratio: int = MAX_RATIO
    ratio_from_bytes: int = RATIO_FROM_BYTES
    max_depth: int = MAX_DEPTH
    max_path_bytes: int = 65_536
    max_extended_header_bytes: int = MAX_EXTENDED_HEADER_BYTES
    max_metadata_bytes: int = _GIB // 4
    max_name_bytes: int = 2 * _GIB
    max_window_bytes: int | None = None
    max_steps: int = MAX_STEPS

    def verify_ratio(self, tar_bytes: int, blob_bytes: int) -> None:
        """Return if ``blob_bytes`` compressed bytes may inflate to ``tar_bytes``.

        Raises:
            LimitExceededError: the ratio is that of a decompression bomb.
        """
        if tar_bytes > self.ratio_from_bytes and tar_bytes > self.max_ratio * blob_bytes:
            raise _over_limit(
                f"expected at most {self.max_ratio} times the {counted(blob_bytes, 'compressed byte')}, "
                f"got {tar_bytes} so far",
                "--max-ratio",
            )

    def verify_totals(self, entries: int, tar_bytes: int) -> None:
        """Return if all layers so far may have this many entries and uncompressed bytes.

        Raises:
            LimitExceededError: there are too many.
        """
        if entries > self.max_entries:
            raise _over_limit(f"expected at most {counted(self.max_entries, 'entry')}", "--max-files")
        if tar_bytes > self.max_bytes:
            raise _over_limit(f"expected at most {counted(self.max_bytes, 'uncompressed byte')}", "--max-size")

    def verify_files(self, total_bytes: int) -> None:
        """Return if the files that remain of all layers may have this many bytes together, holes left out or not.

        Raises:
            LimitExceededError: they are too many.
        """
        if total_bytes > self.max_bytes:
            raise LimitExceededError(
                f"files: expected at most {counted(self.max_bytes, 'byte')} in all, got {total_bytes}",
                hint="if you trust the image, raise --max-size",
            )

    def verify_path(self, path: bytes) -> None:
        """Return if ``path`` is within the limits of length and depth.

        Raises:
            LimitExceededError: it is too long or too deep.
        """
        if len(path) > self.max_path_bytes:
            raise _over_limit(
                f"path: expected at most {counted(self.max_path_bytes, 'byte')}, got {len(path)}", "--max-path"
            )
        verify_depth(path.count(b"/"), self.max_depth)

    def verify_metadata(self, metadata_bytes: int) -> None:
        """Return if all layers so far may have this many bytes of attributes and long names.

        Raises:
            LimitExceededError: there are too many.
        """
        if metadata_bytes > self.max_metadata_bytes:
            raise _over_limit(
                f"expected at most {counted(self.max_metadata_bytes, 'byte')} of attributes and long names "
                "in all layers",
                "--max-metadata",
            )

    def verify_sparse_size(self, size: int) -> None:
        """Return if one file may have ``size`` bytes, holes included, since copying the tree may write the holes out.

        Raises:
            LimitExceededError: it is too large.
        """
        if size > self.max_bytes:
            raise _over_limit(
                f"sparse file: expected at most {counted(self.max_bytes, 'byte')}, got {size}", "--max-size"
            )


def _over_limit(message: str, option: str) -> LimitExceededError:
    return LimitExceededError(message, hint=f"if you trust the image, raise {option}")


def verify_depth(depth: int, max_depth: int) -> None:
    """Return if a directory may have ``depth`` directories above.

    Raises:
        LimitExceededError: it is too deep.
    """
    if depth > max_depth:
        raise _over_limit(f"path: expected at most {counted(max_depth, 'directory')}, got {depth}", "--max-depth")


def verify_copies(copied_bytes: int, max_bytes: int) -> None:
    """Return if this many bytes may be copied for hard links that the file system does not allow.

    Raises:
        LimitExceededError: there are too many.
    """
    if copied_bytes > max_bytes:
        raise _over_limit(
            f"copies for hard links: expected at most {counted(max_bytes, 'byte')}, got more", "--max-size"
        )


def verify_steps(steps: int, max_steps: int) -> None:
    """Return if the paths of an image may lead through ``steps`` names of links and deep directories.

    Raises:
        LimitExceededError: there are too many.
    """
    if steps > max_steps:
        raise LimitExceededError(
            f"expected at most {counted(max_steps, 'name')} on paths through links and deep directories"
        )


def weight_of(entry: Entry) -> int:
    """Return how many bytes of memory an entry takes; an entry without a name is shared by many nodes."""
    if not entry.name:
        return len(entry.link_name)
    xattrs = 0
    if entry.xattrs:
        xattrs = sum(_XATTR_BYTES + len(name) + len(value) for name, value in entry.xattrs.items())
    return _ENTRY_BYTES + len(entry.name) + len(entry.link_name) + xattrs


class NameBudget:
    """The memory that the names of one or several trees may take together.

    Args:
        limits: gives `Limits.max_name_bytes`.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_bytes = limits.max_name_bytes
        self._taken_bytes = 0

    def take(self, count: int) -> None:
        """Count ``count`` more bytes as used; a negative number returns some.

        Raises:
            LimitExceededError: the total is too large.
        """
        if self._taken_bytes + count > self._max_bytes:
            raise _over_limit(
                f"expected at most {counted(self._max_bytes, 'byte')} of memory for names", "--max-memory"
            )
        self._taken_bytes += count
