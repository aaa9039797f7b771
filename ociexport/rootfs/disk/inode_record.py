"""Owners, devices and attributes that an image declares for its files and that the files on disk may not show.

The record is kept by inode until the tree is complete, because links, whiteouts and replaced directories change names.
When an inode is reused for another file, its note is replaced. Most files of most images belong to root and need no
note, so the record stays small, however large the tree is.
"""

from __future__ import annotations

from ociexport.layers.limits import NameBudget, weight_of
from ociexport.layers.tar.reader import DEVICE_TYPES, Entry, EntryType
from ociexport.spec.named_tuple import NamedTuple

# Memory for a note, apart from the parts of the entry that it keeps: measured, rounded up.
_NOTE_BYTES = 150


class NotedFile(NamedTuple):
    """The noted metadata of one file.

    Args:
        uid: as the image declares.
        gid: as the image declares.
        device: type, mode, major and minor; None if the file is not a device.
        xattrs: by name; None if the file has none.
    """

    uid: int
    gid: int
    device: tuple[EntryType, int, int, int] | None
    xattrs: dict[bytes, bytes] | None


ROOTS_FILE = NotedFile(0, 0, None, None)


class InodeRecord:
    """Notes about the files of one file system.

    Args:
        budget: bounds the memory; files that were removed still count.
    """

    def __init__(self, budget: NameBudget) -> None:
        self._budget = budget
        self._notes: dict[int, NotedFile] = {}
        # Files with the same owner, which most are, share one note.
        self._shared: dict[tuple[int, int], NotedFile] = {}

    def note(self, inode: int, entry: Entry) -> None:
        """Note the metadata in ``entry`` for the file that was just created from it."""
        device = (entry.type, entry.mode, *entry.device) if entry.type in DEVICE_TYPES else None
        if device is not None or entry.xattrs:
            self._budget.take(_NOTE_BYTES + weight_of(entry))
            self._notes[inode] = NotedFile(entry.uid, entry.gid, device, entry.xattrs)
        elif entry.uid or entry.gid:
            self._budget.take(_NOTE_BYTES)
            note = NotedFile(entry.uid, entry.gid, None, None)
            self._notes[inode] = self._shared.setdefault((entry.uid, entry.gid), note)
        else:
            self._notes.pop(inode, None)

    def copy(self, inode: int, copy_inode: int) -> None:
        """Note for a copy of a file what is noted for the file."""
        self._budget.take(_NOTE_BYTES)
        self._notes[copy_inode] = self.of(inode)

    def of(self, inode: int) -> NotedFile:
        """Return the last note about a file."""
        return self._notes.get(inode, ROOTS_FILE)
