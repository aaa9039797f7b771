"""Opening a blob: a small one over one connection, a large one over several if one turns out to be slow."""

from __future__ import annotations

from ociexport.registry.download.stream import BlobStream, OpenFrom, RemoteBlob
from ociexport.registry.http.transport import Transport
from ociexport.spec.digest import ByteStream

# A smaller blob is complete before several connections are made.
_MIN_BYTES = 16 * 1024 * 1024


def open_blob_stream(open_from: OpenFrom, size: int, offset: int, transport: Transport, subject: str) -> ByteStream:
    """Return a stream of a blob's bytes from ``offset`` on, over one or several connections; see `BlobStream`."""
    blob = RemoteBlob(open_from, size, transport, subject)
    if size - offset < _MIN_BYTES or transport.options.connections_per_blob <= 1:
        return BlobStream(blob, offset)
    from ociexport.registry.download.ranges import LargeBlobStream  # noqa: PLC0415 - start-up: small images need none

    return LargeBlobStream(blob, offset)
