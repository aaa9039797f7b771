"""The formats of disk images: which there are, what each takes, and the code that writes each, loaded when needed."""

from __future__ import annotations

from typing import Protocol

from ociexport.rootfs.outputs.flat_image import FlatImage
from ociexport.spec.lazy_dataclass import dataclass


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
    """

    compression: str | None = None
    level: int | None = None
    free_bytes: int | None = None
    journal: bool = True
    kernel: tuple[int, int] | None = None
    threads: int = 1


class DiskImageWriter(Protocol):
    """Writes one format; the same image and options always give the same bytes."""

    def __call__(self, image: FlatImage, fd: int, options: DiskImageOptions) -> None:
        """Write ``image`` into the empty file ``fd``, which is open for reading and writing at any offset.

        The caller gives the file its name when everything is well. A part that is all zeros may be left a hole.

        Raises:
            InvalidImageError: the image has what the format can't store (its place: the path).
            UsageError: an option that the format does not have.
            OSError: the disk failed.
        """
