"""Images of Docker's first format, which have a JSON for each layer; and the config that these become.

Spec: moby ``image/spec/v1.md``, "Image JSON". What becomes of it is what docker makes of it since 1.10, so that the
image ID is the one that docker, podman and skopeo give the image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ociexport.errors import InvalidImageError, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object

# docker takes 127 layers; a chain without an end would be a circle.
MAX_V1_LAYERS = 1024

_ID = re.compile(r"[0-9a-f]{64}")
# What of a layer's JSON says something of that layer alone, or of the old format.
_V1_ONLY = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")


@dataclass(frozen=True, slots=True)
class V1Document:
    """The JSON of one layer.

    Args:
        id: of the layer, with all that is below it; None where it says none.
        parent: the ID of the layer below; None for the lowest.
        is_empty: whether it says that it changed no files, so that no layer belongs to it (docker's ``throwaway``).
    """

    raw: bytes = field(repr=False)
    id: str | None
    parent: str | None
    is_empty: bool


def parse_v1_document(raw: bytes, where: str) -> V1Document:
    """Return the JSON of a layer.

    Raises:
        InvalidImageError: it is none, or what it says of itself is of the wrong type.
    """
    item = parse_json_object(raw, where=where)
    _history_of(item, is_empty=False)
    return V1Document(raw, item.optional_text("id"), item.optional_text("parent"), item.boolean("throwaway"))


def verify_v1_id(text: str, where: str) -> None:
    """Return if ``text`` is the ID of a layer: it becomes a part of paths and URLs.

    Raises:
        InvalidImageError: it is not.
    """
    if not _ID.fullmatch(text):
        raise InvalidImageError(f"expected 64 hexadecimal digits, got {quoted(text)}", where=where)


def verify_v1_chain(documents: Sequence[V1Document], where: str) -> None:
    """Return if each of ``documents``, lowest first, names the one before it as its parent, and the first none.

    Raises:
        InvalidImageError: it does not; or an ID is none, or comes twice, so that there is a circle.
    """
    seen: set[str] = set()
    for number, document in enumerate(documents):
        place = f"{where}: layer {number + 1} of {len(documents)}"
        verify_v1_id(document.id or "", f"{place}: id")
        if document.id in seen:
            raise InvalidImageError(f"expected an ID that comes once, got {document.id} again", where=f"{place}: id")
        seen.add(document.id or "")
        below = documents[number - 1].id if number else None
        # Windows' lowest layers are of Microsoft's own images, which no manifest of others has.
        if document.parent != below and not (below is None and _is_windows(documents[-1])):
            raise InvalidImageError(
                f"expected {below or 'none'}, got {quoted(document.parent or 'none')}", where=f"{place}: parent"
            )


def _is_windows(document: V1Document) -> bool:
    return parse_json_object(document.raw, where="").optional_text("os") == "windows"


def config_from_v1(documents: Sequence[V1Document], diff_ids: Sequence[Digest]) -> bytes:
    """Return the config of an image of which there is only a JSON for each layer, lowest first.

    It is the topmost one's, with the history of all, and ``diff_ids`` of those that are not empty.
    """
    item = parse_json_object(documents[-1].raw, where="")
    config: dict[str, Any] = {key: value for key, value in item.members.items() if key not in _V1_ONLY}
    # The specification wants both; docker's first versions wrote neither, and ran on nothing else.
    config.setdefault("architecture", "amd64")
    config.setdefault("os", "linux")
    config["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    config["history"] = [
        _history_of(parse_json_object(document.raw, where=""), is_empty=document.is_empty) for document in documents
    ]
    return _written_as_go(dict(sorted(config.items())))


def _history_of(item: JsonObject, *, is_empty: bool) -> dict[str, object]:
    made_by = item.optional_object("container_config")
    entry = {
        "created": item.optional_text("created"),
        "author": item.optional_text("author"),
        "created_by": _command_of(made_by) if made_by is not None else None,
        "comment": item.optional_text("comment"),
        "empty_layer": is_empty,
    }
    return {key: value for key, value in entry.items() if value}


def _command_of(item: JsonObject) -> str:
    """Return the words of ``Cmd``, which the oldest images have as one text."""
    if isinstance(item.members.get("Cmd"), str):
        return item.text("Cmd")
    return " ".join(item.texts("Cmd"))


def _written_as_go(value: object) -> bytes:
    """Return JSON as Go writes it, whose digest is docker's image ID: it escapes what HTML would take for its own."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError as error:
        raise InvalidImageError("expected a JSON document, got one nested too deep") from error
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()
