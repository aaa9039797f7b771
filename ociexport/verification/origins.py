"""Where a layout's blobs came from, and so can be had again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from ociexport import mediatypes
from ociexport.archive_members import ArchiveMembers
from ociexport.digest import ByteStream
from ociexport.documents import Descriptor
from ociexport.errors import (
    AuthenticationError,
    InvalidReferenceError,
    NotFoundError,
    OciexportError,
    RateLimitError,
    TransferError,
    quoted,
)
from ociexport.layout import ImageLayout
from ociexport.progress import SILENT, Progress
from ociexport.reference import ImageReference
from ociexport.source_names import ArchiveName, LayoutName, RegistryName, SourceOpener, parse_source_name
from ociexport.sources import BlobOpener, ImageName, ImageSource
from ociexport.verification.archives import read_archive_roots
from ociexport.verification.findings import Findings
from ociexport.verification.stores import INDEX_FILE, ArchiveStore

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# A manifest without a type stands in indexes of old tools.
_MANIFESTS = mediatypes.INDEXES | mediatypes.MANIFESTS | mediatypes.SCHEMA1_MANIFESTS | {""}


@dataclass(slots=True)
class Origin:
    """Something that blobs can be had from.

    Args:
        place: how messages call it.
        openers: asked one after another.
        failure: why it is not to be asked again; None while it answers.
    """

    place: str
    openers: Sequence[BlobOpener]
    failure: OciexportError | None = field(default=None)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return a blob's or document's bytes; the last opener's error is raised where none has it.

        Who could not be reached is not tried again for other blobs, each of which would cost all retries.
        """
        if self.failure is not None:
            raise self.failure
        *others, last = self.openers
        for opener in others:
            with suppress(NotFoundError):
                return opener.open_blob(descriptor, offset)
        try:
            return last.open_blob(descriptor, offset)
        except (AuthenticationError, RateLimitError, TransferError) as error:
            self.failure = error
            raise


class Origins:
    """What blobs can be had from: what the user says, and the registries that images are called after.

    Args:
        wanted: sources by name or open; those that are open stay so.
        registry: how registries are reached.
        progress: told of retries.

    Raises:
        NotFoundError, InvalidImageError, UsageError: one of ``wanted`` is not there, or not what its name says.
    """

    def __init__(
        self,
        wanted: Iterable[str | os.PathLike[str] | ImageSource],
        *,
        registry: RegistryOptions | None,
        progress: Progress,
    ) -> None:
        self._stack = ExitStack()
        self._opener = self._stack.enter_context(closing(SourceOpener(options=registry, progress=progress)))
        self._named: dict[str, Origin] = {}
        try:
            self._wanted = [self._open(source) for source in wanted]
        except BaseException:
            self.close()
            raise

    def of(self, names: Iterable[ImageName]) -> list[Origin]:
        """Return what to ask for what belongs to images of these names, in order."""
        found = list(self._wanted)
        for name in names:
            # Others write names too, and what is no reference was told by the verification.
            with suppress(InvalidReferenceError):
                if name.full is not None:
                    found.append(self._of_reference(ImageReference.parse(name.full)))
        return found

    def close(self) -> None:
        """Close connections and files."""
        self._stack.close()

    def _of_reference(self, reference: ImageReference) -> Origin:
        known = self._named.get(str(reference))
        if known is None:
            source = self._stack.enter_context(closing(self._opener.open(RegistryName(reference))))
            known = self._named[str(reference)] = Origin(str(reference), [_AnyOfImage(source)])
        return known

    def _open(self, source: str | os.PathLike[str] | ImageSource) -> Origin:
        if not isinstance(source, str | os.PathLike):
            return Origin(source.display_name, [_AnyOfImage(source)])
        name = parse_source_name(os.fspath(source))
        if isinstance(name, LayoutName) and name.image is None:
            if not os.path.isdir(os.path.join(name.path, "blobs")):
                raise NotFoundError(f"{quoted(name.path)}: expected an OCI layout, there is none")
            return Origin(name.path, [ImageLayout(name.path)])
        if isinstance(name, ArchiveName) and name.image is None:
            return self._open_archive(name.path)
        opened = self._stack.enter_context(closing(self._opener.open(name)))
        return Origin(opened.display_name, [_AnyOfImage(opened)])

    def _open_archive(self, path: str) -> Origin:
        members = self._stack.enter_context(closing(ArchiveMembers.open(path)))
        if INDEX_FILE in members:
            return Origin(members.place, [ArchiveStore(members).opener])
        # Docker's archives have no digests but those of what is made of them.
        roots = read_archive_roots(members, Findings(), SILENT)
        return Origin(members.place, [_AnyOfImage(root.source) for root in roots] or [ArchiveStore(members).opener])


class _AnyOfImage:
    """Opens whatever belongs to an image: a registry keeps manifests and blobs apart."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        if descriptor.media_type not in _MANIFESTS:
            try:
                return self._source.open_blob(descriptor, offset)
            except NotFoundError:
                # What an index names may be of any type.
                if descriptor.media_type in mediatypes.IMAGE_CONFIGS or mediatypes.is_layer(descriptor.media_type):
                    raise
        return BytesIO(self._source.fetch_manifest(descriptor).raw[offset:])
