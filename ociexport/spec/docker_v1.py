"""The layers' JSON in images of Docker's first format, and its conversion to an image config.

Spec: moby ``image/spec/v1.md``, "Image JSON". The conversion is docker's own since 1.10, so the image ID is the one
that docker, podman and skopeo compute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ociexport.errors import InvalidImageError, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field

# docker accepts 127 layers. The limit also ends a chain of parents that is a circle.
MAX_V1_LAYERS = 1024

_ID = re.compile(r"[0-9a-f]{64}")
# Members of a layer's JSON that describe that layer alone, or belong to the old format.
_V1_ONLY = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")


@dataclass(frozen=True, slots=True)
class V1Document:
    """The JSON of one layer.

    Args:
        id: ID of the layer together with all layers below; None if the member is absent.
        parent: ID of the layer below; None for the lowest.
        is_empty: whether the step changed no files and so has no layer (docker's ``throwaway``).
    """

    raw: bytes = field(repr=False)
    id: str | None
    parent: str | None
    is_empty: bool


def parse_v1_document(raw: bytes, where: str) -> V1Document:
    """Return ``raw`` parsed as the JSON of a layer.

    Raises:
        InvalidImageError: it is not a JSON object, or a member has the wrong type.
    """
    item = parse_json_object(raw, where=where)
    _history_of(item, is_empty=False)
    return V1Document(raw, item.optional_text("id"), item.optional_text("parent"), item.boolean("throwaway"))


def verify_v1_id(text: str, where: str) -> None:
    """Return if ``text`` is a valid layer ID, which is safe as part of a path or URL.

    Raises:
        InvalidImageError: it is not.
    """
    if not _ID.fullmatch(text):
        raise InvalidImageError(f"expected 64 hexadecimal digits, got {quoted(text)}", where=where)


def verify_v1_chain(documents: Sequence[V1Document], where: str) -> None:
    """Return if each of ``documents``, lowest first, has the one before it as its parent, and the first has none.

    Raises:
        InvalidImageError: a parent is wrong, or an ID is not valid or not unique.
    """
    seen: set[str] = set()
    for number, document in enumerate(documents):
        place = f"{where}: layer {number + 1} of {len(documents)}"
        verify_v1_id(document.id or "", f"{place}: id")
        if document.id in seen:
            raise InvalidImageError(f"expected a unique ID, got {document.id} again", where=f"{place}: id")
        seen.add(document.id or "")
        below = documents[number - 1].id if number else None
        # The lowest layers of Windows images belong to Microsoft's base images, which other manifests do not contain.
        if document.parent != below and not (below is None and _is_windows(documents[-1])):
            raise InvalidImageError(
                f"expected {below or 'none'}, got {quoted(document.parent or 'none')}", where=f"{place}: parent"
            )


def _is_windows(document: V1Document) -> bool:
    return parse_json_object(document.raw, where="").optional_text("os") == "windows"


def config_from_v1(documents: Sequence[V1Document], diff_ids: Sequence[Digest]) -> bytes:
    """Return the config of an image that has only a JSON for each layer, lowest first.

    The config is the topmost layer's JSON, with the history of all layers.

    Args:
        documents: the JSON of each layer, lowest first.
        diff_ids: the diff_ids of the layers that are not empty, lowest first.
    """
    item = parse_json_object(documents[-1].raw, where="")
    config: dict[str, Any] = {key: value for key, value in item.members.items() if key not in _V1_ONLY}
    # The specification requires both. docker's first versions wrote neither, and ran on this platform only.
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
    """Return the words of ``Cmd`` as one text; in the oldest images ``Cmd`` is a string."""
    if isinstance(item.members.get("Cmd"), str):
        return item.text("Cmd")
    return " ".join(item.texts("Cmd"))


def _written_as_go(value: object) -> bytes:
    """Return ``value`` as JSON exactly as Go writes it, since its digest is docker's image ID: Go escapes for HTML."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError as error:
        raise InvalidImageError("expected a JSON document, got one nested too deep") from error
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()
