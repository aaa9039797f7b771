"""What ``inspect`` prints: one item per line for people, with control characters escaped, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ociexport.errors import escaped, printable
from ociexport.inspection.inspect import (
    HistoryLine,
    InspectedImage,
    Inspection,
    PublishedSchema1,
    attested_by,
    history_of,
)
from ociexport.spec.config import HistoryEntry, ImageConfig
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.manifest import Document, Index, Manifest
from ociexport.storage.index import ListedImage, shown_name
from ociexport.system.progress.protocol import format_bytes

_NAME_COLUMNS = 15


def inspection_lines(inspection: Inspection) -> Iterator[str]:
    """Yield the lines; those of a manifest follow those of the index that lists it."""
    yield _line("name", printable(inspection.name))
    top = inspection.top
    if isinstance(top, Index):
        yield from _document_lines("digest", top, top.annotations)
        yield from _section("platforms", map(_platform_line, inspection.manifests))
        yield from _section("attestations", map(_attestation_line, inspection.attestations))
    if inspection.image is not None:
        if isinstance(top, Index):
            yield ""
        yield from _image_lines(inspection.image, "manifest" if isinstance(top, Index) else "digest")


def listing_lines(images: Iterable[ListedImage]) -> Iterator[str]:
    """Yield a line for each image of a layout or archive."""
    for descriptor, name in images:
        shown = "" if name.full is None and name.tag is None else f"  {escaped(shown_name(descriptor, name))}"
        platform = f"  {descriptor.platform}" if descriptor.platform is not None else ""
        yield f"{descriptor.digest}  {printable(descriptor.media_type) or '-'}{platform}{shown}"


def _document_lines(name: str, document: Document, annotations: Mapping[str, str]) -> Iterator[str]:
    yield _line(name, str(document.digest))
    yield _line("media type", document.media_type)
    yield from _section("annotations", _map_lines(annotations))


def _platform_line(entry: Descriptor) -> str:
    what = str(entry.platform) if entry.platform is not None else printable(entry.artifact_type or entry.media_type)
    return f"{what:<18} {entry.digest}  {format_bytes(entry.size)}"


def _attestation_line(entry: Descriptor) -> str:
    return f"{entry.digest}  {format_bytes(entry.size)}, of {printable(attested_by(entry))}"


def _image_lines(image: InspectedImage, name: str) -> Iterator[str]:
    manifest = image.manifest
    yield from _document_lines(name, manifest, manifest.annotations)
    if manifest.artifact_type:
        yield _line("artifact type", printable(manifest.artifact_type))
    if manifest.subject is not None:
        yield _line("subject", str(manifest.subject.digest))
    if image.platform is not None:
        yield _line("platform", str(image.platform))
    if manifest.config is not None:
        yield _line("config", f"{manifest.config.digest}  {printable(manifest.config.media_type)}")
    if image.config is not None:
        yield from _config_lines(image.config)
    yield _line("layers" if image.config is not None else "blobs", _count(len(manifest.layers), image.size))
    yield from (f"  {line}" for line in _layer_lines(image))


def _config_lines(config: ImageConfig) -> Iterator[str]:
    container = config.container
    for name, text in (
        ("created", config.created),
        ("author", config.author),
        ("user", container.user),
        ("working dir", container.working_dir),
        ("stop signal", container.stop_signal),
    ):
        if text:
            yield _line(name, escaped(text))
    for name, words in (("entrypoint", container.entrypoint), ("cmd", container.cmd)):
        if words:
            yield _line(name, escaped(json.dumps(words, ensure_ascii=False)))
    for name, items in (("ports", container.exposed_ports), ("volumes", container.volumes)):
        if items:
            yield _line(name, escaped(", ".join(items)))
    yield from _section("env", map(escaped, container.env))
    yield from _section("labels", _map_lines(container.labels))


def _layer_lines(image: InspectedImage) -> Iterator[str]:
    """Yield the layers and the steps that made them, oldest first; a dash stands for a step that made no layer."""
    shown = set()
    for line in image.history:
        if line.layer is not None:
            shown.add(line.layer)
            yield _layer_line(line.layer, image.manifest.layers[line.layer - 1])
        yield f"{'  ' if line.layer is not None else '- '} {shown_step(line.entry)}"
    for number, descriptor in enumerate(image.manifest.layers, start=1):
        if number not in shown:
            yield _layer_line(number, descriptor)


def shown_step(step: HistoryEntry) -> str:
    """Return the command of a history entry in a form that is safe to print on a line."""
    return printable(" ".join((step.created_by or step.comment or "(not stated)").split()))


def _layer_line(number: int, descriptor: Descriptor) -> str:
    return f"{number:<2} {descriptor.digest}  {format_bytes(descriptor.size)}  {printable(descriptor.media_type)}"


def _count(layers: int, size: int) -> str:
    return f"{layers}, {format_bytes(size)}"


def _map_lines(texts: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(texts):
        yield f"{escaped(key)}={escaped(texts[key])}"


def _section(name: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield a heading and the indented lines below it; nothing if there are no lines."""
    for number, line in enumerate(lines):
        if number == 0:
            yield f"{name}:"
        yield f"  {line}"


def _line(name: str, text: str) -> str:
    return f"{name + ':':<{_NAME_COLUMNS}}{text}"


def inspection_to_json(inspection: Inspection) -> dict[str, object]:
    """Return the members of an inspection as ``inspect --json`` prints them."""
    top = inspection.top
    return {
        "name": inspection.name,
        **_document_to_json(top),
        "manifests": [_entry_to_json(entry) for entry in inspection.manifests],
        "attestations": [{**_entry_to_json(entry), "attests": attested_by(entry)} for entry in inspection.attestations],
        "image": _image_to_json(inspection.image) if inspection.image is not None else None,
    }


def listing_to_json(place: str, images: Sequence[ListedImage]) -> dict[str, object]:
    """Return the members for a layout or archive of several images."""
    return {
        "name": place,
        "images": [{"name": shown_name(descriptor, name), **_entry_to_json(descriptor)} for descriptor, name in images],
    }


def _document_to_json(document: Index | Manifest | PublishedSchema1) -> dict[str, object]:
    return {
        "digest": str(document.digest),
        "mediaType": document.media_type,
        "size": len(document.raw),
        "artifactType": document.artifact_type,
        "annotations": dict(document.annotations),
        "subject": str(document.subject.digest) if document.subject is not None else None,
    }


def _entry_to_json(entry: Descriptor) -> dict[str, object]:
    return {
        "digest": str(entry.digest),
        "mediaType": entry.media_type,
        "size": entry.size,
        "platform": entry.platform.to_json() if entry.platform is not None else None,
        "annotations": dict(entry.annotations),
    }


def _image_to_json(image: InspectedImage) -> dict[str, object]:
    return {
        **_document_to_json(image.manifest),
        "platform": image.platform.to_json() if image.platform is not None else None,
        "config": _config_to_json(image.manifest.config, image.config),
        "layers": [_layer_to_json(number, image) for number, _ in enumerate(image.manifest.layers, start=1)],
        "history": [_history_to_json(line) for line in image.history],
    }


def _config_to_json(descriptor: Descriptor | None, config: ImageConfig | None) -> dict[str, object]:
    # A manifest of schema 1 names no config; its converted config is known only after its layers are fetched.
    members: dict[str, object] = {
        "digest": str(descriptor.digest) if descriptor is not None else None,
        "mediaType": descriptor.media_type if descriptor is not None else None,
        "size": descriptor.size if descriptor is not None else None,
    }
    if config is None:
        return members
    container = config.container
    return {
        **members,
        "created": config.created,
        "author": config.author,
        "entrypoint": list(container.entrypoint),
        "cmd": list(container.cmd),
        "env": list(container.env),
        "user": container.user,
        "workingDir": container.working_dir,
        "exposedPorts": list(container.exposed_ports),
        "volumes": list(container.volumes),
        "labels": dict(container.labels),
        "stopSignal": container.stop_signal,
    }


def _layer_to_json(number: int, image: InspectedImage) -> dict[str, object]:
    descriptor = image.manifest.layers[number - 1]
    made_by = history_of(image.history, number)
    return {
        "number": number,
        "digest": str(descriptor.digest),
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "diffId": str(image.layers[number - 1].diff_id) if image.layers else None,
        "createdBy": made_by.created_by if made_by is not None else None,
        "annotations": dict(descriptor.annotations),
    }


def _history_to_json(line: HistoryLine) -> dict[str, object]:
    entry = line.entry
    return {
        "created": entry.created,
        "createdBy": entry.created_by,
        "comment": entry.comment,
        "author": entry.author,
        "emptyLayer": entry.empty_layer,
        "layer": line.layer,
    }
