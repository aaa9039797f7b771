"""What an image says of files that the files themselves may not show: owners, devices, attributes.

It is kept by inode until the tree is complete, since names come and go with links, whiteouts and replaced directories.
An inode that is used again for another file is noted again. Most files of most images are root's and have nothing to
note, so the record stays small, however large the tree is.
"""

from __future__ import annotations

from typing import NamedTuple

from ociexport.layers.limits import NameBudget, weight_of
from ociexport.layers.tar.reader import DEVICE_TYPES, Entry, EntryType

# What a note takes of memory, beside what it keeps of the entry: measured, rounded up.
_NOTE_BYTES = 150


class NotedFile(NamedTuple):
    """What is to be known of one file.

    Args:
        uid: as the image says.
        gid: the same.
        device: type, mode, major and minor; None for what is no device.
        xattrs: by name; None for none.
    """

    uid: int
    gid: int
    device: tuple[EntryType, int, int, int] | None
    xattrs: dict[bytes, bytes] | None


ROOTS_FILE = NotedFile(0, 0, None, None)


class InodeRecord:
    """Notes of the files of one file system.

    Args:
        budget: bounds the memory; what is no file any more counts on.
    """

    def __init__(self, budget: NameBudget) -> None:
        self._budget = budget
        self._notes: dict[int, NotedFile] = {}
        # Files that say the same, which most do, share one note.
        self._shared: dict[tuple[int, int], NotedFile] = {}

    def note(self, inode: int, entry: Entry) -> None:
        """Remember what ``entry`` says of the file that was just made of it."""
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

    def of(self, inode: int) -> NotedFile:
        """Return what was noted of a file last."""
        return self._notes.get(inode, ROOTS_FILE)
