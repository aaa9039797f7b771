"""Uploads of blobs into one repository of a fake registry, and what the tests of it share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ociexport.registry.client import RegistryClient
from ociexport.registry.hosts.endpoints import endpoint_for
from ociexport.registry.hosts.routes import Route
from ociexport.registry.options import RegistryOptions
from ociexport.registry.upload import BlobUpload, UploadOutcome
from ociexport.registry.upload_requests import UploadRequests
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Chunk, Digest
from ociexport.storage.layout.saved_uploads import SavedUploads
from tests.support.fake_registry import FakeRegistry

MIB = 1024 * 1024
BLOB = os.urandom(40 * MIB)


def descriptor_of(raw: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(raw), len(raw))


class Pusher:
    """Uploads blobs to one repository of a fake registry."""

    def __init__(self, registry: FakeRegistry, repository: str = "team/app", **options: object) -> None:
        self.registry = registry
        settings = RegistryOptions(retry_delay_seconds=0, retry_times=3, **options)  # type: ignore[arg-type]
        self.client = RegistryClient(settings)
        endpoint = endpoint_for(registry.host, settings)
        self.requests = UploadRequests(self.client.session(Route(endpoint, repository)), repository)
        self.reported = 0

    def __call__(
        self,
        raw: bytes = BLOB,
        *mounts: str,
        read: Callable[[int], Iterator[Chunk]] | None = None,
        descriptor: Descriptor | None = None,
        saved: SavedUploads | None = None,
    ) -> UploadOutcome:
        def read_all(offset: int) -> Iterator[Chunk]:
            for start in range(offset, len(raw), MIB):
                yield raw[start : start + MIB]

        def report(count: int) -> None:
            self.reported += count

        upload = BlobUpload(
            self.requests,
            descriptor or descriptor_of(raw),
            read or read_all,
            self.client.transport,
            report=report,
            saved=saved,
        )
        return upload.run(mounts)


def steps(registry: FakeRegistry) -> list[str]:
    """Return the methods of the requests about blobs."""
    return [request.method for request in registry.requests if "/blobs/" in request.path]


def assert_arrived(registry: FakeRegistry, raw: bytes = BLOB) -> None:
    """Check that the registry has the blob."""
    assert registry.blobs[str(Digest.of(raw))] == raw
