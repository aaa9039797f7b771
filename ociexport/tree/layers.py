"""unpack(): layers in order, whiteouts, diff_ids."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from ociexport.digest import Digest
from ociexport.documents import ImageConfig, Layer, Platform
from ociexport.errors import InvalidImageError, OciexportError
from ociexport.platforms import host_platform
from ociexport.progress import SILENT, Progress
from ociexport.resolve import read_layers, resolve_manifest
from ociexport.sources import ImageSource
from ociexport.tree.accounts import Account, find_account
from ociexport.tree.bundle import runtime_config
from ociexport.tree.entries import Entry, EntryType, TarReader
from ociexport.tree.layerstream import LayerStream
from ociexport.tree.limits import Limits
from ociexport.tree.metadata import IdMap, Losses, MetadataPolicy, MetadataWriter, XattrMode
from ociexport.tree.paths import (
    OPAQUE_WHITEOUT,
    WHITEOUT_META_PREFIX,
    WHITEOUT_PREFIX,
    ImagePath,
    parse_image_path,
    quoted_path,
)
from ociexport.tree.preflight import missing_features, verify_room
from ociexport.tree.rootfs import Rootfs
from ociexport.tree.selection import PathSelection
from ociexport.tree.staging import staged_directory, verify_is_vacant

# What the kernel says to names and links that only an archive can have brought, not the disk.
_ARCHIVE_ERRORS = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How a tree is to be made.

    Args:
        keep_dirlinks: a directory entry over a link to a directory keeps the link.
        holes: blocks of zeros in files become holes.
        xattrs: what becomes of attributes that the file system refuses.
        placeholder_devices: where devices can't be made, empty files stand in for them.
        uid_map: None for the image's ids.
        gid_map: the same for groups.
        limits: how large the tree may be.
        use_openat2: None for wherever the kernel has it.
        selection: which paths are unpacked; None for all.
        replace: a root filesystem that is there gives way when the new one is complete.
        preflight: whether room and features of the file system are looked at first.
        bundle: an OCI runtime bundle is made: the tree is ``rootfs`` in it, beside ``config.json``.
        find_account: whether the result tells whom the config's User means in the tree; a name that is not there is an
            error then, as it is for a bundle.
    """

    keep_dirlinks: bool = False
    holes: bool = False
    xattrs: XattrMode = XattrMode.WARN
    placeholder_devices: bool = False
    uid_map: IdMap | None = None
    gid_map: IdMap | None = None
    limits: Limits = field(default_factory=Limits)
    use_openat2: bool | None = None
    selection: PathSelection | None = None
    replace: bool = False
    preflight: bool = True
    bundle: bool = False
    find_account: bool = False


@dataclass(frozen=True, slots=True)
class UnpackResult:
    """What was unpacked.

    Args:
        index_digests: of the indexes that led to the manifest, outermost first.
        manifest_digest: of the platform's manifest.
        config: of the image.
        layers: with their diff_ids, lowest first.
        entries: of all layers, whiteouts included.
        tar_bytes: of all layers, uncompressed.
        losses: what the tree lacks, counted.
        account: whom the config's User means in the tree; None where nobody asked (a bundle and run files do).
    """

    index_digests: tuple[Digest, ...]
    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[Layer, ...]
    entries: int
    tar_bytes: int
    losses: Losses
    account: Account | None

    @property
    def config_digest(self) -> Digest:
        """docker's image ID."""
        return self.config.digest

    @property
    def platform(self) -> Platform:
        """What the image says it is for."""
        return self.config.platform


def unpack(
    image: str | ImageSource,
    rootfs: str | os.PathLike[str],
    *,
    platform: Platform | None = None,
    options: UnpackOptions | None = None,
    progress: Progress = SILENT,
) -> UnpackResult:
    """Make ``rootfs`` the root filesystem of ``image``: every layer applied in order and proven by its diff_id.

    The tree is built beside ``rootfs`` and renamed into place when it is complete; after an error ``rootfs`` is as it
    was. An ordinary user gets a tree that is all theirs; what was lost is in the result and told to ``progress``.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        rootfs: path that is absent or an empty directory; its parent exists.
        platform: of several the one to take; None for this machine's.
        options: how the tree is to be made.
        progress: told what goes on.

    Raises:
        UsageError: ``rootfs`` is in use.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: a document, blob or tar breaks the specification, its digest or a limit.
        OSError: the disk or file system.

    Spec: image-spec 1.1 layer.md, "Applying Changesets"; config.md, "rootfs".
    """
    target = os.fspath(rootfs)
    platform, options = platform or host_platform(), options or UnpackOptions()
    verify_is_vacant(os.path.realpath(target), replace=options.replace)
    if not isinstance(image, str):
        return _unpack_source(image, target, platform, options, progress)
    from ociexport.source_names import open_source  # noqa: PLC0415 - loads the wire, which an open source needs not

    with closing(open_source(image)) as source:
        return _unpack_source(source, target, platform, options, progress)


def _unpack_source(
    source: ImageSource, target: str, platform: Platform, options: UnpackOptions, progress: Progress
) -> UnpackResult:
    resolved = resolve_manifest(source, platform)
    manifest = resolved.manifest
    config, layers = read_layers(source, manifest)
    progress.say(f"{source.display_name}: platform {config.platform}, {len(layers)} layers")
    losses = Losses()
    with staged_directory(target, replace=options.replace) as staged, _tree_directory(staged.fd, options) as root_fd:
        metadata = MetadataWriter(
            MetadataPolicy(os.geteuid() == 0, options.xattrs, options.uid_map, options.gid_map),
            natural_owner=staged.natural_owner,
            masked_bits=staged.masked_bits,
            losses=losses,
        )
        tree = Rootfs(
            root_fd,
            metadata,
            keep_dirlinks=options.keep_dirlinks,
            holes=options.holes,
            use_openat2=options.use_openat2,
        )
        if options.preflight:
            _look_before(root_fd, layers, target, options, progress)
        with closing(tree), _naming_target(target):
            applier = _LayerApplier(tree, options, losses)
            for layer, stream in _streams_ahead(source, layers, progress, options.limits):
                with locating_layer(layer, stream):
                    applier.apply(stream)
            tree.finish()
        account = None
        if options.bundle or options.find_account:
            account = find_account(root_fd, config.container.user)
        if options.bundle and account is not None:
            _write_config_file(staged.fd, runtime_config(config, account))
    for line in losses.lines():
        progress.warn(line)
    return UnpackResult(
        index_digests=tuple(index.digest for index in resolved.indexes),
        manifest_digest=manifest.digest,
        config=config,
        layers=layers,
        entries=applier.entries,
        tar_bytes=applier.tar_bytes,
        losses=losses,
        account=account,
    )


@contextmanager
def _tree_directory(staged_fd: int, options: UnpackOptions) -> Iterator[int]:
    """Give a descriptor of the directory that the tree is built in: the staged one, or a bundle's ``rootfs`` in it."""
    if not options.bundle:
        yield staged_fd
        return
    os.mkdir("rootfs", 0o700, dir_fd=staged_fd)
    root_fd = os.open("rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staged_fd)
    try:
        yield root_fd
    finally:
        os.close(root_fd)


def _write_config_file(bundle_fd: int, content: bytes) -> None:
    fd = os.open("config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=bundle_fd)
    with open(fd, "wb") as file:
        file.write(content)
    os.fchmod(bundle_fd, 0o755)


def _look_before(fd: int, layers: tuple[Layer, ...], target: str, options: UnpackOptions, progress: Progress) -> None:
    """Refuse what can't fit, and say what the file system can't keep, before anything is written."""
    if options.selection is None:  # of a part nobody knows the size
        verify_room(fd, layers, target)
    for line in missing_features(fd):
        progress.warn(f"{target}: {line}")


def _streams_ahead(
    source: ImageSource, layers: tuple[Layer, ...], progress: Progress, limits: Limits
) -> Iterator[tuple[Layer, LayerStream]]:
    """Yield each layer's stream; while one is applied, the next is already being fetched and inflated."""
    with ExitStack() as stack:
        following: LayerStream | None = None
        for number, layer in enumerate(layers):
            stream = following or stack.enter_context(closing(LayerStream(source, layer, progress, limits)))
            following = None
            if number + 1 < len(layers):
                following = stack.enter_context(closing(LayerStream(source, layers[number + 1], progress, limits)))
            yield layer, stream
            stream.close()


@contextmanager
def locating_layer(layer: Layer, stream: LayerStream) -> Iterator[None]:
    """Say of an error which layer it is about, and look first whether the blob is what it should be at all."""
    try:
        try:
            yield
        except InvalidImageError as error:
            stream.verify_blob_after(error)
            raise
    except InvalidImageError as error:
        error.add_place(str(layer))
        raise


@contextmanager
def _naming_target(target: str) -> Iterator[None]:
    """Give errors of the disk a place, since those of descriptors have none."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OciexportError):
            raise
        names = [os.fsdecode(name) for name in (error.filename,) if isinstance(name, str | bytes)]
        error.filename = os.path.join(target, *names)
        raise


class _LayerApplier:
    """Applies layers to a tree, one after another."""

    def __init__(self, tree: Rootfs, options: UnpackOptions, losses: Losses) -> None:
        self._tree = tree
        self._limits = options.limits
        self._placeholder_devices = options.placeholder_devices
        self._selection = options.selection
        self._losses = losses
        self.entries = 0
        self.tar_bytes = 0

    def apply(self, stream: LayerStream) -> None:
        """Apply one layer's changes and verify that they were the right ones.

        Whiteouts hide only what lower layers left, wherever they stand in the tar.

        Raises:
            UnsafeEntryError: an entry would act outside the tree; that entry was not applied.
            DigestMismatchError: known only at the end, so the tree is then spoilt; the caller discards it.

        Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
        """
        self._tree.begin_layer()
        reader = TarReader(iter(stream), max_extended_header_bytes=self._limits.max_extended_header_bytes)
        for entry in reader:
            self.entries += 1
            self._limits.verify_totals(self.entries, self.tar_bytes + stream.tar_bytes)
            try:
                self._apply_entry(entry, reader)
            except InvalidImageError as error:
                if error is not stream.failure:
                    error.add_place(f"entry {quoted_path(entry.name)}")
                raise
            except OSError as error:
                if error.errno not in _ARCHIVE_ERRORS:
                    error.filename = error.filename or entry.name
                    raise
                raise InvalidImageError(f"entry {quoted_path(entry.name)}: {error.strerror}") from error
        reader.drain()
        stream.verify_diff_id()
        self.tar_bytes += stream.tar_bytes

    def _apply_entry(self, entry: Entry, reader: TarReader) -> None:
        name = entry.name
        if len(name) > 256:
            self._limits.verify_path(name)
        path = parse_image_path(name)
        if path.find(WHITEOUT_PREFIX) >= 0 and self._apply_whiteout(path):
            return
        if self._selection is not None and not self._selection.takes(path):
            return
        kind = entry.type
        if kind is EntryType.FILE:
            self._tree.write_file(path, entry, reader.read_data())
        elif kind is EntryType.DIRECTORY:
            self._tree.make_directory(path, entry)
        elif kind is EntryType.SYMLINK:
            self._tree.make_symlink(path, entry)
        elif kind is EntryType.HARD_LINK:
            self._make_hard_link(path, parse_image_path(entry.link_name))
        else:
            self._make_device(path, entry)

    def _apply_whiteout(self, path: ImagePath) -> bool:
        """Hide what a whiteout says; returns False for an ordinary path that only looks like one.

        Spec: image-spec 1.1 layer.md, "Whiteouts", "Opaque Whiteout".
        """
        parent, slash, name = path.rpartition(b"/")
        if name == OPAQUE_WHITEOUT:
            self._tree.hide_children(ImagePath(parent))
            return True
        if any(part.startswith(WHITEOUT_META_PREFIX) for part in path.split(b"/")):
            return True  # AUFS's own bookkeeping, which means nothing elsewhere
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise InvalidImageError("whiteout: expected a name after '.wh.', got none")
        self._tree.hide(ImagePath(parent + slash + hidden))
        return True

    def _make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        if self._selection is not None and not self._selection.takes(target):
            # The file's content went by under a name that was not wanted.
            self._losses.hard_links += 1
            return
        self._tree.make_hard_link(path, target)

    def _make_device(self, path: ImagePath, entry: Entry) -> None:
        try:
            self._tree.make_device(path, entry)
        except PermissionError:
            if not self._placeholder_devices:
                self._losses.devices += 1
                return
            self._tree.write_file(path, entry, iter(()))
            self._losses.placeholders += 1
