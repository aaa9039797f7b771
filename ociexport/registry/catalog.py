"""LayoutCatalog: the repositories, tags and manifests of a layout, as a registry presents them.

A repository's name is the image's full name without its registry (``docker.io/library/alpine:3`` is served as
``library/alpine:3``), or the layout directory's name where an image has only a tag.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, InvalidReferenceError, NotFoundError
from ociexport.images.resolve import MAX_INDEX_DEPTH, read_small_blob
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.reference import DEFAULT_REGISTRY, ImageReference
from ociexport.storage.layout.layout import ImageLayout

if TYPE_CHECKING:
    from io import FileIO


@dataclass(frozen=True, slots=True)
class _Content:
    """The contents that ``index.json`` leads to, read once for each change of the file.

    Args:
        tags: repository → tag → descriptor.
        manifests: digest → descriptor of each manifest and index reachable from ``index.json``. They belong to every
            repository, since a signature or SBOM in a layout has no name of its own.
        blobs: digests of the configs and layers that the manifests name.
        unusable_tags: names that the layout gives to images but that are not valid tags.
    """

    tags: dict[str, dict[str, Descriptor]]
    manifests: dict[Digest, Descriptor]
    blobs: set[Digest]
    unusable_tags: list[str]


class LayoutCatalog:
    """The repositories, tags and manifests of a layout, as a registry presents them; read again when it changes.

    Raises:
        NotFoundError, InvalidImageError: there is no layout, or ``index.json`` is broken.
    """

    def __init__(self, layout: ImageLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._content = _Content({}, {}, set(), [])
        # Where this is not a layout, this raises the error that every command reports for it.
        layout.read_images()
        self._read()

    def repositories(self) -> list[str]:
        """Return the names of all repositories, sorted."""
        return sorted(self._read().tags)

    def unusable_tags(self) -> list[str]:
        """Return the names in the layout that are not valid tags; these images are served by digest only."""
        return self._read().unusable_tags

    def tags(self, repository: str) -> list[str]:
        """Return the tags of ``repository``, in the order that the specification requires.

        Raises:
            NotFoundError: there is no such repository.
        """
        tags = self._read().tags.get(repository)
        if tags is None:
            raise NotFoundError(f"repository {repository}: not in the layout")
        return sorted(tags)

    def find_manifest(self, repository: str, selector: str) -> Descriptor:
        """Return the manifest or index that a tag or digest names.

        Raises:
            NotFoundError: the repository or the manifest is not in the layout.
        """
        content = self._read()
        tags = content.tags.get(repository)
        if tags is None:
            raise NotFoundError(f"repository {repository}: not in the layout")
        found = content.manifests.get(Digest.parse(selector)) if ":" in selector else tags.get(selector)
        if found is None:
            raise NotFoundError(f"manifest {repository}:{selector}: not in the layout")
        return found

    def open_blob(self, repository: str, digest: Digest) -> FileIO:
        """Return the blob's file, if ``repository`` exists and a manifest of the layout names the blob.

        Raises:
            NotFoundError: no such repository, no manifest names the blob, the layout lacks it, or it is not a regular
                file.
        """
        content = self._read()
        if repository not in content.tags or digest not in content.blobs:
            raise NotFoundError(f"blob {digest}: not in {repository}")
        try:
            return self._layout.open_file(digest)
        except InvalidImageError as error:
            raise NotFoundError(f"blob {digest}: not in {repository}: {error}") from error

    def referrers(self, subject: Digest, artifact_type: str | None) -> list[dict[str, object]]:
        """Return descriptors of the manifests whose subject is ``subject``; with ``artifact_type`` only those of it."""
        found = []
        for descriptor in self._read().manifests.values():
            document = self._parse(descriptor)
            if document is None or document.subject is None or document.subject.digest != subject:
                continue
            kind = document.artifact_type or (document.config.media_type if isinstance(document, Manifest) else None)
            if artifact_type in (None, kind):
                described = Descriptor(
                    document.media_type,
                    document.digest,
                    len(document.raw),
                    artifact_type=kind,
                    annotations=document.annotations,
                )
                found.append(described.to_json())
        return found

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """Return a manifest's bytes, verified."""
        return read_small_blob(self._layout, descriptor, MAX_MANIFEST_BYTES, f"manifest {descriptor.digest}")

    def _read(self) -> _Content:
        status = self._layout.directory.status("index.json")
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if stamp != self._stamp:
                self._content = self._collect()
                self._stamp = stamp
            return self._content

    def _collect(self) -> _Content:
        content = _Content({}, {}, set(), [])
        for descriptor, name in self._layout.read_images():
            repository, tag = self._repository_of(name.full, name.tag)
            tags = content.tags.setdefault(repository, {})
            if tag is not None and _is_tag(tag):
                tags[tag] = descriptor
            elif tag is not None:
                content.unusable_tags.append(tag)
            self._collect_manifest(content, descriptor, MAX_INDEX_DEPTH)
        return content

    def _repository_of(self, full: str | None, tag: str | None) -> tuple[str, str | None]:
        if full is not None:
            try:
                reference = ImageReference.parse(full)
            except InvalidReferenceError:
                pass
            else:
                return reference.repository, reference.tag
        base = os.path.basename(os.path.abspath(self._layout.path)).lower()
        return re.sub(r"[^a-z0-9]+", "-", base).strip("-") or "layout", tag

    def _collect_manifest(self, content: _Content, descriptor: Descriptor, depth_left: int) -> None:
        if descriptor.digest in content.manifests:
            return
        document = self._parse(descriptor)
        if document is None:
            return
        content.manifests[descriptor.digest] = document.descriptor
        if isinstance(document, Index):
            if depth_left:
                for entry in document.manifests:
                    self._collect_manifest(content, entry, depth_left - 1)
            return
        content.blobs.update(blob.digest for blob in (document.config, *document.layers))

    def _parse(self, descriptor: Descriptor) -> Index | Manifest | None:
        """Return the document; None where the layout lacks it (which is legal) or it is not an index or manifest."""
        try:
            return parse_document(self.read_manifest(descriptor), descriptor.media_type, descriptor.digest)
        except (NotFoundError, InvalidImageError):
            return None


def _is_tag(text: str) -> bool:
    """Whether ``text`` is a valid tag; a layout may give an image any name."""
    try:
        ImageReference(DEFAULT_REGISTRY, "x", text)
    except InvalidReferenceError:
        return False
    return True
