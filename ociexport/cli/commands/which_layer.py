"""`ociexport which-layer`: show which layer a path in an image came from, and which layers changed it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.access import access_from, add_looking_arguments, add_source_argument
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.output.files import file_to_json, layer_to_json, named_bytes, shown_path
from ociexport.cli.output.inspection import shown_step
from ociexport.inspection.trace_path import PathTouch, PathTrace, Touch, trace_path
from ociexport.layers.record import ChangeKind, LayerChange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    add_source_argument(parser)
    parser.add_argument(
        "path", metavar="PATH", help="file, directory or link in the image, or one that a layer deleted"
    )
    parser.add_argument("-L", "--follow", action="store_true", help="follow a link, and trace its target")
    parser.add_argument(
        "--latest", action="store_true", help="stop at the layer that gave PATH its content; read no lower layers"
    )
    add_json_argument(parser)
    add_looking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the file's type and the layer of its content; then the layers that changed it, the newest first."""
    trace = trace_path(
        options.source, options.path, follow=options.follow, latest=options.latest, access=access_from(options)
    )
    if options.json:
        print_json("which-layer", {"source": options.source, **_to_json(trace)})
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(trace))
    return OK


def _lines(trace: PathTrace) -> Iterator[str]:
    yield f"path:       {shown_path(trace.path)}"
    if trace.real_path not in (None, trace.path):
        yield f"real path:  {shown_path(trace.real_path or b'')}"
    if trace.file is None:
        yield "type:       none, it was deleted"
    else:
        target = f" to {shown_path(trace.file.link_target)}" if trace.file.link_target else ""
        size = f", {trace.file.size} B" if trace.file.size else ""
        yield f"type:       {trace.file.type.value}{target}{size}"
    if trace.origin is not None:
        layer = trace.origin.layer
        yield f"layer:      {layer.number} of {layer.count}"
        yield f"digest:     {layer.descriptor.digest}"
        yield f"diff_id:    {layer.diff_id}"
        if trace.origin.step is not None:
            yield f"created by: {shown_step(trace.origin.step)}"
    if trace.touches:
        yield "touched by:" if trace.is_complete else "touched by (layers below were not read):"
    for touch in trace.touches:
        step = f"  {shown_step(touch.origin.step)}" if touch.origin.step is not None else ""
        yield f"  {touch.origin.layer.number:<3} {touch.touch.value:<8}{_cause(touch, trace)}{step}"


def _cause(touch: PathTouch, trace: PathTrace) -> str:
    """Return which entry caused the change, unless it is an entry for the path itself."""
    by = touch.by
    path = b"/" + by.path
    if touch.touch is not Touch.DELETED and path in (trace.path, trace.real_path):
        return f" ({by.kind.value})" if by.kind is ChangeKind.HARD_LINK else ""
    what = f"{by.kind.value} whiteout" if by.kind is ChangeKind.OPAQUE else by.kind.value
    return f" by {what} {shown_path(path)}"


def _to_json(trace: PathTrace) -> dict[str, object]:
    return {
        **named_bytes("path", trace.path),
        **(named_bytes("realPath", trace.real_path) if trace.real_path is not None else {"realPath": None}),
        "file": file_to_json(trace.file) if trace.file is not None else None,
        "layer": layer_to_json(trace.origin) if trace.origin is not None else None,
        "touches": [_touch_to_json(touch) for touch in trace.touches],
        "complete": trace.is_complete,
    }


def _touch_to_json(touch: PathTouch) -> dict[str, object]:
    return {"touch": touch.touch.value, "by": _change_to_json(touch.by), "layer": layer_to_json(touch.origin)}


def _change_to_json(change: LayerChange) -> dict[str, object]:
    return {"type": change.kind.value, **named_bytes("path", b"/" + change.path)}
