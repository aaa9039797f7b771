"""parse_list(): from the bytes of a list to its images; the content tells the format.

begins with { or [          JSON: an SBOM, a Kubernetes object, a list of names, or a lock file (JSON lines)
key: value, - item, ---     YAML: each document by its apiVersion and kind, or by its members
SPDXVersion:                an SBOM as tags and values
<                           an SBOM in XML
anything else               one image a line
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Mapping, Sequence

from ociexport.errors import UsageError, counted, describe_content
from ociexport.transfer.lists.entries import Findings, ImageList, ListEntry
from ociexport.transfer.lists.json_nodes import parse_json
from ociexport.transfer.lists.nodes import MAX_LIST_BYTES, Field, Node, Place

_TEMPLATE_HINT = "helm template makes YAML of it"
# A line that only YAML has: a key and a colon, an item, or a mark between documents.
_YAML_LINE = re.compile(r"""\s*(?:---|%YAML|-\s|-$|\?\s|[^\s"'#]+:(?:\s|$)|"[^"]*"\s*:(?:\s|$)|'[^']*'\s*:(?:\s|$))""")


def parse_list(
    raw: bytes,
    file: str,
    *,
    directory: str | None = None,
    profiles: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> ImageList:
    """Return the images of a list.

    Args:
        file: the list's name in messages.
        directory: of the file, where a compose file finds others; None if the list is no file here.
        profiles: the active profiles of a compose file, beside those in ``COMPOSE_PROFILES``.
        environment: has the variables of a compose file.

    Raises:
        UsageError: it is no list of images, or does not parse; the message names file and line.
    """
    if len(raw) > MAX_LIST_BYTES:
        raise UsageError(f"{file}: expected at most {MAX_LIST_BYTES} bytes, got more")
    try:
        text = decoded(raw)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: expected a list in UTF-8, got {describe_content(raw)}") from error
    if "\0" in text:
        raise UsageError(f"{file}: expected a list of images, got {describe_content(raw)}")
    return _ListParser(text, file, directory, profiles, environment).parse()


def decoded(raw: bytes) -> str:
    """Return the text of a list: UTF-8, or what PowerShell writes, UTF-16 with a byte order mark.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def is_plain_list(text: str) -> bool:
    """Whether the text of a list has one image a line, and is neither JSON nor YAML."""
    first = _first_line(text)
    return not first.startswith(("{", "[")) and not _YAML_LINE.match(first)


def _first_line(text: str) -> str:
    """Return the first line that is neither empty nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


class _ListParser:
    def __init__(
        self, text: str, file: str, directory: str | None, profiles: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._text = text
        self._place = Place(file)
        self._directory = directory
        self._profiles = profiles
        self._environment = environment
        self._findings = Findings()

    def parse(self) -> ImageList:
        first = _first_line(self._text)
        if first.startswith("{{"):
            raise UsageError(f"{self._place.file}: expected a list of images, got a template", hint=_TEMPLATE_HINT)
        if first.lower().startswith(("<!doctype html", "<html")):
            raise UsageError(f"{self._place.file}: expected a list of images, got an HTML page")
        if first.startswith("<"):
            from ociexport.transfer.lists.xml_nodes import parse_cyclonedx_xml  # noqa: PLC0415 - start-up: one format of many

            self._read_documents([parse_cyclonedx_xml(self._text, self._place)], "XML")
        elif first.startswith("SPDXVersion:"):
            from ociexport.transfer.lists.sboms import read_spdx_tags  # noqa: PLC0415 - start-up: one format of many

            self._findings.formats["SPDX"] = None
            read_spdx_tags(self._text, self._place, self._findings)
        elif first.startswith(("{", "[")):
            self._read_json(first)
        elif _YAML_LINE.match(first):
            self._read_yaml()
        else:
            from ociexport.transfer.lists.lines import read_lines  # noqa: PLC0415 - start-up: one format of many

            self._findings.formats["lines"] = None
            read_lines(self._text, self._place, self._findings)
        findings = self._findings
        return ImageList(
            self._place.file, tuple(findings.formats), findings.entries, tuple(dict.fromkeys(findings.warnings))
        )

    def _read_json(self, first: str) -> None:
        from ociexport.transfer.lists.lock import is_lock_line, read_lock  # noqa: PLC0415 - start-up: one format of many

        if is_lock_line(first):
            self._findings.formats["lock"] = None
            read_lock(self._text, self._place, self._findings)
            return
        text = self._text
        self._read_documents([parse_json(text[text.index(first[0]) :], self._place)], "JSON")

    def _read_yaml(self) -> None:
        from ociexport.transfer.lists.yaml_nodes import parse_yaml  # noqa: PLC0415 - start-up: PyYAML is an extra

        try:
            nodes = parse_yaml(self._text, self._place, self._findings.warnings)
        except UsageError as error:
            if "{{" in self._text:
                error.hint = error.hint or _TEMPLATE_HINT
            raise
        self._read_documents(nodes, "YAML")

    def _read_documents(self, nodes: Sequence[Node], language: str) -> None:
        several = len(nodes) > 1
        for number, node in enumerate(nodes, 1):
            if node.value is None:
                continue  # such as the part before a first "---"
            document = Field(Place(self._place.file, number if several else 0), "", node)
            name, read = _reader_of(document)
            if name == "compose":
                self._read_compose(document)
            elif read is not None:
                read(document, self._findings)
            elif document.is_mapping:
                name = f"{language} of an unknown kind"
                self._read_unknown(document)
            else:
                raise document.error(f"expected a list of images, got {document.kind}")
            self._findings.formats[name] = None

    def _read_compose(self, document: Field) -> None:
        from ociexport.transfer.lists.compose import (  # noqa: PLC0415 - start-up: one format of many
            ComposeProject,
            active_profiles,
            read_compose,
        )

        profiles = active_profiles(self._profiles, self._environment)
        files = [os.path.realpath(self._place.file)] if self._directory is not None else []
        read_compose(document, self._directory, ComposeProject(self._findings, profiles, self._environment, files))

    def _read_unknown(self, document: Field) -> None:
        from ociexport.transfer.lists.kubernetes import read_maybes  # noqa: PLC0415 - start-up: one format of many

        keys = [key for key, _ in document.members(nulls=True)]
        shown = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
        read_maybes(document, self._findings)
        self._findings.warn(
            document,
            f"the kind of this document is not known ({counted(len(keys), 'member')}: {shown}), "
            "so what reads like an image in it is a maybe",
        )


def _reader_of(document: Field) -> tuple[str, Callable[[Field, Findings], None] | None]:
    """Return the format of a document, and its reader; None for compose, which needs more, and for an unknown one."""
    from ociexport.transfer.lists import kubernetes, sboms, tools  # noqa: PLC0415 - start-up: one format of many

    if document.is_list:
        return "list of names", _read_names
    group = (document.get_text("apiVersion") or "").rpartition("/")[0]
    if group in tools.READERS_BY_GROUP:
        return tools.READERS_BY_GROUP[group]
    if document.get_text("kind") in tools.ZARF_KINDS:
        return "zarf package", tools.read_zarf
    if kubernetes.is_kubernetes(document):
        return "Kubernetes", kubernetes.read_kubernetes
    if sboms.is_cyclonedx(document):
        return "CycloneDX", sboms.read_cyclonedx
    if sboms.is_spdx(document):
        return "SPDX", sboms.read_spdx
    services, include, sync = (document.get(key) for key in ("services", "include", "sync"))
    if services is not None and services.is_mapping:
        return "compose", None
    if include is not None and include.is_list and services is None:
        return "compose", None
    if sync is not None and sync.is_list:
        return "regsync", tools.read_regsync
    if tools.is_skopeo_sync(document):
        return "skopeo sync", tools.read_skopeo_sync
    return "", None


def _read_names(document: Field, findings: Findings) -> None:
    for element in document.elements():
        if element.text is not None:
            findings.add(_named(element))
        else:
            findings.warn(element, f"expected the name of an image, got {element.kind}, left out")


def _named(element: Field) -> ListEntry:
    from ociexport.errors import OciexportError  # noqa: PLC0415
    from ociexport.transfer.sources.names import parse_source_name  # noqa: PLC0415

    text = element.text or ""
    try:
        parse_source_name(text)
    except OciexportError as error:
        raise element.error(str(error)) from error
    return ListEntry(text, (element.place,))
