"""Images in registries of Docker's first protocol: a tag names the top layer, whose ancestry lists the layers below.

Layers have no digests there. They have IDs, which do not depend on their content. Some registries keep a checksum of a
layer's JSON, a newline and the layer.

Spec: docker 1.6 "Docker Registry API v1", "Images"; docker-registry's ``checksums.py``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from ociexport.errors import (
    InvalidImageError,
    LimitExceededError,
    RegistryError,
    RegistryNotFoundError,
    printable,
    quoted,
)
from ociexport.registry.client import RegistryClient
from ociexport.registry.download.opening import open_blob_stream
from ociexport.registry.download.stream import range_headers, whole_size
from ociexport.registry.http.messages import Answer
from ociexport.registry.http.transport import Transport
from ociexport.registry.v1.session import MAX_DOCUMENT_BYTES, V1Host, V1Index, v1_endpoint
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.docker_v1 import MAX_V1_LAYERS, V1Document, parse_v1_document, verify_v1_chain, verify_v1_id
from ociexport.spec.json_fields import parse_json, parse_json_as
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import Progress

_PART = frozenset({200, 206, 416})
_WHOLE = frozenset({200})
# A checksum of the kind tarsum+sha256 is excluded: it covers the tar's entries in another order.
_CHECKSUM = re.compile(r"(?<![\w+])sha256:[0-9a-f]{64}")
_CHECKSUM_HEADERS = ("X-Docker-Payload-Checksum", "X-Docker-Checksum-Payload", "X-Docker-Checksum")

_MAX_ID_BYTES = 256

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class V1Layer:
    """One layer of an image.

    Args:
        size: of the layer as sent.
        checksums: the sha256 checksums that the registry gives, either of the layer's JSON, a newline and the layer, or
            of the layer alone. The layer must match one of them.
    """

    document: V1Document
    size: int
    checksums: tuple[Digest, ...] = field(default=())

    @property
    def id(self) -> str:
        """The layer's ID in the registry."""
        return self.document.id or ""


class V1Repository:
    """One repository, on the hosts that have it.

    Args:
        name: as messages show it.
        path: its path in the hosts' API.
        hosts: in the order of requests.
        transport: shared, closed by the caller.
        progress: receives a line for each skipped host.
    """

    def __init__(self, name: str, path: str, hosts: list[V1Host], transport: Transport, progress: Progress) -> None:
        self._name = name
        self._path = path if "/" in path else f"library/{path}"
        self._hosts = hosts
        self._transport = transport
        self._progress = progress

    @property
    def host(self) -> str:
        """The first host to send requests to."""
        return self._hosts[0].name

    def list_tags(self) -> dict[str, str]:
        """Return the tags, each with the image ID that it stands for.

        Raises:
            RegistryNotFoundError: there is no such repository.
        """
        subject = f"tags of {self._name}"

        def read(host: V1Host) -> dict[str, str]:
            raw, _ = host.get_document(f"/repositories/{self._path}/tags", subject=subject)
            return parse_json_as("tags", raw, where=subject).text_map("tags")

        return self._first_that_succeeds(read)

    def find_tag(self, tag: str) -> str:
        """Return the image ID that ``tag`` stands for.

        Raises:
            RegistryNotFoundError: there is no such tag.
        """
        subject = f"image {self._name}:{tag}"

        def read(host: V1Host) -> str:
            raw, _ = host.get_document(f"/repositories/{self._path}/tags/{tag}", subject=subject)
            image_id = _id_in(raw)
            verify_v1_id(image_id, f"{subject}: tag")
            return image_id

        return self._first_that_succeeds(read)

    def read_layers(self, image_id: str) -> list[V1Layer]:
        """Return the layers of an image, lowest first.

        Raises:
            InvalidImageError: its ancestry is too long, or contradicts the layers' documents.
        """
        return self._first_that_succeeds(lambda host: self._read_layers(host, image_id))

    def _read_layers(self, host: V1Host, image_id: str) -> list[V1Layer]:
        subject = f"image {self._name}: layer {image_id[:12]}"
        raw, _ = host.get_document(f"/images/{image_id}/ancestry", subject=subject)
        ids = parse_json_as("ancestry", raw, where=subject).texts("ancestry")
        if len(ids) > MAX_V1_LAYERS:
            message = f"ancestry: expected at most {MAX_V1_LAYERS} layers, got {len(ids)}"
            raise LimitExceededError(message, where=subject)
        if not ids or ids[0] != image_id:
            raise InvalidImageError(
                f"ancestry: expected it to begin with {image_id}, got {quoted(ids[0] if ids else 'nothing')}",
                where=subject,
            )
        for number, layer_id in enumerate(ids):
            verify_v1_id(layer_id, f"{subject}: ancestry[{number}]")
        if len(set(ids)) != len(ids):
            raise InvalidImageError("ancestry: expected each ID once, got a cycle", where=subject)
        layers: list[V1Layer] = []
        total_bytes = 0
        for layer_id in reversed(ids):
            layers.append(self._read_layer(host, layer_id))
            total_bytes += len(layers[-1].document.raw)
            if total_bytes > MAX_DOCUMENT_BYTES:
                raise LimitExceededError(
                    f"the JSON of its layers: expected at most {MAX_DOCUMENT_BYTES} bytes, got more", where=subject
                )
        verify_v1_chain([layer.document for layer in layers], subject)
        return layers

    def _read_layer(self, host: V1Host, layer_id: str) -> V1Layer:
        subject = f"image {self._name}: layer {layer_id[:12]}"
        raw, answer = host.get_document(f"/images/{layer_id}/json", subject=subject)
        document = parse_v1_document(raw, subject)
        if document.id != layer_id:
            raise InvalidImageError(f"id: expected {layer_id}, got {quoted(document.id or 'none')}", where=subject)
        headers = " ".join(text for name in _CHECKSUM_HEADERS for text in answer.header_values(name))
        checksums = tuple(Digest.parse(text) for text in _CHECKSUM.findall(headers))
        with closing(self._open_at(host, layer_id, 0, 1)) as first:
            return V1Layer(document, whole_size(first), checksums)

    def open_layer(self, layer: V1Layer, offset: int = 0) -> ByteStream:
        """Return a stream of a layer's bytes as sent; it reconnects after a broken connection.

        Raises:
            RegistryError: no host sends the layer; also raised in ``read``.
        """

        def open_from(position: int, end: int | None) -> Answer:
            return self._first_that_succeeds(lambda host: self._open_at(host, layer.id, position, end))

        subject = f"layer {layer.id[:12]}"
        return open_blob_stream(open_from, layer.size, offset, self._transport, subject)

    def _open_at(self, host: V1Host, layer_id: str, position: int, end: int | None) -> Answer:
        headers = range_headers(position, end)
        return host.get(
            f"/images/{layer_id}/layer",
            subject=f"layer {layer_id[:12]}",
            headers=headers,
            accepted=_PART if headers else _WHOLE,
        )

    def _first_that_succeeds(self, action: Callable[[V1Host], _T]) -> _T:
        *others, last = self._hosts
        for host in others:
            try:
                return action(host)
            except (RegistryError, InvalidImageError) as error:
                if isinstance(error, RegistryNotFoundError):
                    raise
                self._progress.say(f"skipping endpoint {printable(host.name)}: {error}")
        return action(last)


def _id_in(raw: bytes) -> str:
    """Return the ID from a document that consists of it; some registries send it without JSON's quotes."""
    try:
        found = parse_json(raw, where="")
    except InvalidImageError:
        found = None
    return found if isinstance(found, str) else raw[:_MAX_ID_BYTES].decode("ascii", "replace").strip()


def find_repository(client: RegistryClient, reference: ImageReference) -> V1Repository:
    """Return the repository of ``reference`` on the hosts that the index of Docker's first protocol names.

    Raises:
        AuthenticationError, RegistryNotFoundError, RegistryError: the index does not name the hosts.
        UsageError, OSError: a configuration file is wrong or can't be read.
    """
    home = client.home(reference)
    endpoint = v1_endpoint(home.endpoint)
    is_given = client.options.credentials is not None
    client.verify_auth_files(endpoint, home.repository, is_given=is_given)
    search = functools.partial(client.search, endpoint, is_given)
    hosts = V1Index(endpoint, search, client.transport).find_hosts(home.repository, f"image {reference}")
    return V1Repository(reference.name, home.repository, hosts, client.transport, client.progress)
