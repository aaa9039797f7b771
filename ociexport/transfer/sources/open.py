"""open_source(): from a source's name to the open source."""

from __future__ import annotations

import importlib
import os
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ociexport.errors import DigestMismatchError, NotFoundError, OciexportError, UsageError, quoted
from ociexport.images.source import ASKS, ASKS_AND_FETCHES, UNKNOWN, FirstRequest, ImageSource, shared_name
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.reference import ImageReference
from ociexport.storage.directory import ImageDirectory
from ociexport.storage.index import ListedImage, ListedSource, main_images, shown_name
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.ownership import owns_process
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    RemoteLayoutName,
    SourceName,
    parse_source_name,
)

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.options import RegistryOptions
    from ociexport.storage.archive.members import ArchiveMembers
    from ociexport.storage.remote_layout import RemoteLayout
    from ociexport.storage.s3.layout import S3Layout
    from ociexport.system.progress.protocol import Progress


def open_source(
    name: str | SourceName, *, options: RegistryOptions | None = None, progress: Progress | None = None
) -> ImageSource:
    """Return the source that ``name`` means; the caller closes it.

    Args:
        name: see `parse_source_name`.
        options: how registries are reached.
        progress: gets a line for each retry.

    Raises:
        NotFoundError: the layout, the archive or the image in it is missing. No error of a registry is raised yet.
        InvalidImageError: the path is not a layout or archive of images.
    """
    return open_source_early(name, options=options, progress=progress, first=ASKS)


def open_source_early(
    name: str | SourceName, *, options: RegistryOptions | None, progress: Progress | None, first: FirstRequest
) -> ImageSource:
    """Return the source that ``name`` means, as `open_source` does.

    Args:
        first: what is known of the first request.
    """
    if isinstance(name, str):
        name = parse_source_name(name)
    if isinstance(name, RegistryName):
        client = new_client(options, progress, name.reference, first)
        return _open_remote(name.reference, client, progress, owns_client=True)
    if isinstance(name, RemoteLayoutName):
        layout = open_remote_layout(name.path, options, progress)
        try:
            return converting(layout.open_image(name.image, owns_layout=True), progress)
        except BaseException:
            layout.close()
            raise
    return _open_local(name, progress)


class SourceOpener:
    """Opens sources for several threads of one run; those in registries share connections and logins.

    Args:
        options: how registries are reached.
        progress: gets a line for each retry.
    """

    def __init__(self, *, options: RegistryOptions | None = None, progress: Progress | None = None) -> None:
        self._options = options
        self._progress = progress
        self._lock = threading.Lock()
        self._client: RegistryClient | None = None
        self._archives: dict[str, ArchiveMembers] = {}
        self._listed: dict[SourceName, ListedSource] = {}
        self._opened_layouts: dict[str, int] = {}
        self._remote: dict[str, RemoteLayout] = {}

    def open(self, name: SourceName, first: FirstRequest | None = ASKS) -> ImageSource:
        """Return the source that ``name`` means; the caller closes it before this opener. Raises as `open_source`.

        Args:
            first: what is known of the first request; None if there may be none.
        """
        if isinstance(name, LayoutName) and name.image is not None:
            self._note_layout(name)
        if name in self._listed:
            return converting(self._listed[name], self._progress)
        if isinstance(name, ArchiveName) and name.path in self._archives:
            from ociexport.storage.archive.reader import open_image_in  # noqa: PLC0415 - start-up: as in `_open_local`
            from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: as above

            members = self._archives[name.path].kept_open()
            return converting(open_image_in(members, name.image, self._progress or SILENT), self._progress)
        if isinstance(name, RemoteLayoutName):
            return converting(self.remote_layout(name.path).open_image(name.image), self._progress)
        if not isinstance(name, RegistryName):
            return _open_local(name, self._progress)
        client = self._shared_client() if first is None else self._shared_client(name.reference, first)
        return _open_remote(name.reference, client, self._progress, owns_client=False)

    def remote_layout(self, url: str) -> RemoteLayout:
        """Return the layout at ``url``, whose ``index.json`` is fetched once for all its images."""
        client = None if url.startswith("s3:") else self._shared_client()
        with self._lock:
            if url not in self._remote:
                self._remote[url] = open_remote_layout(url, self._options, self._progress, client=client)
            return self._remote[url]

    def _shared_client(self, reference: ImageReference | None = None, first: FirstRequest = UNKNOWN) -> RegistryClient:
        with self._lock:
            if self._client is None:
                self._client = new_client(self._options, self._progress, reference, first)
            return self._client

    def name_each(self, name: SourceName, *, everything: bool) -> list[SourceName]:
        """Return a name for each image of the layout or archive ``name``; of any other source, ``name`` itself.

        The archive stays open, so that it is read once, also from standard input; that counts as one image unless
        ``everything`` is set, since a pipe of several is often a mistake.

        Args:
            everything: whether signatures and other companions count too if there are images beside them.

        Raises:
            as `list_layout_images` does.
        """
        if not isinstance(name, LayoutName | ArchiveName | RemoteLayoutName) or name.image is not None:
            return [name]
        if name.path == "-" and not everything:
            return [name]
        images, sources = self._list_images(name)
        wanted = images if everything else main_images(images)
        shown = Counter(shown_name(*image) for image in wanted)
        if len(shown) < 2:
            return [name]
        if not everything and not any(called.full or called.tag for _, called in wanted) and self._is_one(name):
            return [name]
        self._keep(name, sources, shown)
        return [replace(name, image=image) for image in shown]

    def _note_layout(self, name: LayoutName) -> None:
        """Read the index of a layout for all its images once a second one is opened."""
        with self._lock:
            count = self._opened_layouts[name.path] = self._opened_layouts.get(name.path, 0) + 1
            if count == 2 and name not in self._listed:
                with suppress(OciexportError, OSError):  # opening the image says what is wrong
                    images, sources = self._list_images(name)
                    self._keep(name, sources, Counter(shown_name(*image) for image in images))

    def _keep(
        self, name: LayoutName | ArchiveName | RemoteLayoutName, sources: Sequence[ListedSource], shown: Counter[str]
    ) -> None:
        """Keep the sources of images by the names and digests that only one entry has.

        These need no further search, which would read the index again for each image.
        """
        digests = Counter(source.descriptor.digest for source in sources)
        for source in sources:
            called, digest = shown_name(source.descriptor, source.image_name), source.descriptor.digest
            if shown[called] == 1:
                self._listed[replace(name, image=called)] = source
            if digests[digest] == 1:
                self._listed[replace(name, image=f"@{digest}")] = source

    def _is_one(self, name: LayoutName | ArchiveName | RemoteLayoutName) -> bool:
        """Whether images without names are one image for several platforms, as crane writes them."""
        try:
            with closing(self.open(name)) as source:
                shared = shared_name(source)
                if shared is not None:
                    shared.verify_is_one()
        except UsageError:
            return False
        return shared is not None

    def _list_images(
        self, name: LayoutName | ArchiveName | RemoteLayoutName
    ) -> tuple[Sequence[ListedImage], Sequence[ListedSource]]:
        """Return the images of a layout or an archive, and their sources if they are cheap to open."""
        if isinstance(name, RemoteLayoutName):
            from ociexport.storage.remote_layout import RemoteImage  # noqa: PLC0415 - start-up: few layouts are elsewhere

            remote = self.remote_layout(name.path)
            images = remote.read_images()
            return images, [RemoteImage(remote, descriptor, images) for descriptor, _ in images]
        if isinstance(name, LayoutName):
            layout = ImageLayout(name.path)
            images = layout.read_images()
            return images, [ListedSource(name.path, layout, descriptor, images) for descriptor, _ in images]
        from ociexport.storage.archive.members import ArchiveMembers  # noqa: PLC0415 - start-up: a layout does without
        from ociexport.storage.archive.reader import list_images_in, open_layout_images  # noqa: PLC0415 - start-up: as above

        if name.path not in self._archives:
            self._archives[name.path] = ArchiveMembers.open(name.path)
        members = self._archives[name.path]
        return list_images_in(members), open_layout_images(members.kept_open())

    def close(self) -> None:
        """Close all connections and archives."""
        for members in self._archives.values():
            members.close()
        for layout in self._remote.values():
            layout.close()
        if self._client is not None:
            self._client.close()


def _open_local(name: LayoutName | ArchiveName | DirectoryName, progress: Progress | None) -> ImageSource:
    if isinstance(name, DirectoryName):
        return converting(ImageDirectory(name.path), progress)
    if isinstance(name, ArchiveName):
        from ociexport.storage.archive.reader import open_archive_image  # noqa: PLC0415 - start-up: a layout does without
        from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: as above

        return converting(open_archive_image(name.path, name.image, progress or SILENT), progress)
    if not os.path.isdir(name.path):
        # A path that can't be read because of permissions raises that error, not "missing".
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(name.path)
        raise NotFoundError(f"{quoted(name.path)}: expected an OCI layout, there is no such directory")
    return converting(ImageLayout(name.path).open_image(name.image), progress)


def _open_remote(
    reference: ImageReference, client: RegistryClient, progress: Progress | None, *, owns_client: bool
) -> ImageSource:
    if not client.options.v1:
        from ociexport.registry.source import registry_source  # noqa: PLC0415 - start-up: as in `new_client`

        return converting(registry_source(client, reference, owns_client=owns_client), progress)
    from ociexport.registry.v1.source import V1Source  # noqa: PLC0415 - start-up: few speak v1

    return V1Source(reference, client, client.progress, owns_client=owns_client)


def first_request_into(layout: object, name: SourceName) -> FirstRequest:
    """Return what is known of the first request of a pull of ``name`` into a layout that exists."""
    tag = name.reference.tag if isinstance(name, RegistryName) and name.reference.digest is None else None
    if tag is None or not isinstance(name, RegistryName) or not isinstance(layout, ImageLayout):
        return UNKNOWN
    from ociexport.images.held_documents import read_listed  # noqa: PLC0415 - start-up: only a pull reads before it asks

    held = read_listed(layout, f"{name.reference.name}:{tag}")
    return FirstRequest(held=held.digest) if held is not None else ASKS_AND_FETCHES


def verify_digest(source: ImageSource, digest: Digest) -> None:
    """Return if a source on this machine still has the image with this digest; a registry is asked for it by digest.

    Raises:
        DigestMismatchError: it has another one.
    """
    found = source.fetch_manifest().digest
    if found != digest:
        raise DigestMismatchError(f"image {source.display_name}: digest mismatch: expected {digest}, got {found}")


def open_remote_layout(
    url: str, options: RegistryOptions | None, progress: Progress | None, *, client: RegistryClient | None = None
) -> RemoteLayout:
    """Return the layout at a URL; nothing is asked yet. The caller closes it.

    Args:
        options: how its server is reached.
        client: shares its connections with others; None for new ones.

    Raises:
        UsageError: the URL does not parse, its scheme is not allowed, or s3fs is not installed.
    """
    if url.startswith("s3:"):
        return open_s3_layout(url, options, progress)
    from ociexport.registry.web_layout import WebLayout  # noqa: PLC0415 - start-up: as in `new_client`

    return WebLayout(url, client or new_client(options, progress), owns_client=client is None)


def open_s3_layout(url: str, options: RegistryOptions | None, progress: Progress | None) -> S3Layout:
    """Return the layout in an object store, as a source or a destination. The caller closes it.

    Raises:
        UsageError: s3fs is not installed.
    """
    from ociexport.storage.s3.bucket import S3Options  # noqa: PLC0415 - start-up: few layouts are in S3
    from ociexport.storage.s3.layout import S3Layout  # noqa: PLC0415 - start-up: as above
    from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: as above

    if options is None:
        return S3Layout(url, None, progress or SILENT)
    verify: bool | str = str(options.ca_file) if options.ca_file is not None else True
    settings = S3Options(
        False if options.insecure else verify,
        options.retry_times,
        options.retry_delay_seconds,
        options.connect_timeout_seconds,
        options.read_timeout_seconds,
    )
    return S3Layout(url, settings, progress or SILENT)


def converting(source: ImageSource, progress: Progress | None) -> ImageSource:
    """Return a source around ``source`` that converts an image of Docker's schema 1."""
    from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: only some runs need it
    from ociexport.transfer.sources.convert import ConvertingSource  # noqa: PLC0415 - start-up: as above

    return ConvertingSource(source, progress or SILENT)


def new_client(
    options: RegistryOptions | None,
    progress: Progress | None,
    reference: ImageReference | None = None,
    first: FirstRequest = UNKNOWN,
) -> RegistryClient:
    """Return a client for registries; the caller closes it.

    Args:
        reference: of an image whose registry is asked first; the command connects to it while the client is imported.
        first: what is known of the first request.
    """
    early = None
    # Another program's process expects no threads and no connections before it asks for something.
    if reference is not None and options is not None and owns_process():
        from ociexport.registry.early import begin_early  # noqa: PLC0415 - start-up: an image on disk does without

        early = begin_early(reference, options, first)
    try:
        # Importing the client takes a tenth of a second, which a layout need not pay. requests comes first, while few
        # imports are under way: where a row of calls grows into another block of 16 KiB, Python takes that block from
        # the system and gives it back with each call. Compiling urllib3's patterns there took three times as long.
        importlib.import_module("ociexport.registry.http")
        from ociexport.registry.client import RegistryClient  # noqa: PLC0415 - start-up: as above
        from ociexport.registry.options import DEFAULT_OPTIONS  # noqa: PLC0415 - start-up: as above
        from ociexport.system.progress.protocol import SILENT  # noqa: PLC0415 - start-up: as above

        return RegistryClient(options or DEFAULT_OPTIONS, progress or SILENT, early)
    except BaseException:
        if early is not None:
            early.close()
        raise
