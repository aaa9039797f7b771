"""Origins of a layout's blobs: sources that the user names, and no address that only the layout contains."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from io import BytesIO
from typing import TYPE_CHECKING

from ociexport.errors import (
    AuthenticationError,
    InvalidReferenceError,
    NotFoundError,
    OciexportError,
    RateLimitError,
    TransferError,
    UsageError,
    printable,
    quoted,
)
from ociexport.images.source import BlobOpener, ImageName, ImageSource
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.reference import ImageReference, names_registry
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.layout.documents import INDEX_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.names import (
    ArchiveName,
    LayoutName,
    RegistryName,
    has_transport,
    parse_source_name,
    source_text,
)
from ociexport.transfer.sources.open import SourceOpener
from ociexport.verification.archives import read_archive_roots
from ociexport.verification.findings import Findings
from ociexport.verification.stores import ArchiveStore

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# Old tools list manifests without a media type.
_MANIFESTS = mediatypes.INDEXES | mediatypes.MANIFESTS | mediatypes.SCHEMA1_MANIFESTS | {""}


@dataclass(slots=True)
class Origin:
    """A place to fetch blobs from.

    Args:
        place: its name in messages.
        openers: tried one after another.
        failure: why it is not tried again; None while it answers.
    """

    place: str
    openers: Sequence[BlobOpener]
    failure: OciexportError | None = field(default=None)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the bytes of a blob or document. If no opener has it, the last one's error is raised.

        An origin that cannot be reached is not tried again for other blobs, since each attempt costs all retries.
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
    """The origins that the user allows.

    A layout may come from a stranger. The full names in its ``index.json`` are addresses of any host, including
    services of this network. They are asked only if the user names their registry, as in ``registry.example/``, or a
    part of it, as in ``registry.example/team/``.

    Args:
        wanted: names of sources, open sources, which stay open, and registries whose images may be fetched.
        registry: options for reaching registries.
        progress: receives retries.

    Raises:
        NotFoundError, InvalidImageError, UsageError: one of ``wanted`` does not exist, or is of another kind.
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
        self._allowed: list[str] = []
        self._wanted: list[Origin] = []
        try:
            for source in wanted:
                if (prefix := _registry_part(source)) is not None:
                    self._allowed.append(prefix)
                else:
                    self._wanted.append(self._open(source))
        except BaseException:
            self.close()
            raise

    def of(self, names: Iterable[ImageName]) -> list[Origin]:
        """Return the origins for blobs of images with these names, in order."""
        allowed = [reference for reference in _references(names) if self._allows(reference)]
        found = list(self._wanted)
        for origin in map(self._of_reference, allowed):
            if not any(origin is other for other in found):
                found.append(origin)
        return found

    def not_allowed(self, names: Iterable[ImageName]) -> list[ImageReference]:
        """Return the names that could be fetched if the user allowed it."""
        return [reference for reference in _references(names) if not self._allows(reference)]

    def _allows(self, reference: ImageReference) -> bool:
        return str(reference) in self._named or f"{reference.name}/".startswith(tuple(self._allowed))

    def close(self) -> None:
        """Close connections and files."""
        self._stack.close()

    def _of_reference(self, reference: ImageReference) -> Origin:
        known = self._named.get(str(reference))
        if known is None:
            source = self._stack.enter_context(closing(self._opener.open(RegistryName(reference), None)))
            known = self._named[str(reference)] = Origin(str(reference), [_AnyOfImage(source)])
        return known

    def _open(self, source: str | os.PathLike[str] | ImageSource) -> Origin:
        if not isinstance(source, str | os.PathLike):
            return Origin(source.display_name, [_AnyOfImage(source)])
        name = parse_source_name(source_text(source))
        if isinstance(name, LayoutName) and name.image is None:
            if not os.path.isdir(os.path.join(name.path, "blobs")):
                raise NotFoundError(f"{quoted(name.path)}: expected an OCI layout, found none")
            return Origin(name.path, [ImageLayout(name.path)])
        if isinstance(name, ArchiveName) and name.image is None:
            return self._open_archive(name.path)
        if isinstance(name, RegistryName):
            return self._of_reference(name.reference)
        opened = self._stack.enter_context(closing(self._opener.open(name, None)))
        return Origin(opened.display_name, [_AnyOfImage(opened)])

    def _open_archive(self, path: str) -> Origin:
        members = self._stack.enter_context(closing(ArchiveMembers.open(path)))
        if INDEX_FILE in members:
            return Origin(members.place, [ArchiveStore(members).opener])
        # Docker's archives have no digests of their own; only the manifests made from them have.
        roots = read_archive_roots(members, Findings(), SILENT)
        return Origin(members.place, [_AnyOfImage(root.source) for root in roots] or [ArchiveStore(members).opener])


def _references(names: Iterable[ImageName]) -> Iterator[ImageReference]:
    """Yield the full names that are references. The verification reports the others."""
    for name in names:
        with suppress(InvalidReferenceError):
            if name.full is not None:
                yield ImageReference.parse(name.full)


def _registry_part(source: str | os.PathLike[str] | ImageSource) -> str | None:
    """Return the registry, or the part of it, that ``source`` names; None for a source of blobs.

    Raises:
        InvalidReferenceError: no image name can begin with it.
        UsageError: a directory has the same name.
    """
    if not isinstance(source, str) or not source.endswith("/") or not names_registry(source):
        return None
    if source.startswith((".", "/")) or has_transport(source):
        return None
    if os.path.isdir(source):
        raise UsageError(
            f"source {quoted(source)}: expected a registry, there is a directory of that name too",
            hint=f"./{printable(source)} is the directory",
        )
    return ImageReference.parse(f"{source}x/x").name.removesuffix("x/x")


class _AnyOfImage:
    """Opens blobs and manifests of an image, which a registry serves at different URLs."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        if descriptor.media_type not in _MANIFESTS:
            try:
                return self._source.open_blob(descriptor, offset)
            except NotFoundError:
                # An index may reference documents of any type.
                if descriptor.media_type in mediatypes.IMAGE_CONFIGS or mediatypes.is_layer(descriptor.media_type):
                    raise
        return BytesIO(self._source.fetch_manifest(descriptor).raw[offset:])
