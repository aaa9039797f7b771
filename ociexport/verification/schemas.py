"""Schemas of an image's documents. They report every flaw, where a parser stops at the first.

They follow the JSON schemas of the specification. An optional member that is ``null`` counts as absent, since Go writes
empty slices and maps that way. Unknown members are not flaws.

Spec: image-spec 1.1 descriptor.md, manifest.md, image-index.md, config.md, image-layout.md and ``schema/``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from ociexport.errors import InvalidDigestError, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import type_name

# A place within the document, and the flaw there.
Flaw: TypeAlias = tuple[str, str]
Check: TypeAlias = Callable[[Any, str], Iterator[Flaw]]

# RFC 6838, "Naming Requirements"; without parameters.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
# RFC 3339 section 5.6.
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_MAX_INT64 = 2**63 - 1
# A hostile document may have hundreds of thousands of flaws; this many are reported.
_MAX_FLAWS = 100


def _typed(kind: type, wanted: str) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        # In Python, a boolean is an integer too.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            yield place, f"expected {wanted}, got {type_name(value)}"

    return check


_text = _typed(str, "a string")
_integer = _typed(int, "an integer")
_boolean = _typed(bool, "a boolean")
_any_object = _typed(dict, "an object")


def _matching(pattern: re.Pattern[str], wanted: str) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        yield from _text(value, place)
        if isinstance(value, str) and not pattern.fullmatch(value):
            yield place, f"expected {wanted}, got {quoted(value)}"

    return check


def _equal_to(wanted: str | int) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        if value != wanted or isinstance(value, bool):
            yield place, f"expected {quoted(wanted)}, got {quoted(value)}"

    return check


def _list_of(item: Check) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        if not isinstance(value, list):
            yield place, f"expected a list, got {type_name(value)}"
            return
        for number, one in enumerate(value):
            yield from item(one, f"{place}[{number}]")

    return check


def _map_of(item: Check) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        yield from _any_object(value, place)
        for name, one in value.items() if isinstance(value, dict) else ():
            yield from item(one, f"{place}[{quoted(name)}]")

    return check


def _object_of(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    def check(value: Any, place: str) -> Iterator[Flaw]:
        if not isinstance(value, dict):
            yield place, f"expected an object, got {type_name(value)}"
            return
        prefix = f"{place}: " if place else ""
        for name, member in required.items():
            yield from member(value.get(name), prefix + name)
        for name, member in optional.items():
            if value.get(name) is not None:
                yield from member(value[name], prefix + name)

    return check


def _size(value: Any, place: str) -> Iterator[Flaw]:
    yield from _integer(value, place)
    if isinstance(value, int) and not 0 <= value <= _MAX_INT64:
        yield place, f"expected 0 to {_MAX_INT64}, got {quoted(value)}"


def _digest(value: Any, place: str) -> Iterator[Flaw]:
    yield from _text(value, place)
    if isinstance(value, str):
        try:
            Digest.parse(value)
        except InvalidDigestError as error:
            yield place, str(error).removeprefix("digest: ")


def _embedded_data(value: Any, place: str) -> Iterator[Flaw]:
    """Check that a descriptor's ``data`` is base64. Its digest is checked when it is used."""
    yield from _text(value, place)
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            yield place, f"expected base64, got {quoted(value)}"


_media_type = _matching(_MEDIA_TYPE, "a media type")
_date_time = _matching(_DATE_TIME, "an RFC 3339 time")
_texts = _list_of(_text)
_text_map = _map_of(_text)
_set = _map_of(_any_object)

_platform = _object_of(
    {"architecture": _text, "os": _text}, {"os.version": _text, "os.features": _texts, "variant": _text}
)
_descriptor = _object_of(
    {"mediaType": _media_type, "digest": _digest, "size": _size},
    {
        "urls": _texts,
        "annotations": _text_map,
        "data": _embedded_data,
        "artifactType": _media_type,
        "platform": _platform,
    },
)
_shared = {
    "mediaType": _media_type,
    "artifactType": _media_type,
    "subject": _descriptor,
    "annotations": _text_map,
}
_index = _object_of({"schemaVersion": _equal_to(2), "manifests": _list_of(_descriptor)}, _shared)
_manifest = _object_of({"schemaVersion": _equal_to(2), "config": _descriptor, "layers": _list_of(_descriptor)}, _shared)
_history_entry = _object_of(
    {}, {"created": _date_time, "author": _text, "created_by": _text, "comment": _text, "empty_layer": _boolean}
)
_container = _object_of(
    {},
    {
        "User": _text,
        "ExposedPorts": _set,
        "Env": _texts,
        "Entrypoint": _texts,
        "Cmd": _texts,
        "Volumes": _set,
        "WorkingDir": _text,
        "Labels": _text_map,
        "StopSignal": _text,
        "ArgsEscaped": _boolean,
    },
)
_config = _object_of(
    {
        "architecture": _text,
        "os": _text,
        "rootfs": _object_of({"type": _equal_to("layers"), "diff_ids": _list_of(_digest)}, {}),
    },
    {
        "created": _date_time,
        "author": _text,
        "variant": _text,
        "os.version": _text,
        "os.features": _texts,
        "config": _container,
        "history": _list_of(_history_entry),
    },
)
_layout_file = _object_of({"imageLayoutVersion": _equal_to("1.0.0")}, {})


def index_flaws(document: object) -> Iterator[Flaw]:
    """Yield the flaws of an index, which may be ``index.json``."""
    return _first_flaws(_index(document, ""))


def manifest_flaws(document: object) -> Iterator[Flaw]:
    """Yield the flaws of a manifest."""
    return _first_flaws(_manifest(document, ""))


def config_flaws(document: object) -> Iterator[Flaw]:
    """Yield the flaws of an image config."""
    return _first_flaws(_config(document, ""))


def layout_file_flaws(document: object) -> Iterator[Flaw]:
    """Yield the flaws of an ``oci-layout`` file."""
    return _first_flaws(_layout_file(document, ""))


def _first_flaws(flaws: Iterator[Flaw]) -> Iterator[Flaw]:
    yield from islice(flaws, _MAX_FLAWS)
    if next(flaws, None) is not None:
        yield "", f"more than {_MAX_FLAWS} flaws; the rest is not reported"
