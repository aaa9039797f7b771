"""unpack(): applies the layers of an image in order, with their whiteouts, and verifies their diff_ids.

This is one long file, since options, results and steps of the one function are read together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, UsageError
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.selection import PathSelection
from ociexport.rootfs.chosen_image import ChosenImage, ImageResult, choose_image
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY
from ociexport.rootfs.disk.metadata import IdMap, MetadataPolicy, MetadataWriter, XattrMode
from ociexport.rootfs.disk.place import verify_is_vacant
from ociexport.rootfs.disk.preparation import look_before, losses_of, naming_target
from ociexport.rootfs.disk.rights import may_set_owners
from ociexport.rootfs.disk.staging import staged_directory
from ociexport.rootfs.disk.tree import Rootfs
from ociexport.rootfs.outputs.formats import TREE, DiskImageOptions, format_named, verify_target
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.platforms import host_platform
from ociexport.system.files import new_file, sync_directory
from ociexport.system.host_paths import real_target, verify_outside
from ociexport.system.progress.protocol import SILENT, Progress

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions
    from ociexport.rootfs.disk.owners import OwnersFile
    from ociexport.rootfs.outputs.disk_image import DiskImage
    from ociexport.rootfs.reuse import KeptTree
    from ociexport.rootfs.run.accounts import Account


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How a tree is made.

    Args:
        keep_dirlinks: a directory entry over a link to a directory keeps the link.
        holes: blocks of zeros in files become holes.
        xattrs: how attributes that the file system refuses are handled.
        placeholder_devices: empty files replace devices that can't be made.
        uid_map: None for the image's ids.
        gid_map: the same for groups.
        limits: how large the tree may be.
        use_openat2: None to use it if the kernel has it.
        selection: which paths are unpacked; None for all.
        replace: an existing root filesystem is replaced when the new one is complete.
        sync: the tree is synced to disk before it is renamed into place, and the rename before an old tree is removed.
        preflight: whether free space and features of the file system are checked first.
        bundle: makes an OCI runtime bundle: the tree is ``rootfs`` in it, beside ``config.json``.
        find_account: whether the result includes the account that the config's User names; as for a bundle, a name
            that the tree does not have is then an error.
        owners_file: path of an mtree specification to write, with the owners that the image declares; None for none.
        rootless: also root unpacks as an ordinary user does: all files belong to this user, the image's owners are
            recorded in attributes, and no devices are made. Root that may not give files away does so in any case.
        receipt: with ``replace``, path of the receipt of the old tree. If it proves that the old tree has the lower
            layers of the image unchanged, only the other layers are applied, to a copy; see `reuse`.
        format: ``tree`` for a directory; of any other, the root filesystem becomes one file: any user stores owners and
            devices, SOURCE_DATE_EPOCH replaces newer times, and options that concern only a tree have no effect.
        disk_image: how a disk image is written.
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
    sync: bool = False
    preflight: bool = True
    bundle: bool = False
    find_account: bool = False
    owners_file: str | None = None
    rootless: bool = False
    receipt: str | None = None
    format: str = TREE
    disk_image: DiskImageOptions = field(default_factory=DiskImageOptions)


@dataclass(frozen=True, slots=True)
class UnpackResult(ImageResult):
    """What was unpacked.

    Args:
        account: that the config's User names in the tree; None unless a bundle or `find_account` was requested.
        made: in words, how the tree was made; None for a way in which it can't be kept for a later image.
        kept_layers: number of layers that were in the old tree, and were not read.
        disk_image: its size and hash tree; None for a tree.
    """

    account: Account | None
    made: str | None = None
    kept_layers: int = 0
    disk_image: DiskImage | None = None

    @property
    def config_digest(self) -> Digest:
        """The config's digest, which docker calls the image ID."""
        return self.config.digest

    @property
    def platform(self) -> Platform:
        """The platform that the image's config declares."""
        return self.config.platform


def unpack(
    image: str | ImageSource,
    rootfs: str | os.PathLike[str],
    *,
    platform: Platform | None = None,
    options: UnpackOptions | None = None,
    progress: Progress = SILENT,
    registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
) -> UnpackResult:
    """Make ``rootfs`` the root filesystem of ``image``: every layer is applied in order and verified by its diff_id.

    The tree is built beside ``rootfs`` and renamed into place when it is complete; after an error ``rootfs`` is
    unchanged. An ordinary user owns the whole tree; losses are in the result and reported to ``progress``.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        rootfs: path that is absent or an empty directory; its parent exists. A disk image replaces a file.
        platform: to choose from an index; None for this machine's.
        options: how the tree, or the disk image in its place, is made.
        progress: receives messages and progress.
        registry: how registries are reached, for an image that is given by name.
        signatures: which signatures the image must have.

    Raises:
        UsageError: ``rootfs`` is in use or a link to nothing, or owners can't be set as requested.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not available.
        InvalidImageError: a document, blob or tar breaks the specification, its digest or a limit.
        SignatureError: the image lacks a signature that ``signatures`` requires; nothing was written.
        OSError: the disk or file system failed.

    Spec: image-spec 1.1 layer.md, "Applying Changesets"; config.md, "rootfs".
    """
    target = os.fspath(rootfs)
    platform, options = platform or host_platform(), options or UnpackOptions()
    if options.format == TREE:
        unpack_source = _unpack_source
        _verify_tree_target(target, options)
    else:
        unpack_source = _unpack_to_file
        chosen = format_named(options.format)
        verify_target(target, chosen)
        chosen.complete(options.disk_image, target)
    if not isinstance(image, str):
        return unpack_source(signed(image, signatures), target, platform, options, progress)
    from ociexport.transfer.sources.open import open_source  # noqa: PLC0415 - start-up: loads the registry code, which an open source does not need

    with closing(open_source(image, options=registry, progress=progress)) as source:
        return unpack_source(signed(source, signatures), target, platform, options, progress)


def _verify_tree_target(target: str, options: UnpackOptions) -> None:
    if options.uid_map or options.gid_map:
        if options.rootless:
            raise UsageError("id maps: expected owners to be set, got --rootless, which sets none")
        if os.geteuid() != 0:
            raise _no_root_for_maps()
    place = real_target(target)
    verify_is_vacant(place, replace=options.replace)
    if options.owners_file is not None:
        verify_outside(options.owners_file, place, "--owners")


def _unpack_to_file(
    source: ImageSource, target: str, platform: Platform, options: UnpackOptions, progress: Progress
) -> UnpackResult:
    from ociexport.rootfs.outputs.disk_image import DiskImageRequest, write_disk_image  # noqa: PLC0415 - start-up: a tree does without

    request = DiskImageRequest(
        format=format_named(options.format),
        options=options.disk_image,
        platform=platform,
        limits=options.limits,
        selection=options.selection,
        keep_dirlinks=options.keep_dirlinks,
        uid_map=options.uid_map,
        gid_map=options.gid_map,
        xattrs=options.xattrs,
        preflight=options.preflight,
    )
    content, disk_image = write_disk_image(source, target, request, progress)
    if options.sync and disk_image.size is not None:
        sync_directory(os.path.dirname(target) or ".")
    for line in content.losses.lines():
        progress.warn(line)
    return UnpackResult(
        content.index_digests,
        content.manifest_digest,
        content.config,
        content.layers,
        content.entries,
        content.tar_bytes,
        content.losses,
        account=None,
        disk_image=disk_image,
    )


def signed(source: ImageSource, policy: SignaturePolicy | None) -> ImageSource:
    if policy is None:
        return source
    from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: few runs require signatures

    return require_signature(source, policy)


def _unpack_source(
    source: ImageSource, target: str, platform: Platform, options: UnpackOptions, progress: Progress
) -> UnpackResult:
    receipt = options.receipt if options.replace else None
    # A kept tree may have the first layer.
    image = choose_image(source, platform, progress, reads_first_layer=receipt is None)
    if receipt is not None:
        from ociexport.rootfs.reuse import kept_tree  # noqa: PLC0415 - start-up: few runs replace a tree with a receipt

        kept = kept_tree(receipt, target, image.layers, made=_made(options), progress=progress)
        if kept is not None:
            with closing(kept):
                if kept.layers == len(image.layers):
                    return _unchanged(image, options, progress, kept)
                try:
                    return _build(source, image, target, options, progress, kept=kept)
                except InvalidImageError as error:
                    progress.say(f"{target}: all layers are unpacked: {error}")
    return _build(source, image, target, options, progress)


def _made(options: UnpackOptions) -> str | None:
    """Return in words how a tree is made; None for a way in which it is not kept."""
    if options.selection or options.bundle or options.owners_file or options.uid_map or options.gid_map:
        return None
    switches = (options.keep_dirlinks, options.holes, options.placeholder_devices, options.rootless)
    names = ("keep-dirlinks", "sparse", "placeholders", "rootless")
    words = (f"user={os.geteuid()}", f"xattrs={options.xattrs.value}")
    return " ".join((*words, *(name for name, value in zip(names, switches, strict=True) if value)))


def _build(
    source: ImageSource,
    image: ChosenImage,
    target: str,
    options: UnpackOptions,
    progress: Progress,
    *,
    kept: KeptTree | None = None,
) -> UnpackResult:
    new_layers = image.layers[kept.layers :] if kept is not None else image.layers
    losses = losses_of(is_rootless=options.rootless)
    budget = NameBudget(options.limits)
    with (
        _owners_file(options, budget) as owners,
        staged_directory(target, replace=options.replace, sync=options.sync) as staged,
        _tree_directory(staged.fd, options) as root_fd,
    ):
        policy = _policy_for(root_fd, options)
        metadata = MetadataWriter(
            policy,
            natural_owner=staged.natural_owner,
            masked_bits=staged.masked_bits,
            losses=losses,
            record=None if owners is None else owners.record,
        )
        tree = Rootfs(
            root_fd,
            metadata,
            budget=budget,
            keep_dirlinks=options.keep_dirlinks,
            holes=options.holes,
            devices=not options.rootless,
            max_depth=options.limits.max_depth,
            max_steps=options.limits.max_steps,
            max_copied_bytes=options.limits.max_bytes,
            use_openat2=options.use_openat2,
        )
        if options.preflight:
            look_before(
                root_fd,
                new_layers if options.selection is None else (),  # the size of a part is not known beforehand
                target,
                progress,
                sets_owners=policy.set_owners,
                is_rootless=options.rootless,
                with_xattrs=options.xattrs is not XattrMode.NONE,
            )
        with closing(tree), naming_target(target, root_fd):
            applier = LayerApplier(
                tree,
                options.limits,
                losses,
                selection=options.selection,
                # Until the owners file is written, each device needs a file in the tree.
                placeholder_devices=options.placeholder_devices or owners is not None,
            )
            if kept is not None:
                kept.copy_into(tree, losses, with_owners=policy.set_owners)
                applier.entries, applier.tar_bytes = kept.entries, kept.tar_bytes
            applier.apply_some(source, new_layers, progress, doing="unpacking")
            applier.finish(tree)
            if owners is not None:
                owners.write(tree, losses, are_owners_kept=policy.keeps_owners)
            tree.finish()
        account = None
        if options.bundle or options.find_account:
            from ociexport.rootfs.run.accounts import find_account  # noqa: PLC0415 - start-up: a plain tree needs no account

            account = find_account(root_fd, image.config.container.user)
        if options.bundle and account is not None:
            from ociexport.rootfs.run.bundle import write_runtime_config  # noqa: PLC0415 - start-up: as above

            write_runtime_config(staged.fd, image.config, account)
    counts = (applier.entries, applier.tar_bytes)
    return _result(image, options, progress, losses, counts=counts, account=account, kept=kept)


def _unchanged(image: ChosenImage, options: UnpackOptions, progress: Progress, kept: KeptTree) -> UnpackResult:
    """Return the result for a tree that has all layers of the image."""
    from ociexport.rootfs.reuse import add_losses  # noqa: PLC0415 - start-up: as above

    losses, account = losses_of(is_rootless=options.rootless), None
    add_losses(losses, kept.losses)
    if options.find_account:
        from ociexport.rootfs.run.accounts import find_account  # noqa: PLC0415 - start-up: as above

        account = find_account(kept.fd, image.config.container.user)
    return _result(image, options, progress, losses, counts=(kept.entries, kept.tar_bytes), account=account, kept=kept)


def _result(
    image: ChosenImage,
    options: UnpackOptions,
    progress: Progress,
    losses: Losses,
    *,
    counts: tuple[int, int],
    account: Account | None,
    kept: KeptTree | None,
) -> UnpackResult:
    """Return the result, and report the losses.

    Args:
        counts: of entries and of bytes of all layers.
    """
    for line in losses.lines():
        progress.warn(line)
    return UnpackResult(
        *image,
        *counts,
        losses,
        account=account,
        made=_made(options),
        kept_layers=0 if kept is None else kept.layers,
    )


def _policy_for(root_fd: int, options: UnpackOptions) -> MetadataPolicy:
    """Return how owners are handled in the empty directory ``root_fd``.

    Raises:
        UsageError: owners are to be mapped, and can't be set.
    """
    is_mapped = options.uid_map is not None or options.gid_map is not None
    maps = [id_map.ranges[0][1] if id_map and id_map.ranges else 0 for id_map in (options.uid_map, options.gid_map)]
    set_owners = not options.rootless and may_set_owners(root_fd, (maps[0], maps[1]) if is_mapped else None)
    if is_mapped and not set_owners:
        raise _no_root_for_maps()
    return MetadataPolicy(set_owners, options.xattrs, options.uid_map, options.gid_map)


def _no_root_for_maps() -> UsageError:
    return UsageError(
        "id maps: expected root, who may change owners",
        hint="--userns makes an ordinary user root of subordinate ids",
    )


@contextmanager
def _owners_file(options: UnpackOptions, budget: NameBudget) -> Iterator[OwnersFile | None]:
    """Yield the owners file, if one is requested; an error in creating it comes before the tree is begun."""
    if options.owners_file is None:
        yield None
        return
    from ociexport.rootfs.disk.owners import OwnersFile  # noqa: PLC0415 - start-up: few runs write it

    with new_file(options.owners_file) as file:
        yield OwnersFile(file, budget, are_placeholders_kept=options.placeholder_devices)


@contextmanager
def _tree_directory(staged_fd: int, options: UnpackOptions) -> Iterator[int]:
    """Yield a descriptor of the directory that the tree is built in: the staged one, or a bundle's ``rootfs`` in it."""
    if not options.bundle:
        yield staged_fd
        return
    os.mkdir("rootfs", 0o700, dir_fd=staged_fd)
    root_fd = os.open("rootfs", OPEN_DIRECTORY, dir_fd=staged_fd)
    try:
        yield root_fd
    finally:
        os.close(root_fd)
