"""The options of the commands that look into an image, and how they show what they find.

Whatever a name in an image holds, a line stays a line and a terminal has nothing to obey: what can't be printed is
written as an escape, and a backslash as two, as tar writes them. JSON has names as text, and those that are no UTF-8
as they are beside it, in base64.
"""

from __future__ import annotations

import argparse
import base64
from datetime import datetime, timedelta

from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.options.signatures import add_signature_arguments, signature_policy_from
from ociexport.errors import escaped
from ociexport.inspection.access import Access, OriginLayer
from ociexport.inspection.list_files import ListedFile
from ociexport.layers.tar.reader import DEVICE_TYPES

_EPOCH = datetime(1970, 1, 1)  # in UTC, which is written as Z


def add_source_argument(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the image that is looked at."""
    parser.add_argument("source", metavar="SRC", help="an image reference, a layout or an archive; - is standard input")


def add_looking_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options that say how the image is come by."""
    add_platform_argument(parser)
    add_limit_arguments(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def access_from(options: argparse.Namespace) -> Access:
    """Return what the options say."""
    return Access(
        platform=platform_from(options),
        progress=progress_from(options),
        registry=registry_options_from(options),
        signatures=signature_policy_from(options),
        limits=limits_from(options),
    )


def shown_path(path: bytes) -> str:
    """Return a path as a line may show it."""
    return escaped(path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"))


def named_bytes(name: str, text: bytes) -> dict[str, object]:
    """Return the member ``name`` for bytes that are text mostly, and a second one where they are not."""
    try:
        return {name: text.decode()}
    except UnicodeDecodeError:
        encoded = base64.b64encode(text).decode("ascii")
        return {name: text.decode("utf-8", "replace"), f"{name}Base64": encoded}


def shown_time(ns: int) -> str:
    """Return a time as RFC 3339 has it, as exact as it is; seconds since 1970 where no calendar reaches."""
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
    """Return what is told of a file."""
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
    """Return what is told of a layer."""
    layer = origin.layer
    return {
        "number": layer.number,
        "digest": str(layer.descriptor.digest),
        "diffId": str(layer.diff_id),
        "size": layer.descriptor.size,
        "createdBy": origin.step.created_by if origin.step is not None else None,
    }
