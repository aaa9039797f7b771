"""The plan of an archive: its files and their offsets, known before the first layer arrives.

The archive is both an OCI layout and a docker archive, as Docker writes since version 25. It has each blob once, under
``blobs/``; ``index.json`` and ``oci-layout`` for tools that read layouts, and ``manifest.json`` for ``docker load``.
The same images give the same bytes: entries are sorted, and all have the same owner, mode and time.

Spec: image-spec 1.1 image-layout.md; moby ``image/spec/spec.md``, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping, Sequence

from ociexport.errors import InvalidImageError, InvalidReferenceError
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.source import ImageName
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import ImageReference
from ociexport.storage.index import named
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE, LAYOUT_FILE_CONTENT, to_json

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
        content: None for a blob that has not arrived yet.
        digest: None for a file that is not a blob.
    """

    header: bytes
    offset: int
    size: int
    content: bytes | None
    digest: Digest | None

    @property
    def content_offset(self) -> int:
        """The offset of the content in the file."""
        return self.offset + len(self.header)

    @property
    def padding(self) -> bytes:
        """The zeros after the content, up to a whole block."""
        return bytes(-self.size % _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """All entries of an archive, in order, and its size in bytes."""

    entries: tuple[ArchiveEntry, ...]
    size: int

    @property
    def blobs(self) -> dict[Digest, ArchiveEntry]:
        """The blobs that have not arrived yet."""
        return {entry.digest: entry for entry in self.entries if entry.digest is not None and entry.content is None}

    @property
    def end(self) -> bytes:
        """The bytes after the last entry."""
        return bytes(_END_BYTES)


@dataclass(frozen=True, slots=True)
class ArchiveContent:
    """The content of one file of an archive.

    Args:
        size: in bytes.
        content: None for a blob that has not arrived yet.
        digest: None for a file that is not a blob.
        link: target of a symbolic link, relative to the link's directory; None if it is not a link.
    """

    size: int
    content: bytes | None
    digest: Digest | None = None
    link: str | None = None

    @classmethod
    def of(cls, content: bytes) -> ArchiveContent:
        """Return the content of a file that is not a blob."""
        return cls(len(content), content)

    @classmethod
    def of_blob(cls, blob: BlobToFetch) -> ArchiveContent:
        """Return the content of a blob, which may not have arrived yet."""
        return cls(blob.descriptor.size, blob.content, blob.descriptor.digest)


def plan_archive(
    images: Sequence[PreparedImage],
    *,
    seconds: int = 0,
    documents: Mapping[str, bytes] | None = None,
    loadable: Sequence[PreparedImage] | None = None,
    ranges: Mapping[str, ArchiveContent] | None = None,
) -> ArchivePlan:
    """Return the plan of an archive of ``images``, which may share blobs.

    Args:
        seconds: time of all entries, since 1970.
        documents: further files beside ``index.json``, by name.
        loadable: the images that docker can load from this archive; None for all.
        ranges: parts of blobs, by the names of their files, which have a directory of their own.

    Raises:
        InvalidImageError: two images declare different sizes for the same digest.
    """
    files = {
        LAYOUT_FILE: ArchiveContent.of(LAYOUT_FILE_CONTENT),
        INDEX_FILE: ArchiveContent.of(to_json(_index_of(images))),
    }
    docker_manifest = _docker_manifest_of(images if loadable is None else loadable)
    if docker_manifest:
        files["manifest.json"] = ArchiveContent.of(to_json(docker_manifest))
    files |= {name: ArchiveContent.of(content) for name, content in (documents or {}).items()}
    for image in images:
        for document in image.documents:
            files[blob_name(document.digest)] = ArchiveContent(len(document.raw), document.raw, document.digest)
        for blob in image.blobs:
            known = files.setdefault(blob_name(blob.descriptor.digest), ArchiveContent.of_blob(blob))
            if known.size != blob.descriptor.size:
                raise InvalidImageError(
                    f"size: expected {known.size}, as for the same digest before, got {blob.descriptor.size}",
                    where=f"manifest {image.listed.digest}: {blob.label}",
                )
    parents = {f"{name.partition('/')[0]}/" for name in ranges or ()}
    return lay_out({**files, **(ranges or {})}, ("blobs/", *parents), seconds)


def lay_out(files: Mapping[str, ArchiveContent], directories: Iterable[str], seconds: int) -> ArchivePlan:
    """Return the archive of these files, in order, with entries for their directories.

    Args:
        files: by path.
        directories: paths, with a slash at the end, of directories that directly contain no files.
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
    # An entry is plain ustar if possible; a blob beyond 8 GiB gets a PAX header.
    return member.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def _index_of(images: Sequence[PreparedImage]) -> dict[str, object]:
    entries: list[Descriptor] = [named(image.listed, image.name) for image in images]
    return {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }


def _docker_manifest_of(images: Sequence[PreparedImage]) -> list[dict[str, object]]:
    """Return ``manifest.json``, without artifacts, which docker can't load."""
    return [
        {
            "Config": blob_name(main.manifest.config.digest),
            "RepoTags": tags or None,
            "Layers": [blob_name(layer.digest) for layer in main.manifest.layers],
        }
        for main, tags in tagged_images(images)
    ]


def tagged_images(images: Sequence[PreparedImage]) -> list[tuple[PreparedManifest, list[str]]]:
    """Return the images that ``docker load`` can load, each once with all its tags.

    The docker format has no platforms, and the later of two images with the same name would replace the earlier. So
    only one platform of an image is included.
    """
    tags: dict[Digest, list[str]] = {}
    for image in images:
        if image.main is not None and image.main.config is not None:
            known = tags.setdefault(image.main.manifest.digest, [])
            tag = repo_tag(image.name)
            if tag is not None and tag not in known:
                known.append(tag)
    mains = {image.main.manifest.digest: image.main for image in images if image.main is not None}
    return [(mains[digest], names) for digest, names in tags.items()]


def repo_tag(name: ImageName) -> str | None:
    """Return a name as ``docker load`` reads and shows it, ``alpine:3.20``; None if it has no tag.

    The name of Docker Hub is left out, as docker does; an image without a name loads as ``<none>``.
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
