"""The receipt of an unpacking: what was asked for, what was proven, what the tree lacks.

A JSON object; ``receiptVersion`` grows when a member changes its meaning, members may be added at any time:

- ``tool``: ``{"name": "ociexport", "version"}``; ``created``: RFC 3339, of SOURCE_DATE_EPOCH where that is set
- ``source``: how the image was called; ``rootfs``: where it was unpacked
- ``platform``, ``manifest`` and ``config``: their digests; ``indexes``: digests of the indexes that led to the manifest
- ``layers``: of each ``mediaType``, ``digest``, ``size``, ``diffId``, lowest first
- ``servedBy``: of each manifest and blob that came from a registry, the host that gave it, mirrors included
- ``entries``, ``tarBytes``: of all layers; ``losses``: lines of what the tree lacks
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from ociexport.rootfs.unpack import UnpackResult
from ociexport.spec.digest import Digest
from ociexport.system.environment import source_date_epoch
from ociexport.system.files import new_file
from ociexport.system.version import __version__

_RECEIPT_VERSION = 1


def write_receipt(
    path: str, result: UnpackResult, source: str, rootfs: str, served_by: Mapping[Digest, str] | None = None
) -> None:
    """Write the receipt of ``result`` to ``path``, whole or not at all.

    Args:
        source: how the user called the image.
        rootfs: where it was unpacked.
        served_by: which host gave which manifest or blob.
    """
    receipt = {
        "receiptVersion": _RECEIPT_VERSION,
        "tool": {"name": "ociexport", "version": __version__},
        "created": _now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": source,
        "rootfs": os.path.abspath(rootfs),
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
    }
    with new_file(path) as file:
        file.write(json.dumps(receipt, indent=2).encode() + b"\n")


def _now() -> datetime:
    seconds = source_date_epoch()
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
