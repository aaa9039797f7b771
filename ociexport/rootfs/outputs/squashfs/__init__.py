"""Writes an image as squashfs 4.0, a compressed file system that is read-only."""

from ociexport.rootfs.outputs.squashfs.image import write_squashfs

__all__ = ["write_squashfs"]
