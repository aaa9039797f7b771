"""Counts of the parts of an image that the output lacks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from ociexport.errors import InvalidImageError, counted, quoted_path
from ociexport.spec.lazy_dataclass import dataclass, field

# Attributes that have a meaning only on the system where the image was built; umoci and containers/storage skip the
# same ones. A foreign label breaks SELinux, and overlayfs would read foreign overlay attributes as its own.
# XFS lists to root its own form of the ACLs, beside the one that all file systems have.
_SKIPPED_XATTRS = frozenset(
    {b"security.selinux", b"system.nfs4_acl", b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"}
)
_SKIPPED_XATTR_PREFIXES = (b"trusted.overlay.", b"user.overlay.")
# How many names are counted separately, and how many bytes of each are kept (xattr(7): XATTR_NAME_MAX).
_MAX_COUNTED_NAMES, _MAX_COUNTED_NAME_BYTES = 1000, 255
_OTHER_NAMES = b"others"
HAS_XATTRS = hasattr(os, "setxattr")


@dataclass(slots=True)
class Losses:
    """Counts of the parts of the layers that the tree lacks; each reason becomes one line.

    Attributes:
        owners_reason: why owners are not set.
        devices_reason: why devices are not made.
        xattrs_must_fit: whether an attribute that can't be stored is an error; see `count_lost_xattr`.
    """

    owners: int = 0
    devices: int = 0
    placeholders: int = 0
    hard_links: int = 0
    copied_links: int = 0
    times: int = 0
    unstorable_xattrs: Counter[bytes] = field(default_factory=Counter)
    refused_xattrs: Counter[bytes] = field(default_factory=Counter)
    skipped_xattrs: Counter[bytes] = field(default_factory=Counter)
    owners_reason: str = "only root can change owners"
    devices_reason: str = "only root can make devices"
    xattrs_must_fit: bool = False

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind of loss."""
        if self.owners:
            yield (
                f"owners: {counted(self.owners, 'file')} of users other than root "
                f"{'belongs' if self.owners == 1 else 'belong'} to this user, since {self.owners_reason}"
            )
        if self.devices:
            yield f"devices: {self.devices} left out, since {self.devices_reason}"
        if self.placeholders:
            yield f"devices: {self.placeholders} made as empty files, since {self.devices_reason}"
        if self.hard_links:
            yield f"hard links: {self.hard_links} left out, since their targets were not selected"
        if self.copied_links:
            yield f"hard links: {self.copied_links} made as copies, since the file system allows no more for one file"
        if self.times:
            yield f"times: {self.times} became the nearest that this format can store"
        if self.unstorable_xattrs:
            yield (
                f"xattrs: {self.unstorable_xattrs.total()} left out, which this format can't store: "
                f"{_names(self.unstorable_xattrs)}"
            )
        if self.refused_xattrs:
            yield f"xattrs: {self.refused_xattrs.total()} could not be set here: {_names(self.refused_xattrs)}"
        if self.skipped_xattrs:
            yield (
                f"xattrs: {self.skipped_xattrs.total()} left out, specific to the machine that built the image: "
                f"{_names(self.skipped_xattrs)}"
            )


def count_lost_xattr(losses: Losses, counts: Counter[bytes], name: bytes) -> None:
    """Count an attribute of the image that a disk image lacks, in one of the counters of ``losses``.

    Raises:
        InvalidImageError: `Losses.xattrs_must_fit` says that none may be lacking. The caller adds the path.
    """
    if losses.xattrs_must_fit:
        raise InvalidImageError(
            f"xattr {quoted_path(name)}: expected one that Linux accepts and this format can store",
            hint="--xattrs warn leaves it out",
        )
    count_xattr(counts, name)


def count_xattr(counts: Counter[bytes], name: bytes) -> None:
    """Count an attribute, in bounded memory: names may be many, and as long as an extended header."""
    name = name[:_MAX_COUNTED_NAME_BYTES]
    counts[name if name in counts or len(counts) < _MAX_COUNTED_NAMES else _OTHER_NAMES] += 1


def _names(counts: Counter[bytes]) -> str:
    shown = [quoted_path(name).strip("'") for name, _ in counts.most_common(5) if name is not _OTHER_NAMES]
    return ", ".join(shown) + (", …" if len(counts) > len(shown) else "")


def is_foreign_xattr(name: bytes) -> bool:
    """Whether an attribute has a meaning only on the machine where the image was built, and so is left out."""
    return name in _SKIPPED_XATTRS or name.startswith(_SKIPPED_XATTR_PREFIXES)
