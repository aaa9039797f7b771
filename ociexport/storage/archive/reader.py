"""Archives as sources: the files in an archive show its kind.

An archive with ``index.json`` is a layout. With only ``manifest.json``, it is written by docker since 1.10, podman,
skopeo, crane or kaniko. With only ``repositories``, it is written by docker before 1.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.source import ImageSource
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.archive.docker import (
    list_docker_images,
    list_v1_images,
    open_docker_image,
    open_docker_images,
    open_v1_image,
)
from ociexport.storage.archive.file_names import DOCKER_MANIFEST_FILE, REPOSITORIES_FILE
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.index import MAX_INDEX_BYTES, ListedImage, ListedSource, choose_from_layout, list_images
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import BUNDLE_FILE, EXPECTED_HINT, INDEX_FILE
from ociexport.system.progress.protocol import SILENT, Progress

if TYPE_CHECKING:
    from ociexport.storage.alternatives import Alternatives


def open_archive_image(path: str, name: str | None = None, progress: Progress = SILENT) -> ImageSource:
    """Return one image of an archive; the caller closes it.

    Args:
        path: of the archive; ``-`` is standard input.
        name: a tag, a reference, ``@sha256:…`` or ``@N`` (position in the archive); None if it has only one image.
        progress: informed if a manifest had to be made.

    Raises:
        NotFoundError: the file does not exist, or no image matches; the message lists the existing names.
        UsageError: several images match.
        InvalidImageError: it is not an archive of images, or a damaged one.
    """
    return open_image_in(ArchiveMembers.open(path), name, progress)


def open_image_in(members: ArchiveMembers, name: str | None, progress: Progress = SILENT) -> ImageSource:
    """Return one image of an open archive, which is closed with it; see `open_archive_image`."""
    try:
        return _open_image(members, name, progress)
    except BaseException:
        members.close()
        raise


def _open_image(members: ArchiveMembers, name: str | None, progress: Progress) -> ImageSource:
    is_dockers = DOCKER_MANIFEST_FILE in members
    if INDEX_FILE in members:
        source = _open_layout_image(members, name)
        # Docker has written indexes with images that it did not save; its own list has only saved images.
        if source.has_image or not is_dockers:
            return source
    if is_dockers:
        return open_docker_image(members, name, progress)
    if REPOSITORIES_FILE in members:
        return open_v1_image(members, name, progress)
    raise no_images_error(members)


def list_archive_images(path: str) -> list[ListedImage]:
    """Return the images of an archive and their names; in a docker archive, the digest is the image ID.

    Raises:
        NotFoundError: the file does not exist.
        InvalidImageError: it is not an archive of images, or a damaged one.
    """
    members = ArchiveMembers.open(path)
    try:
        return list_images_in(members)
    finally:
        members.close()


def no_images_error(members: ArchiveMembers) -> InvalidImageError:
    """Return the error for a tar that lists no images at its top."""
    from ociexport.storage.archive.misfits import without_images_error  # noqa: PLC0415 - start-up: only an error needs it

    return without_images_error(members.names, members.path, members.place)


def list_images_in(members: ArchiveMembers) -> list[ListedImage]:
    """Return the images of an open archive and their names; see `list_archive_images`."""
    is_dockers = DOCKER_MANIFEST_FILE in members
    if INDEX_FILE in members:
        images = _list_layout_images(members)
        # As in `_open_image`: docker has listed images that it did not save.
        if not is_dockers or all(blob_name(descriptor.digest) in members for descriptor, _ in images):
            return images
    if is_dockers:
        return list_docker_images(members)
    if REPOSITORIES_FILE in members:
        return list_v1_images(members)
    raise no_images_error(members)


def open_archive_images(members: ArchiveMembers, progress: Progress = SILENT) -> Sequence[ImageSource]:
    """Return all images of an open archive, one for each name; closing one of them closes the archive.

    Raises:
        InvalidImageError: it is not an archive of images, or a damaged one.
    """
    if sources := open_layout_images(members):
        return sources
    if DOCKER_MANIFEST_FILE in members:
        return open_docker_images(members, progress)
    if INDEX_FILE in members:
        return ()
    if REPOSITORIES_FILE in members:
        images = list_v1_images(members)
        return [open_v1_image(members, f"@{number}", progress) for number, _ in enumerate(images)]
    raise no_images_error(members)


def open_layout_images(members: ArchiveMembers) -> Sequence[ArchiveLayoutSource]:
    """Return all images of an open archive that is a layout; none if docker's own list is to be read instead."""
    if INDEX_FILE not in members:
        return ()
    images = _list_layout_images(members)
    sources = [ArchiveLayoutSource(members, descriptor, images) for descriptor, _ in images]
    # As in `_open_image`: docker has listed images that it did not save.
    is_whole = DOCKER_MANIFEST_FILE not in members or all(source.has_image for source in sources)
    return sources if is_whole else ()


def _list_layout_images(members: ArchiveMembers) -> list[ListedImage]:
    where = f"{members.place}: {INDEX_FILE}"
    return list_images(parse_json_object(members.read(INDEX_FILE, MAX_INDEX_BYTES), where=where))


def _open_layout_image(members: ArchiveMembers, name: str | None) -> ArchiveLayoutSource:
    images = _list_layout_images(members)
    found = choose_from_layout(members.place, ArchiveBlobs(members), images, name, typed=members.typed)
    if isinstance(found, Digest):
        found = Descriptor("", found, members.size_of(blob_name(found)))
    return ArchiveLayoutSource(members, found, images)


class ArchiveLayoutSource(ListedSource):
    """One image of a layout in an archive."""

    def __init__(
        self, members: ArchiveMembers, image: Descriptor | Alternatives, images: Sequence[ListedImage]
    ) -> None:
        super().__init__(members.place, ArchiveBlobs(members), image, images)
        self._members = members
        entries = [image] if isinstance(image, Descriptor) else image.entries
        self._files = [blob_name(entry.digest) for entry in entries]

    @property
    def has_image(self) -> bool:
        """Whether the archive has the image's manifest or index."""
        return any(file in self._members for file in self._files)

    def close(self) -> None:
        """Close the archive."""
        self._members.close()


class ArchiveBlobs:
    """Opens the blobs of a layout in an archive."""

    def __init__(self, members: ArchiveMembers) -> None:
        self._members = members

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        file = blob_name(descriptor.digest)
        if file not in self._members:
            hint = EXPECTED_HINT if BUNDLE_FILE in self._members else None
            raise NotFoundError(f"{self._members.place}: blob {descriptor.digest}: not in the archive", hint=hint)
        return self._members.open_file(file, offset)
