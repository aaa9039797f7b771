"""An image in memory as an ImageSource: layers from lists of tar members, and documents that match them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ociexport.errors import NotFoundError
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    """Return a tar member; ``fields`` are those of TarInfo, and ``xattrs`` is a dict."""
    info = tarfile.TarInfo(name)
    info.mtime = 1_000_000_000
    xattrs = fields.pop("xattrs", {})
    info.pax_headers = {
        f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in xattrs.items()
    }
    for key, value in fields.items():
        setattr(info, key, value)
    info.size = len(content)
    return info, content


def directory(name: str, mode: int = 0o755, **fields: Any) -> Member:
    """Return a directory."""
    return member(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str, **fields: Any) -> Member:
    """Return a symbolic link."""
    return member(name, type=tarfile.SYMTYPE, linkname=target, **fields)


def hard_link(name: str, target: str, **fields: Any) -> Member:
    """Return a hard link."""
    return member(name, type=tarfile.LNKTYPE, linkname=target, **fields)


def tar_of(members: Iterable[Member]) -> bytes:
    """Return a tar of the members, in PAX format."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sloppy_gzip(tar: bytes) -> bytes:
    """Return ``tar`` compressed with gzip, quickly and deterministically."""
    return gzip.compress(tar, 1, mtime=0)


class MemorySource:
    """One image, whose blobs a test may alter.

    Args:
        tars: the layers, uncompressed, lowest first.
        compress: returns the stored form of a layer.
        diff_ids: those in the config; None for the true ones.
    """

    display_name = "memory"
    image_name = ImageName("latest", None)

    def __init__(
        self,
        tars: Sequence[bytes],
        *,
        compress: Callable[[bytes], bytes] = sloppy_gzip,
        diff_ids: Sequence[str] | None = None,
    ) -> None:
        self.blobs: dict[Digest, bytes] = {}
        layers = [self._add(compress(tar), mediatypes.OCI_LAYER_GZIP) for tar in tars]
        config = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [str(Digest.of(tar)) for tar in tars]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": self._add(json.dumps(config).encode(), mediatypes.OCI_CONFIG).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        self.layers = layers
        self.manifest = self._add(json.dumps(manifest).encode(), mediatypes.OCI_MANIFEST)

    def _add(self, content: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(content)
        self.blobs[digest] = content
        return Descriptor(media_type, digest, len(content))

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        wanted = descriptor or self.manifest
        return ReceivedManifest(self.blobs[wanted.digest], wanted.media_type, wanted.digest)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> io.BytesIO:
        if descriptor.digest not in self.blobs:
            raise NotFoundError(f"blob {descriptor.digest}: not there")
        return io.BytesIO(self.blobs[descriptor.digest][offset:])

    def close(self) -> None:
        """Do nothing: nothing is open."""
