"""What ``ls`` prints for people: one path per line, or the columns of ``tar tv``."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from ociexport.cli.output.files import shown_path, shown_time
from ociexport.cli.output.inspection import shown_step
from ociexport.inspection.list_files import ListedFile, ListedLayer
from ociexport.layers.record import ChangeKind, LayerChange
from ociexport.layers.tar.reader import DEVICE_TYPES, FILE_FORMATS, EntryType
from ociexport.system.progress.protocol import format_bytes

# The width of a long line up to the path: ``-rw-r--r-- 0/0              12 2024-11-05 22:03``.
_COLUMNS = 49


def named_path(file: ListedFile) -> bytes:
    """Return the path of a file, with a slash at its end for a directory."""
    return file.path + b"/" if file.type is EntryType.DIRECTORY and file.path != b"/" else file.path


def long_line(file: ListedFile) -> str:
    """Return the columns that describe a file."""
    mode = stat.filemode(FILE_FORMATS[file.type] | file.mode)
    size = "{},{}".format(*file.device) if file.type in DEVICE_TYPES else str(file.size)
    time = shown_time(file.mtime_ns)
    time = time if time.startswith("@") else time[:16].replace("T", " ")
    target = f" -> {shown_path(file.link_target)}" if file.link_target else ""
    return f"{mode} {f'{file.uid}/{file.gid}':<9} {size:>11} {time:<16} {shown_path(named_path(file))}{target}"


def layer_lines(listed: ListedLayer, *, long: bool) -> Iterator[str]:
    """Yield a line for a layer, and one for each of its changes, in the layer's order."""
    layer = listed.origin.layer
    step = f"  {shown_step(listed.origin.step)}" if listed.origin.step is not None else ""
    yield (
        f"layer {layer.number} of {layer.count}  {layer.descriptor.digest}  {format_bytes(layer.descriptor.size)}{step}"
    )
    for change in listed.changes:
        yield f"  {_change_line(change, layer.number, long=long)}"


def _change_line(change: LayerChange, layer: int, *, long: bool) -> str:
    path = b"/" + change.path
    if change.entry is not None:
        file = ListedFile.of(path, change.entry, layer)
        return long_line(file) if long else shown_path(named_path(file))
    if change.kind is ChangeKind.HARD_LINK:
        what, text = "", f"{shown_path(path)} link to {shown_path(b'/' + change.target)}"
    elif change.kind is ChangeKind.OPAQUE:
        what, text = "opaque", shown_path(path.rstrip(b"/") + b"/")
    else:
        what, text = "whiteout", shown_path(path)
    if long:
        return f"{what or 'hard link':<{_COLUMNS}} {text}"
    return f"{what} {text}" if what else text
