"""Writes the receipt of an unpacking: what was requested, what was verified, and what the tree lacks.

The receipt is a JSON object. ``receiptVersion`` grows when a member changes its meaning; members may be added any time:

- ``tool``: ``{"name": "ociexport", "version"}``; ``created``: RFC 3339, from SOURCE_DATE_EPOCH if that is set
- ``source``: the image as the user named it; ``rootfs``: the directory to which it was unpacked
- ``platform``; ``manifest`` and ``config``: their digests; ``indexes``: digests of the indexes that led to the manifest
- ``layers``: ``mediaType``, ``digest``, ``size`` and ``diffId`` of each, lowest first
- ``servedBy``: for each manifest and blob from a registry, the host that served it, which may be a mirror
- ``entries``, ``tarBytes``: totals of all layers; ``losses``: one line for each kind of loss
- ``tree``: what a later ``unpack --replace --receipt`` needs: ``stamp`` of the tree (see `disk.tree_copy`), ``made``:
  how the tree was made, ``losses`` as counts; left out where the tree can't be kept for a later image
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from ociexport.errors import with_bytes_shown
from ociexport.rootfs.disk.tree_copy import stamp_of_tree
from ociexport.rootfs.reuse import losses_to_json
from ociexport.rootfs.unpack import UnpackResult
from ociexport.spec.digest import Digest
from ociexport.system.environment import source_date_epoch
from ociexport.system.files import new_file
from ociexport.system.version import __version__

_RECEIPT_VERSION = 1
# At least the longest time between two ticks (CONFIG_HZ=100).
_TICK_SECONDS = 0.02


def write_receipt(
    path: str, result: UnpackResult, source: str, rootfs: str, served_by: Mapping[Digest, str] | None = None
) -> None:
    """Write the receipt of ``result`` to ``path``, completely or not at all.

    Args:
        source: the image as the user named it.
        rootfs: the directory to which it was unpacked.
        served_by: the host that served each manifest and blob.
    """
    receipt = {
        "receiptVersion": _RECEIPT_VERSION,
        "tool": {"name": "ociexport", "version": __version__},
        "created": _now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": with_bytes_shown(source),
        "rootfs": with_bytes_shown(os.path.abspath(rootfs)),
        "platform": result.platform.to_json(),
        "indexes": [str(digest) for digest in result.index_digests],
        "manifest": str(result.manifest_digest),
        "config": str(result.config_digest),
        "layers": [
            {
                "mediaType": layer.descriptor.media_type,
                "digest": str(layer.descriptor.digest),
                "size": layer.descriptor.size,
                "diffId": str(layer.diff_id),
            }
            for layer in result.layers
        ],
        "servedBy": {str(digest): host for digest, host in (served_by or {}).items()},
        "entries": result.entries,
        "tarBytes": result.tar_bytes,
        "losses": list(result.losses.lines()),
        **_tree_to_json(result, rootfs),
    }
    with new_file(path) as file:
        file.write(json.dumps(receipt, indent=2).encode() + b"\n")


def _tree_to_json(result: UnpackResult, rootfs: str) -> dict[str, object]:
    if result.made is None:
        return {}
    # The kernel's time of a change is that of its last tick: a change after this has a later one than any before it.
    time.sleep(_TICK_SECONDS)
    try:
        stamp = stamp_of_tree(rootfs)
    except OSError:  # a directory that its mode closes to this user
        return {}
    return {"tree": {"stamp": str(stamp), "made": result.made, "losses": losses_to_json(result.losses)}}


def _now() -> datetime:
    seconds = source_date_epoch()
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
