"""LayoutCatalog: the repositories, tags and manifests of a layout, as a registry presents them.

``docker.io/library/alpine:3`` is served as ``library/alpine:3`` and as ``docker.io/library/alpine:3``, and with
``?ns=docker.io``, which containerd sends to a mirror, as ``library/alpine:3`` of that registry only. An image that has
only a tag is in a repository with the name of the layout's directory. A name of several images leads to none of them.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from ociexport.errors import InvalidImageError, InvalidReferenceError, NotFoundError, printable
from ociexport.images.companions import is_companion_tag, is_runnable, says_companion
from ociexport.images.resolve import MAX_INDEX_DEPTH, read_small_blob
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.reference import DEFAULT_REGISTRY, ImageReference
from ociexport.storage.layout.layout import ImageLayout

if TYPE_CHECKING:
    from io import FileIO


# A repository as a request names it: the value of ``ns`` or None, and the path.
_Place: TypeAlias = tuple[str | None, str]


class AmbiguousNameError(NotFoundError):
    """A name that leads to several images of the layout."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that ``index.json`` names; `registry` is None where the layout does not say it."""

    descriptor: Descriptor
    registry: str | None
    repository: str

    @property
    def places(self) -> set[_Place]:
        """The ways in which a request may name the repository."""
        if self.registry is None:
            return {(None, self.repository)}
        return {(None, self.repository), (None, self.full_repository), (self.registry, self.repository)}

    @property
    def full_repository(self) -> str:
        """The repository's name, with its registry if there is one."""
        return self.repository if self.registry is None else f"{self.registry}/{self.repository}"


@dataclass(frozen=True, slots=True)
class _Content:
    """The contents that ``index.json`` leads to, read once for each change of the file.

    Args:
        tags: place → tag → the images with this name. Several images are a clash if their digests differ.
        repositories: the names of all repositories, without registry.
        manifests: digest → descriptor of each manifest and index reachable from ``index.json``. They belong to every
            repository, since a signature or SBOM in a layout has no name of its own.
        blobs: digests of the configs and layers that the manifests name.
        unusable_tags: names that the layout gives to images but that are not valid tags.
    """

    tags: dict[_Place, dict[str, list[_Image]]] = field(default_factory=dict)
    repositories: set[str] = field(default_factory=set)
    manifests: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)
    unusable_tags: list[str] = field(default_factory=list)


class LayoutCatalog:
    """The repositories, tags and manifests of a layout, as a registry presents them; read again when it changes.

    Raises:
        NotFoundError, InvalidImageError: there is no layout, or ``index.json`` is broken.
    """

    def __init__(self, layout: ImageLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._content = _Content()
        # Where this is not a layout, this raises the error that every command reports for it.
        layout.read_images()
        self._read()

    def repositories(self) -> list[str]:
        """Return the names of all repositories, sorted: without the registry, and with it where that is not enough."""
        content = self._read()
        names = set()
        for name in content.repositories:
            tags = content.tags[None, name]
            clashes = [image for images in tags.values() if _is_clash(images) for image in images]
            if not tags or any(not _is_clash(images) for images in tags.values()):
                names.add(name)
            names.update(image.full_repository for image in clashes if _is_repository(image.full_repository))
        return sorted(names)

    def clashes(self) -> list[str]:
        """Return a text for each name, asked for without ``ns``, that leads to several images."""
        return sorted(
            _described(name, tag, images)
            for (registry, name), tags in self._read().tags.items()
            for tag, images in tags.items()
            if registry is None and _is_clash(images)
        )

    def unusable_tags(self) -> list[str]:
        """Return the names in the layout that are not valid tags; these images are served by digest only."""
        return self._read().unusable_tags

    def tags(self, repository: str, registry: str | None = None) -> list[str]:
        """Return the tags of ``repository`` that lead to one image, in the order that the specification requires.

        Args:
            registry: the registry of the repository; None if the request does not say it.

        Raises:
            NotFoundError: there is no such repository.
            AmbiguousNameError: each of its tags leads to several images.
        """
        tags = self._tags_of(self._read(), repository, registry)
        usable = sorted(tag for tag, images in tags.items() if not _is_clash(images))
        if tags and not usable:
            tag, images = min(tags.items())
            raise AmbiguousNameError(_described(repository, tag, images))
        return usable

    def find_manifest(self, repository: str, selector: str, registry: str | None = None) -> Descriptor:
        """Return the manifest or index that a tag or digest names.

        Args:
            registry: the registry of the repository; None if the request does not say it.

        Raises:
            NotFoundError: the repository or the manifest is not in the layout.
            AmbiguousNameError: the tag leads to several images.
        """
        content = self._read()
        tags = self._tags_of(content, repository, registry)
        if ":" in selector:
            found = content.manifests.get(Digest.parse(selector))
        else:
            images = tags.get(selector, [])
            if _is_clash(images):
                raise AmbiguousNameError(_described(repository, selector, images))
            found = images[0].descriptor if images else None
        if found is None:
            raise NotFoundError(f"manifest {repository}:{selector}: not in the layout")
        return found

    def _tags_of(self, content: _Content, repository: str, registry: str | None) -> dict[str, list[_Image]]:
        tags = content.tags.get((_normalized(registry), repository))
        if tags is None:
            of = f" of {printable(registry)}" if registry is not None else ""
            raise NotFoundError(f"repository {printable(repository)}{of}: not in the layout")
        return tags

    def open_blob(self, repository: str, digest: Digest, registry: str | None = None) -> FileIO:
        """Return the blob's file, if ``repository`` exists and a manifest of the layout names the blob.

        Raises:
            NotFoundError: no such repository, no manifest names the blob, the layout lacks it, or it is not a regular
                file.
        """
        content = self._read()
        self._tags_of(content, repository, registry)
        if digest not in content.blobs:
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
        content = _Content()
        named: dict[tuple[str | None, str, str], list[_Image]] = {}
        for descriptor, name in self._layout.read_images():
            registry, repository, tag = self._location_of(name.full, name.tag)
            image = _Image(descriptor, registry, repository)
            content.repositories.add(repository)
            for place in image.places:
                content.tags.setdefault(place, {})
            self._collect_manifest(content, descriptor, MAX_INDEX_DEPTH)
            if tag is not None and not _is_tag(tag):
                content.unusable_tags.append(tag)
            elif tag is not None and (is_companion_tag(tag) or not says_companion(descriptor)):
                named.setdefault((registry, repository, tag), []).append(image)
        for (_, _, tag), images in named.items():
            for image in self._without_artifacts(images):
                for place in image.places:
                    content.tags[place].setdefault(tag, []).append(image)
        return content

    def _without_artifacts(self, images: list[_Image]) -> Iterable[_Image]:
        """Return those of one name that can run, or all if none can: an artifact never answers for an image."""
        if not _is_clash(images):
            return images
        return [image for image in images if self._is_runnable(image.descriptor)] or images

    def _is_runnable(self, descriptor: Descriptor) -> bool:
        document = self._parse(descriptor)
        return document is not None and is_runnable(descriptor, document)

    def _location_of(self, full: str | None, tag: str | None) -> tuple[str | None, str, str | None]:
        """Return registry, repository and tag."""
        if full is not None:
            try:
                reference = ImageReference.parse(full)
            except InvalidReferenceError:
                pass
            else:
                return _normalized(reference.registry), reference.repository, reference.tag
        base = os.path.basename(os.path.abspath(self._layout.path)).lower()
        return None, re.sub(r"[^a-z0-9]+", "-", base).strip("-") or "layout", tag

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
                    if entry.media_type and entry.media_type not in mediatypes.DOCUMENTS:
                        content.blobs.add(entry.digest)  # a layer of a build cache
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


def _is_repository(text: str) -> bool:
    """Whether a client can ask for ``text`` as a repository; a registry with a port makes no such name."""
    try:
        ImageReference(DEFAULT_REGISTRY, text, "x")
    except InvalidReferenceError:
        return False
    return True


def _is_clash(images: Iterable[_Image]) -> bool:
    return len({image.descriptor.digest for image in images}) > 1


def _described(repository: str, tag: str, images: Iterable[_Image]) -> str:
    """Return which images share a name."""
    found = {image.descriptor.digest: f"{image.full_repository}:{tag}" for image in images}
    if len(set(found.values())) < len(found):
        found = {digest: f"{name}@{digest}" for digest, name in found.items()}
    return f"{printable(repository)}:{tag} is the name of several images: {', '.join(sorted(found.values()))}"


def _normalized(registry: str | None) -> str | None:
    """Return a registry's name in the form in which names are compared: a host's case does not matter."""
    if registry is None:
        return None
    try:
        return ImageReference.parse(f"{registry}/x/x").registry.lower()
    except InvalidReferenceError:
        return registry
