"""What an archive holds, and where in the file: known before the first layer arrives.

The archive is an OCI layout and a docker archive at once, as Docker writes since version 25: blobs once, under
``blobs/``; ``index.json`` and ``oci-layout`` for those who read layouts, ``manifest.json`` for ``docker load``.
The same images give the same bytes: entries are sorted and all have the same owner, mode and time.

Spec: image-spec 1.1 image-layout.md; moby ``image/spec/spec.md``, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ociexport.errors import InvalidImageError, InvalidReferenceError
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.source import ImageName
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference
from ociexport.storage.index import named
from ociexport.storage.layout.documents import LAYOUT_FILE_CONTENT, to_json

_BLOCK_BYTES = 512
# Two blocks of zeros end a tar (POSIX 1003.1, pax, "ustar Interchange Format").
_END_BYTES = 2 * _BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One file or directory of an archive.

    Args:
        header: the blocks before the content.
        offset: of the header in the file.
        size: of the content.
        content: None for a blob that is still to arrive.
        digest: None for what is no blob.
    """

    header: bytes
    offset: int
    size: int
    content: bytes | None
    digest: Digest | None

    @property
    def content_offset(self) -> int:
        """Of the content in the file."""
        return self.offset + len(self.header)

    @property
    def padding(self) -> bytes:
        """What follows the content, up to a whole block."""
        return bytes(-self.size % _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """All entries of an archive, in order, and its size in bytes."""

    entries: tuple[ArchiveEntry, ...]
    size: int

    @property
    def blobs(self) -> dict[Digest, ArchiveEntry]:
        """The blobs that are still to arrive."""
        return {entry.digest: entry for entry in self.entries if entry.digest is not None and entry.content is None}

    @property
    def end(self) -> bytes:
        """What follows the last entry."""
        return bytes(_END_BYTES)


@dataclass(frozen=True, slots=True)
class ArchiveContent:
    """What one file of an archive is to hold.

    Args:
        size: in bytes.
        content: None for a blob that is still to arrive.
        digest: None for what is no blob.
        link: another file's path relative to this one's directory, which it is a symbolic link to; None for no link.
    """

    size: int
    content: bytes | None
    digest: Digest | None = None
    link: str | None = None

    @classmethod
    def of(cls, content: bytes) -> ArchiveContent:
        """Return what is known and no blob."""
        return cls(len(content), content)

    @classmethod
    def of_blob(cls, blob: BlobToFetch) -> ArchiveContent:
        """Return a blob, which may well be known."""
        return cls(blob.descriptor.size, blob.content, blob.descriptor.digest)


def plan_archive(images: Sequence[PreparedImage], *, seconds: int = 0) -> ArchivePlan:
    """Return what an archive of ``images`` holds, whose blobs may well be the same.

    Args:
        seconds: time of all entries, since 1970.

    Raises:
        InvalidImageError: two images say different sizes of the same digest.
    """
    files = {
        "oci-layout": ArchiveContent.of(LAYOUT_FILE_CONTENT),
        "index.json": ArchiveContent.of(to_json(_index_of(images))),
    }
    docker_manifest = _docker_manifest_of(images)
    if docker_manifest:
        files["manifest.json"] = ArchiveContent.of(to_json(docker_manifest))
    for image in images:
        for document in image.documents:
            files[_blob_path(document.digest)] = ArchiveContent(len(document.raw), document.raw, document.digest)
        for blob in image.blobs:
            known = files.setdefault(_blob_path(blob.descriptor.digest), ArchiveContent.of_blob(blob))
            if known.size != blob.descriptor.size:
                raise InvalidImageError(
                    f"size: expected {known.size}, as for the same digest before, got {blob.descriptor.size}",
                    where=f"manifest {image.listed.digest}: {blob.label}",
                )
    return lay_out(files, ("blobs/",), seconds)


def lay_out(files: Mapping[str, ArchiveContent], directories: Iterable[str], seconds: int) -> ArchivePlan:
    """Return the archive of these files, in order, with entries for their directories.

    Args:
        files: by path.
        directories: paths, with a slash at the end, of those that have no files themselves.
        seconds: time of all entries, since 1970.
    """
    parents = {f"{path.rpartition('/')[0]}/" for path in files if "/" in path}
    items = {**dict.fromkeys(parents | set(directories), ArchiveContent.of(b"")), **files}
    entries = []
    offset = 0
    for path, item in sorted(items.items()):
        entry = ArchiveEntry(_header(path, item, seconds), offset, item.size, item.content, item.digest)
        entries.append(entry)
        offset = entry.content_offset + item.size + len(entry.padding)
    return ArchivePlan(tuple(entries), offset + _END_BYTES)


def _header(path: str, item: ArchiveContent, seconds: int) -> bytes:
    member = tarfile.TarInfo(path)
    member.size, member.mtime, member.mode = item.size, seconds, 0o644
    if path.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif item.link is not None:
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, item.link
    # What needs no extension is plain ustar; a blob beyond 8 GiB gets a PAX header.
    return member.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def _index_of(images: Sequence[PreparedImage]) -> dict[str, object]:
    entries: list[Descriptor] = [named(image.listed, image.name) for image in images]
    return {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }


def _docker_manifest_of(images: Sequence[PreparedImage]) -> list[dict[str, object]]:
    """Return ``manifest.json``: what is no image can't be loaded."""
    return [
        {
            "Config": _blob_path(main.manifest.config.digest),
            "RepoTags": tags or None,
            "Layers": [_blob_path(layer.digest) for layer in main.manifest.layers],
        }
        for main, tags in tagged_images(images)
    ]


def tagged_images(images: Sequence[PreparedImage]) -> list[tuple[PreparedManifest, list[str]]]:
    """Return what ``docker load`` can load, each image once, with all its tags.

    It knows no platforms: of an image for several it lists one, since of two images of one name the later would win.
    """
    tags: dict[Digest, list[str]] = {}
    for image in images:
        if image.main.config is not None:
            known = tags.setdefault(image.main.manifest.digest, [])
            tag = repo_tag(image.name)
            if tag is not None and tag not in known:
                known.append(tag)
    mains = {image.main.manifest.digest: image.main for image in images}
    return [(mains[digest], names) for digest, names in tags.items()]


def repo_tag(name: ImageName) -> str | None:
    """Return a name as ``docker load`` takes and shows it, ``alpine:3.20``; None where there is no tag.

    Docker Hub's own name is left out, as docker does; an image without a name loads as ``<none>``.
    """
    if name.full is None:
        return None
    try:
        reference = ImageReference.parse(name.full)
    except InvalidReferenceError:
        return None
    if reference.tag is None:
        return None
    repository = reference.repository.removeprefix("library/") if reference.is_docker_hub else reference.name
    return f"{repository}:{reference.tag}"
