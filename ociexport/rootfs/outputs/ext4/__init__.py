"""ext4: the file system of most Linux systems, written from an image."""

from ociexport.rootfs.outputs.ext4.writer import write_ext4 as write_ext4
