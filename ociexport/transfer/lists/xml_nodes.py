"""parse_cyclonedx_xml(): a CycloneDX document in XML as the tree of `Node`s that its JSON form would be.

Spec: CycloneDX 1.6, XML; elements are named as the members in JSON, and a list is an element around its elements.
"""

from __future__ import annotations

from typing import NoReturn
from xml.parsers import expat

from ociexport.errors import UsageError
from ociexport.transfer.lists.nodes import MAX_DEPTH, MAX_VALUES, Node, Place, node_of_list, node_of_mapping

_NAMESPACE = "http://cyclonedx.org/schema/bom/"
_SEPARATOR = " "
_LISTS = frozenset({"components"})
_OTHER_HINT = "SBOMs are read as JSON, CycloneDX also as XML, SPDX also in its tag-value form"


class _Element:
    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.members: dict[str, Node] = {}
        self.elements: list[Node] = []
        self.texts: list[str] = []

    def to_node(self) -> Node:
        if self.name in _LISTS:
            return node_of_list(self.elements, self.line)
        if self.members:
            return node_of_mapping(self.members, self.line)
        return Node("".join(self.texts).strip(), self.line)


def parse_cyclonedx_xml(text: str, place: Place) -> Node:
    """Return the document; elements of other namespaces, such as extensions, are left out.

    Raises:
        UsageError: it is not XML, not CycloneDX, has a DTD, or has too many values.
    """
    return _XmlParser(place).parse(text)


class _XmlParser:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._open: list[_Element] = []
        self._ignored = 0
        self._count = 0
        self._top: Node | None = None
        self._parser = parser = expat.ParserCreate("utf-8", _SEPARATOR)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._take_text
        # Entities of a DTD can stand for any number of bytes, and for files.
        parser.StartDoctypeDeclHandler = self._refuse_dtd

    def parse(self, text: str) -> Node:
        try:
            self._parser.Parse(text.encode(), True)
        except expat.ExpatError as error:
            where = self._place.at(error.lineno)
            raise UsageError(f"{where}: expected XML, got a syntax error: {expat.ErrorString(error.code)}") from error
        assert self._top is not None  # noqa: S101 - a document without an element is a syntax error
        return self._top

    def _start(self, full_name: str, attributes: dict[str, str]) -> None:
        namespace, _, name = full_name.rpartition(_SEPARATOR)
        line = self._parser.CurrentLineNumber
        self._count += 1 + len(attributes)
        if self._count > MAX_VALUES:
            self._refuse(f"expected at most {MAX_VALUES} values, got more")
        if len(self._open) + self._ignored >= MAX_DEPTH:
            self._refuse(f"expected values at most {MAX_DEPTH} deep in each other, got deeper ones")
        if not self._open and (name != "bom" or not namespace.startswith(_NAMESPACE)):
            raise UsageError(
                f"{self._place.file}: expected a list of images, got XML that is not CycloneDX", hint=_OTHER_HINT
            )
        if self._ignored or not namespace.startswith(_NAMESPACE):
            self._ignored += 1
            return
        element = _Element(name, line)
        if not self._open:
            element.members["bomFormat"] = Node("CycloneDX", line)
        element.members.update({key: Node(value, line) for key, value in attributes.items()})
        self._open.append(element)

    def _end(self, _: str) -> None:
        if self._ignored:
            self._ignored -= 1
            return
        element = self._open.pop()
        if not self._open:
            self._top = element.to_node()
            return
        node = element.to_node()
        self._open[-1].elements.append(node)
        self._open[-1].members.setdefault(element.name, node)

    def _take_text(self, text: str) -> None:
        if self._open and not self._ignored:
            self._open[-1].texts.append(text)

    def _refuse_dtd(self, *_: object) -> None:
        self._refuse("expected XML without a DTD, got one")

    def _refuse(self, message: str) -> NoReturn:
        raise UsageError(f"{self._place.at(self._parser.CurrentLineNumber)}: {message}")
