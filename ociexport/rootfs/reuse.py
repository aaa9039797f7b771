"""Whether a tree that is to be replaced has the lower layers of the new image, unchanged since it was unpacked.

The receipt of the tree tells its layers, how it was made, and its stamp (see `disk.tree_copy`). If the new image begins
with the same layers, is to be unpacked in the same way, and the tree still has that stamp, the new tree is a copy of
the old one with the other layers applied. The stamp is taken again after the copy: nothing changed while it was made.
A tree that has all layers of the image stays as it is.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence

from ociexport.errors import InvalidImageError, OciexportError, counted
from ociexport.layers.losses import Losses
from ociexport.rootfs.disk.tree import Rootfs
from ociexport.rootfs.disk.tree_copy import copy_tree, stamp_of
from ociexport.spec.config import Layer
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.host_paths import real_target
from ociexport.system.progress.protocol import Progress

_COUNTS = ("owners", "devices", "placeholders", "hard_links", "copied_links")
_NAMES = ("refused_xattrs", "skipped_xattrs")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_RECEIPT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeptTree:
    """A tree that has the lower layers of an image.

    Args:
        fd: of the tree.
        stamp: that it has.
        layers: number of layers that it has.
        entries: number in these layers.
        tar_bytes: of these layers.
        losses: what the tree lacks of these layers.
    """

    fd: int
    stamp: str
    layers: int
    entries: int
    tar_bytes: int
    losses: JsonObject

    def close(self) -> None:
        """Close the tree."""
        os.close(self.fd)

    def copy_into(self, tree: Rootfs, losses: Losses, *, with_owners: bool) -> None:
        """Copy the tree into an empty one, and count what it lacks.

        Raises:
            InvalidImageError: it was changed meanwhile, or can't be read by this user.
            OSError: the disk is full.
        """
        try:
            copy_tree(self.fd, tree, with_owners=with_owners)
            stamp = str(stamp_of(self.fd))
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise InvalidImageError(f"the tree can't be copied: {error.strerror}") from error
        if stamp != self.stamp:
            raise InvalidImageError("the tree was changed while it was copied")
        add_losses(losses, self.losses)


def kept_tree(
    receipt: str, target: str, layers: Sequence[Layer], *, made: str | None, progress: Progress
) -> KeptTree | None:
    """Return the tree at ``target`` if it is proven to have the lower layers of an image; None, and why, if not.

    Args:
        receipt: path of the receipt of the tree.
        layers: of the new image, lowest first.
        made: how the new tree is to be made, in words; None for a way in which no tree is kept.
        progress: gets the reason.
    """
    try:
        reason, kept = _find(receipt, real_target(target), layers, made)
    except FileNotFoundError:
        return None  # there is no tree, or it never had a receipt
    except (OciexportError, OSError) as error:
        reason, kept = str(error), None
    if kept is not None:
        progress.say(f"{target}: has {counted(kept.layers, 'layer')} of the image, unchanged since {receipt}")
    else:
        progress.say(f"{target}: all layers are unpacked: {reason}")
    return kept


def _find(receipt: str, target: str, layers: Sequence[Layer], made: str | None) -> tuple[str, KeptTree | None]:
    with open(receipt, "rb") as file:
        item = parse_json_object(file.read(_MAX_RECEIPT_BYTES), where=receipt)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tree = item.optional_object("tree")
        if tree is None or item.integer("receiptVersion") != 1:
            return "the receipt has no stamp of the tree", None
        if real_target(item.text("rootfs")) != target:
            return "the receipt is of another directory", None
        if made is None or tree.text("made") != made:
            return "it is to be made in another way than before", None
        known = [layer.text("diffId") for layer in item.objects("layers")]
        if known != [str(layer.diff_id) for layer in layers[: len(known)]]:
            return "the image does not begin with the layers of the receipt", None
        if str(stamp_of(fd)) != tree.text("stamp"):
            return "the tree was changed since it was unpacked", None
        numbers = (len(known), item.integer("entries"), item.integer("tarBytes"))
        return "", KeptTree(os.dup(fd), tree.text("stamp"), *numbers, tree.object("losses"))
    finally:
        os.close(fd)


def losses_to_json(losses: Losses) -> dict[str, object]:
    """Return the counts of what a tree lacks, for `add_losses`."""
    counts: dict[str, object] = {name: getattr(losses, name) for name in _COUNTS}
    for name in _NAMES:
        counts[name] = {key.decode("latin-1"): number for key, number in getattr(losses, name).items()}
    return counts


def add_losses(losses: Losses, item: JsonObject) -> None:
    """Add the counts that `losses_to_json` gave."""
    for name in _COUNTS:
        setattr(losses, name, getattr(losses, name) + item.integer(name))
    for name in _NAMES:
        found = item.object(name)
        counter: Counter[bytes] = getattr(losses, name)
        counter.update({key.encode("latin-1"): found.integer(key) for key in found.keys})
