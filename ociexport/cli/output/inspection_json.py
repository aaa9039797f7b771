"""What ``inspect --json`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from ociexport.inspection.inspect import (
    HistoryLine,
    InspectedImage,
    Inspection,
    PublishedSchema1,
    attested_by,
    history_of,
)
from ociexport.spec.descriptor import Descriptor, ImageConfig, Index, Manifest
from ociexport.storage.index import ListedImage, shown_name


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
    # A manifest of schema 1 names no config; the one that it becomes is known with its layers.
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
