"""parse_json(): a JSON document as a tree of `Node`s; without lines, which JSON parsers do not tell."""

from __future__ import annotations

import json
from typing import Any

from ociexport.errors import UsageError
from ociexport.transfer.lists.nodes import MAX_DEPTH, MAX_VALUES, Node, Place, node_of_list, node_of_mapping


def parse_json(text: str, place: Place, *, line: int = 0) -> Node:
    """Return the document.

    Args:
        line: of the whole document in its file; 0 for a document of many lines.

    Raises:
        UsageError: it is no JSON, or has too many values.
    """
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        where = place.at(error.lineno + (line - 1 if line else 0))
        raise UsageError(f"{where}: expected JSON, got a syntax error: {error.msg}") from error
    except RecursionError as error:
        raise _depth_error(place) from error
    node = _node_of(value, place, line, 0)
    if node.weight > MAX_VALUES:
        raise UsageError(f"{place.at(line)}: expected at most {MAX_VALUES} values, got {node.weight}")
    return node


def _node_of(value: Any, place: Place, line: int, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise _depth_error(place)
    if isinstance(value, dict):
        members = {key: _node_of(item, place, line, depth + 1) for key, item in value.items()}
        return node_of_mapping(members, line)
    if isinstance(value, list):
        return node_of_list([_node_of(item, place, line, depth + 1) for item in value], line)
    if isinstance(value, bool):
        return Node("true" if value else "false", line)
    return Node(value, line)


def _depth_error(place: Place) -> UsageError:
    return UsageError(f"{place.at(0)}: expected values at most {MAX_DEPTH} deep in each other, got deeper ones")
