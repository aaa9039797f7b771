"""An image in a registry, and helpers that request it, for the tests of the wire."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ociexport.errors import (
    OciexportError,
)
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.registry.source import RegistrySource
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry
from tests.support.registry_image import open_registry_source

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(range(256)) * 1000
USER = Credentials("user", "pass:word")


def wire_options(credentials: Credentials | None = None) -> RegistryOptions:
    return RegistryOptions(credentials=credentials, retry_delay_seconds=0, read_timeout_seconds=10)


def image_source(
    registry: FakeRegistry, selector: str = ":1.0", credentials: Credentials | None = None
) -> RegistrySource:
    registry.add_manifest("library/app", "1.0", MANIFEST, mediatypes.OCI_MANIFEST)
    reference = ImageReference.parse(f"{registry.host}/library/app{selector}")
    return open_registry_source(reference, options=wire_options(credentials))


def blob_in(registry: FakeRegistry) -> Descriptor:
    return Descriptor(mediatypes.OCI_LAYER_GZIP, registry.add_blob(BLOB), len(BLOB))


def read_all(source: RegistrySource, descriptor: Descriptor, offset: int = 0, size: int = 7000) -> bytes:
    stream = source.open_blob(descriptor, offset)
    try:
        parts = []
        while part := stream.read(size):
            parts.append(part)
        return b"".join(parts)
    finally:
        stream.close()


def error_of(action: Callable[[], object], kind: type[OciexportError]) -> str:
    """Return the message of the error that ``action`` raises."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    return str(caught.value)
