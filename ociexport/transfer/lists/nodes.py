"""A document of a list as a tree whose values know their place: in the file, and in the document.

YAML and JSON become the same tree. Numbers and booleans stay the text that they are written as: what looks like a
number may be a tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from ociexport.errors import UsageError, printable
from ociexport.spec.lazy_dataclass import dataclass

# The largest lists are SBOMs with some hundred thousand values.
MAX_LIST_BYTES = 32 * 1024 * 1024
# Counted as often as they are referred to: a few aliases of aliases can stand for any number of values.
MAX_VALUES = 1_000_000
# Documents of these formats nest some ten deep; a CRD's schema, some thirty.
MAX_DEPTH = 100

Value: TypeAlias = "dict[str, Node] | list[Node] | str | None"


@dataclass(frozen=True, slots=True)
class Node:
    """A value.

    Args:
        line: where it begins in the file, from 1; 0 if unknown.
        weight: how many values it consists of, aliases written out.
    """

    value: Value
    line: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """A document of a file.

    Args:
        file: its name in messages.
        number: of the document, from 1; 0 if the file has only one.
        title: what the document says it is, such as ``Deployment web``.
    """

    file: str
    number: int = 0
    title: str = ""

    def at(self, line: int, path: str = "") -> str:
        """Return a place in the document, as messages name it."""
        parts = [f"{self.file}:{line}" if line else self.file]
        parts += [f"document {self.number}"] if self.number else []
        return ": ".join([*parts, *(printable(part) for part in (self.title, path) if part)])


@dataclass(frozen=True, slots=True)
class Field:
    """A value and the way to it.

    Args:
        path: from the document's top, such as ``services.web.image``; empty for the document itself.
    """

    document: Place
    path: str
    node: Node

    @property
    def place(self) -> str:
        """The file, the line, the document and the path, for messages."""
        return self.document.at(self.node.line, self.path)

    @property
    def text(self) -> str | None:
        """The value, if it is a text, a number or a boolean; else None."""
        return self.node.value if isinstance(self.node.value, str) else None

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self.node.value, dict)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.node.value, list)

    @property
    def kind(self) -> str:
        """What the value is, for messages."""
        if self.node.value is None:
            return "nothing"
        return "a mapping" if self.is_mapping else "a list" if self.is_list else "a text"

    def get(self, key: str) -> Field | None:
        """Return the member ``key`` of a mapping; None if it is missing or null, or this is no mapping."""
        value = self.node.value
        node = value.get(key) if isinstance(value, dict) else None
        return self._below(key, node) if node is not None and node.value is not None else None

    def list_of(self, key: str) -> list[Field]:
        """Return the elements of the member ``key``; none if it is missing or no list."""
        member = self.get(key)
        return list(member.elements()) if member is not None else []

    def get_text(self, key: str) -> str | None:
        """Return the member ``key``, if it is a text; else None."""
        member = self.get(key)
        return member.text if member is not None else None

    def members(self, *, nulls: bool = False) -> Iterator[tuple[str, Field]]:
        """Yield the members of a mapping, those that are null only on request; nothing for another value."""
        value = self.node.value
        for key, node in value.items() if isinstance(value, dict) else ():
            if nulls or node.value is not None:
                yield key, self._below(key, node)

    def elements(self) -> Iterator[Field]:
        """Yield the elements of a list; nothing for another value."""
        value = self.node.value
        for number, node in enumerate(value if isinstance(value, list) else ()):
            yield Field(self.document, f"{self.path}[{number}]", node)

    def error(self, message: str) -> UsageError:
        """Return an error that names this place."""
        return UsageError(f"{self.place}: {message}")

    def _below(self, key: str, node: Node) -> Field:
        is_plain = key.replace("-", "").replace("_", "").isalnum()
        shown = key if is_plain and not self.path else f".{key}" if is_plain else f"[{printable(key)}]"
        return Field(self.document, self.path + shown, node)


def node_of_mapping(members: Mapping[str, Node], line: int) -> Node:
    """Return a mapping."""
    return Node(dict(members), line, 1 + sum(node.weight for node in members.values()))


def node_of_list(elements: list[Node], line: int) -> Node:
    """Return a list."""
    return Node(elements, line, 1 + sum(node.weight for node in elements))
