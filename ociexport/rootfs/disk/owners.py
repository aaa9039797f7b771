"""The owners that the image declares, in a file beside the tree: for making an ext4 or squashfs as an ordinary user.

The file is an mtree(5) specification of the whole tree as the image declares it: type, mode, uid, gid, time, size, link
and device. ``bsdtar -C ROOTFS -cf - @FILE`` makes a tar of the tree's content with the owners in the file. Extended
attributes are in comments, since mtree has no keyword for them: ``# xattr PATH NAME=0sBASE64``, with the value as
getfattr(1) writes it.
"""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from typing import BinaryIO

from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses, is_foreign_xattr
from ociexport.layers.tar.reader import DEVICE_TYPES, FILE_FORMATS, IMPLIED_DIRECTORY, Entry, EntryType
from ociexport.rootfs.disk.inode_record import InodeRecord
from ociexport.rootfs.disk.tree import Rootfs

_TYPES = {
    EntryType.FILE: b"file",
    EntryType.DIRECTORY: b"dir",
    EntryType.SYMLINK: b"link",
    EntryType.CHARACTER_DEVICE: b"char",
    EntryType.BLOCK_DEVICE: b"block",
    EntryType.FIFO: b"fifo",
}
_KINDS = {file_format: kind for kind, file_format in FILE_FORMATS.items()}
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./,:+@%")


class OwnersFile:
    """Writes the mtree specification of a tree.

    Args:
        file: receives the specification.
        budget: bounds the memory.
        are_placeholders_kept: whether files that stand in for devices stay in the tree.

    Attributes:
        record: metadata of the image's files that the tree may not show; filled while the files are created.
    """

    def __init__(self, file: BinaryIO, budget: NameBudget, *, are_placeholders_kept: bool) -> None:
        self.record = InodeRecord(budget)
        self._file = file
        self._are_placeholders_kept = are_placeholders_kept

    def write(self, tree: Rootfs, losses: Losses, *, are_owners_kept: bool) -> None:
        """Write the specification of ``tree``, which is complete except for the metadata of its directories.

        Placeholders of devices that are not to be kept are removed from the tree; ``losses`` then counts them as
        missing devices.

        Args:
            are_owners_kept: whether the tree's files have the owners that the image declares.
        """
        if not self._are_placeholders_kept:
            losses.devices, losses.placeholders = losses.placeholders, 0
        self._file.write(b"#mtree\n")
        for directory, entry in tree.walk():
            prefix = b"./" + directory + b"/" if directory else b"./"
            self._write(prefix.rstrip(b"/"), entry or IMPLIED_DIRECTORY)
            for name, status, link_target in tree.files_of(directory):
                entry = self._entry_of(status, link_target, are_owners_kept)  # noqa: PLW2901 - the directory's entry is no longer needed
                self._write(prefix + name, entry)
                if entry.type in DEVICE_TYPES and stat.S_ISREG(status.st_mode) and not self._are_placeholders_kept:
                    tree.remove_file(directory, name)

    def _entry_of(self, status: os.stat_result, link_target: bytes, are_owners_kept: bool) -> Entry:
        noted = self.record.of(status.st_ino)
        uid, gid = (status.st_uid, status.st_gid) if are_owners_kept else (noted.uid, noted.gid)
        kind, mode = _KINDS[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode)
        major, minor = 0, 0
        if noted.device is not None:
            kind, mode, major, minor = noted.device
        return Entry(
            type=kind,
            name=b"",
            link_name=link_target,
            mode=mode,
            uid=uid,
            gid=gid,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            atime_ns=None,
            xattrs=noted.xattrs,
            device=(major, minor),
            segments=None,
        )

    def _write(self, name: bytes, entry: Entry) -> None:
        self._file.write(_line(name, entry))
        # mtree has no keyword for attributes, and its readers skip comments.
        for key, value in sorted((entry.xattrs or {}).items()):
            if not is_foreign_xattr(key):
                self._file.write(b"# xattr %s %s=0s%s\n" % (_escaped(name), _escaped(key), b64encode(value)))


def _line(name: bytes, entry: Entry) -> bytes:
    seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
    words = [
        _escaped(name),
        b"type=" + _TYPES[entry.type],
        b"mode=%04o" % entry.mode,
        b"uid=%d" % entry.uid,
        b"gid=%d" % entry.gid,
        b"time=%d.%09d" % (seconds, nanoseconds),
    ]
    if entry.type is EntryType.FILE:
        words.append(b"size=%d" % entry.size)
    elif entry.type is EntryType.SYMLINK:
        words.append(b"link=" + _escaped(entry.link_name))
    elif entry.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE):
        words.append(b"device=native,%d,%d" % entry.device)
    return b" ".join(words) + b"\n"


def _escaped(name: bytes) -> bytes:
    """Return a name in which each special byte is written as a backslash and three octal digits."""
    return b"".join(bytes([byte]) if byte in _PLAIN else b"\\%03o" % byte for byte in name)
