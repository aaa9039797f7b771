"""parse_yaml(): the documents of a YAML file as trees of `Node`s.

The trees are built from the parser's events, so nothing is ever constructed from a tag, and depth and number of values
are limited before they are in memory. PyYAML comes with the extra ``lists``, and is imported only for YAML.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ociexport.errors import UsageError, printable, quoted
from ociexport.transfer.lists.nodes import MAX_DEPTH, MAX_VALUES, Node, Place, node_of_list, node_of_mapping

_NULL = "tag:yaml.org,2002:null"
_OWN_TAGS = "tag:yaml.org,2002:"
_MERGE = "<<"
# Compose's tags, compose-spec 13-merge.md: a value as if it were not given, and one that is not merged with others.
_RESET, _OVERRIDE = "!reset", "!override"


def parse_yaml(text: str, place: Place, warnings: list[str]) -> list[Node]:
    """Return the documents, those that are empty too.

    Args:
        warnings: gets a line for each tag that is not YAML's own, and for each key that is given twice.

    Raises:
        UsageError: it is no YAML, aliases stand for too many values, or PyYAML is missing.
    """
    try:
        import yaml  # noqa: PLC0415 - start-up: only lists in YAML need it, and it is an extra
    except ImportError as error:
        raise UsageError(
            f"{place.at(0)}: expected PyYAML for a list in YAML, it is not installed",
            hint="pip install 'ociexport[lists]'",
        ) from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        return list(_TreeBuilder(yaml, loader, place, warnings).documents())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark is not None else 0
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise UsageError(f"{place.at(line)}: expected YAML, got a syntax error: {printable(problem)}") from error
    finally:
        loader.dispose()


class _TreeBuilder:
    def __init__(self, yaml: Any, loader: Any, place: Place, warnings: list[str]) -> None:
        self._yaml = yaml
        self._loader = loader
        self._place = place
        self._warnings = warnings
        self._anchors: dict[str, Node] = {}
        # Merging copies members, and many mappings may merge a large one.
        self._made = 0

    def documents(self) -> Iterator[Node]:
        events = self._yaml.events
        while not isinstance(event := self._loader.get_event(), events.StreamEndEvent):
            if isinstance(event, events.DocumentStartEvent):
                self._anchors = {}
                yield self._node(self._loader.get_event(), 0)

    def _node(self, event: Any, depth: int) -> Node:
        events, line = self._yaml.events, event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise self._error(line, f"expected values at most {MAX_DEPTH} deep in each other, got deeper ones")
        self._count(1, line)
        if isinstance(event, events.AliasEvent):
            node = self._anchors.get(event.anchor)
            if node is None:
                raise self._error(line, f"expected an anchor before its alias, there is no &{printable(event.anchor)}")
            return node
        if isinstance(event, events.ScalarEvent):
            node = Node(self._scalar(event, line), line)
        elif isinstance(event, events.SequenceStartEvent):
            self._note_tag(event.tag, line)
            elements = []
            while not isinstance(event_below := self._loader.get_event(), events.SequenceEndEvent):
                elements.append(self._node(event_below, depth + 1))
            node = node_of_list(elements, line)
        else:
            self._note_tag(event.tag, line)
            node = self._mapping(line, depth)
        if getattr(event, "tag", None) == _RESET:
            node = Node(None, line)
        self._verify_count(node.weight, line)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, line: int) -> str | None:
        if event.tag and event.tag != "!":
            self._note_tag(event.tag, line)
            return None if event.tag == _NULL else str(event.value)
        tag = self._loader.resolve(self._yaml.ScalarNode, event.value, event.implicit)
        return None if tag == _NULL else str(event.value)

    def _mapping(self, line: int, depth: int) -> Node:
        members: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(event := self._loader.get_event(), self._yaml.events.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(self._loader.get_event(), depth + 1)
            if isinstance(key.value, dict | list):
                raise self._error(key.line, "expected a text as key, got a mapping or a list")
            name = key.value if key.value is not None else ""
            if name == _MERGE:
                merged += value.value if isinstance(value.value, list) else [value]
                continue
            if name in members:
                self._warnings.append(f"{self._place.at(key.line)}: {quoted(name)} is given twice, the last one counts")
            members[name] = value
        for node in merged:
            if not isinstance(node.value, dict):
                raise self._error(line, "expected a mapping to merge with <<, got another value")
            self._count(len(node.value), line)
            for name, value in node.value.items():
                members.setdefault(name, value)
        return node_of_mapping(members, line)

    def _note_tag(self, tag: str | None, line: int) -> None:
        if tag and tag not in ("!", _RESET, _OVERRIDE) and not (tag.startswith(_OWN_TAGS) and "/" not in tag):
            self._warnings.append(
                f"{self._place.at(line)}: tag {quoted(tag)} is not understood, its value is read as if it had none"
            )

    def _count(self, count: int, line: int) -> None:
        self._made += count
        self._verify_count(self._made, line)

    def _verify_count(self, count: int, line: int) -> None:
        if count > MAX_VALUES:
            raise self._error(line, f"expected at most {MAX_VALUES} values with aliases written out, got more")

    def _error(self, line: int, message: str) -> UsageError:
        return UsageError(f"{self._place.at(line)}: {message}")
