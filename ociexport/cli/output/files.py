"""How the commands that look into an image show its files and layers.

A name from an image can't break a line or control a terminal: unprintable characters are written as escapes, and a
backslash as two, as tar does. JSON has names as text; a name that is not UTF-8 is there a second time, in base64.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

from ociexport.errors import escaped
from ociexport.inspection.access import OriginLayer
from ociexport.inspection.list_files import ListedFile
from ociexport.layers.tar.reader import DEVICE_TYPES

_EPOCH = datetime(1970, 1, 1)  # in UTC; the Z is added separately


def shown_path(path: bytes) -> str:
    """Return a path in a form that is safe to print on a line."""
    return escaped(path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"))


def named_bytes(name: str, text: bytes) -> dict[str, object]:
    """Return the member ``name`` for bytes that are usually text; if they are not UTF-8, also one in base64."""
    try:
        return {name: text.decode()}
    except UnicodeDecodeError:
        encoded = base64.b64encode(text).decode("ascii")
        return {name: text.decode("utf-8", "replace"), f"{name}Base64": encoded}


def shown_time(ns: int) -> str:
    """Return a time as RFC 3339 at its full precision, or as ``@SECONDS`` since 1970 if it is beyond the calendar."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    end = "Z"
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        seconds, fraction = divmod(abs(ns), 1_000_000_000)
        text, end = f"@{'-' if ns < 0 else ''}{seconds}", ""
    digits = f"{fraction:09d}".rstrip("0")
    return text + (f".{digits}" if digits else "") + end


def file_to_json(file: ListedFile) -> dict[str, object]:
    """Return the members that describe a file."""
    members: dict[str, object] = {
        **named_bytes("path", file.path),
        "type": file.type.value,
        "mode": f"{file.mode:04o}",
        "uid": file.uid,
        "gid": file.gid,
        "size": file.size,
        "mtime": shown_time(file.mtime_ns),
    }
    if file.link_target:
        members |= named_bytes("linkTarget", file.link_target)
    if file.type in DEVICE_TYPES:
        members["device"] = list(file.device)
    return members


def layer_to_json(origin: OriginLayer) -> dict[str, object]:
    """Return the members that describe a layer."""
    layer = origin.layer
    return {
        "number": layer.number,
        "digest": str(layer.descriptor.digest),
        "diffId": str(layer.diff_id),
        "size": layer.descriptor.size,
        "createdBy": origin.step.created_by if origin.step is not None else None,
    }
