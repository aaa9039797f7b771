"""unpack_layers(): each layer of an image by itself, in overlayfs's form, in a directory that images share."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ociexport.errors import UsageError
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import NameBudget
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.chosen_image import choose_image
from ociexport.rootfs.disk.preflight import verify_room
from ociexport.rootfs.disk.preparation import losses_of, naming_target
from ociexport.rootfs.outputs.layers.again import read_again, read_file_in
from ociexport.rootfs.outputs.layers.form import LayerForm, form_of
from ociexport.rootfs.outputs.layers.index import LayerIndex, Place
from ociexport.rootfs.outputs.layers.kinds import DIRECTORIES, Kind, LayerToMake
from ociexport.rootfs.outputs.layers.store import ChainedLayer, LayerStore, Stamp, chained
from ociexport.rootfs.outputs.layers.tree import LayerTree
from ociexport.rootfs.outputs.spool_writer import SpoolWriter
from ociexport.rootfs.unpack import UnpackOptions, signed
from ociexport.spec.config import ImageConfig, Layer
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.platforms import host_platform
from ociexport.system.collector import collection_paused
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.temporary_files import open_temporary_file_in

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer in the directory.

    Args:
        layer: with its diff_id.
        path: of the directory or file, absolute.
        is_new: whether it was made now.
    """

    layer: Layer
    path: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class LayersResult:
    """The layers of an image.

    Args:
        index_digests: of the indexes that led to the manifest, outermost first.
        manifest_digest: of the platform's manifest.
        config: of the image.
        directory: where the layers are.
        layers: lowest first.
        entries: number in all layers, whiteouts included.
        tar_bytes: of all layers, uncompressed.
        losses: one line for each kind of loss, of all layers.
        are_files: whether the layers are erofs files.
        uses_user_xattrs: whether overlayfs needs the option ``userxattr`` for them.
        may_use_userxattr: whether it may have the option.
        has_marked_whiteouts: whether they need Linux 6.7, see `directories`.
    """

    index_digests: tuple[Digest, ...]
    manifest_digest: Digest
    config: ImageConfig
    directory: str
    layers: tuple[UnpackedLayer, ...]
    entries: int
    tar_bytes: int
    losses: tuple[str, ...]
    are_files: bool
    uses_user_xattrs: bool
    may_use_userxattr: bool
    has_marked_whiteouts: bool


def unpack_layers(
    image: str | ImageSource,
    directory: str | os.PathLike[str],
    *,
    kind: Kind = DIRECTORIES,
    platform: Platform | None = None,
    options: UnpackOptions | None = None,
    progress: Progress = SILENT,
    registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
) -> LayersResult:
    """Make each layer of ``image`` that ``directory`` does not have yet; each is verified by its diff_id.

    A layer appears whole or not at all. Processes may share the directory; each layer is made once.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        directory: made if it is missing; its parent exists.
        kind: what a layer becomes.
        platform: to choose from an index; None for this machine's.
        options: of these, the ones that shape a layer; see `verify_options`.
        progress: receives messages and progress.
        registry: how registries are reached, for an image that is given by name.
        signatures: which signatures the image must have.

    Raises:
        UsageError: an option has no meaning for layers, or the directory has layers that were made in another way.
        others as `unpack` does.

    Spec: image-spec 1.1 layer.md; Linux, Documentation/filesystems/overlayfs.rst.
    """
    platform, options = platform or host_platform(), options or UnpackOptions()
    verify_options(options)
    target = os.fspath(directory)
    if not isinstance(image, str):
        return _Unpacking(signed(image, signatures), target, kind, options, progress).run(platform)
    from ociexport.transfer.sources.open import open_source  # noqa: PLC0415 - start-up: loads the registry code, which an open source does not need

    with closing(open_source(image, options=registry, progress=progress)) as source:
        return _Unpacking(signed(source, signatures), target, kind, options, progress).run(platform)


def verify_options(options: UnpackOptions) -> None:
    """Return if all options have a meaning for layers.

    Raises:
        UsageError: one has not: a layer is the same for all images that have it.
    """
    for name, value in (
        ("--keep-dirlinks", options.keep_dirlinks),
        ("--uid-map", options.uid_map),
        ("--gid-map", options.gid_map),
        ("--include and --exclude", options.selection),
        ("--replace", options.replace),
        ("--bundle", options.bundle),
        ("--run-files", options.find_account),
        ("--owners", options.owners_file),
    ):
        if value:
            raise UsageError(f"{name}: expected ROOTFS beside it, got a directory of layers")


class _Unpacking:
    """Makes the layers of one image; see `unpack_layers`."""

    def __init__(
        self, source: ImageSource, directory: str, kind: Kind, options: UnpackOptions, progress: Progress
    ) -> None:
        self._source = source
        self._options = options
        self._progress = progress
        self._suffix = kind.suffix
        self._store = LayerStore(directory, kind.suffix)
        self._maker = kind.maker(self._store, options, progress)
        # Counts entries and bytes of all layers together.
        self._entries = self._tar_bytes = 0
        # Of the layers so far, lowest first; None until a layer above needs them.
        self._names: list[str] = []
        self._indexes: list[LayerIndex | None] = []

    def run(self, platform: Platform) -> LayersResult:
        # The directory may have the first layer.
        self._image = image = choose_image(self._source, platform, self._progress, reads_first_layer=False)
        done: list[UnpackedLayer] = []
        stamps: list[Stamp] = []
        for wanted in chained(image.layers):
            name, stamp, is_new = self._find_or_make(wanted, stamps[-1].root if stamps else None)
            done.append(UnpackedLayer(wanted.layer, os.path.join(self._store.directory, name), is_new))
            stamps.append(stamp)
        losses = dict.fromkeys(line for stamp in stamps for line in stamp.losses)
        for line in losses:
            self._progress.warn(line)
        return LayersResult(
            index_digests=image.index_digests,
            manifest_digest=image.manifest_digest,
            config=image.config,
            directory=self._store.directory,
            layers=tuple(done),
            entries=sum(stamp.entries for stamp in stamps),
            tar_bytes=sum(stamp.tar_bytes for stamp in stamps),
            losses=tuple(losses),
            are_files=bool(self._suffix),
            uses_user_xattrs=self._maker.uses_user_xattrs,
            may_use_userxattr=not any(stamp.lacks_user_marks for stamp in stamps),
            has_marked_whiteouts=any(stamp.has_marked_whiteouts for stamp in stamps),
        )

    def _find_or_make(self, wanted: ChainedLayer, root_below: Entry | None) -> tuple[str, Stamp, bool]:
        found = self._store.find(wanted, root_below, self._maker.form)
        if found is None:
            with self._store.locked(wanted):
                found = self._store.find(wanted, root_below, self._maker.form)
                if found is None:
                    name, stamp, index = self._make(wanted)
                    self._names.append(name)
                    self._indexes.append(index)
                    return name, stamp, True
        name, stamp = found
        self._names.append(name)
        self._indexes.append(None)
        self._entries += stamp.entries
        self._tar_bytes += stamp.tar_bytes
        return name, stamp, False

    def _make(self, wanted: ChainedLayer) -> tuple[str, Stamp, LayerIndex]:
        limits, losses = self._options.limits, losses_of(is_rootless=self._options.rootless)
        budget = NameBudget(limits)
        with (
            self._spool() as spool_fd,
            naming_target(self._store.directory, spool_fd),
            closing(SpoolWriter(spool_fd)) as writer,
            collection_paused(),
        ):
            if self._options.preflight:
                verify_room(spool_fd, (wanted.layer,), self._store.directory)
            tree = LayerTree(budget, writer, limits, self._indexes_below())
            applier = LayerApplier(tree, limits, losses)
            applier.entries, applier.tar_bytes = self._entries, self._tar_bytes
            applier.apply_some(self._source, [wanted.layer], self._progress, doing="unpacking")
            tree.drop_aufs_links()
            losses.devices -= tree.refused_devices
            form = form_of(tree, budget, losses, str(wanted.diff_id))
            if form.borrowed:
                self._borrow(form, tree)
            writer.finish()
            is_root_described = form.describes_root or tree.root.entry is not None
            tree.forget()
            name = self._store.new_name(wanted)
            identity = wanted.chain if tree.looks_below else wanted.diff_id
            layer = LayerToMake(wanted, form, spool_fd, identity, self._image)
            with self._maker.made(name, layer, losses) as marks:
                lines = [*losses.lines()]
                if tree.refused_devices:
                    lines.append(f"devices: {tree.refused_devices} left out, since overlayfs takes 0:0 for a whiteout")
                root = form.nodes[0].entry if is_root_described else None
                stamp = Stamp(
                    diff_id=str(wanted.diff_id),
                    chain=str(wanted.chain),
                    form=self._maker.form,
                    looks_below=tree.looks_below,
                    describes_root=form.describes_root,
                    root=root,
                    entries=applier.entries - self._entries,
                    tar_bytes=applier.tar_bytes - self._tar_bytes,
                    losses=tuple(lines),
                    has_marked_whiteouts=marks.has_marked_whiteouts,
                    lacks_user_marks=marks.lacks_user_marks,
                )
                self._store.write_stamp(name, stamp, form.index)
        self._entries, self._tar_bytes = applier.entries, applier.tar_bytes
        return name, stamp, form.index

    def _indexes_below(self) -> list[LayerIndex]:
        """Return the indexes of the layers below.

        Raises:
            OSError: one is missing or damaged.
        """
        for number, name in enumerate(self._names):
            if self._indexes[number] is None:
                self._indexes[number] = self._store.index_of(name)
                if self._indexes[number] is None:
                    path = os.path.join(self._store.directory, name)
                    raise OSError(errno.EIO, "the index of this layer is missing or damaged; remove the layer", path)
        return [index for index in self._indexes if index is not None]

    def _borrow(self, form: LayerForm, tree: LayerTree) -> None:
        """Give files of layers below, which the layer has too, their data."""
        places: dict[int, Place] = {}
        for number, (below, file) in form.borrowed.items():
            node, index = form.nodes[number], tree.below[below]
            directory = os.path.join(self._store.directory, self._names[below])
            parts = next(index.paths_of(file))
            try:
                node.extents = read_file_in(directory, parts, node.entry.size, tree)
            except OSError:
                place = index.place_of(file)
                if place is None:
                    raise
                places[number] = place
        if places:
            layers = {str(layer.diff_id): layer for layer in self._image.layers}
            limits, progress = self._options.limits, self._progress
            wanted = sorted(set(places.values()))
            data = read_again(wanted, layers, self._source, tree, limits=limits, progress=progress)
            for number, place in places.items():
                form.nodes[number].extents = data[place]

    @contextmanager
    def _spool(self) -> Iterator[int]:
        """Give a nameless file on the file system of the layers, which then may share its blocks."""
        with open_temporary_file_in(self._store.state) as file:
            yield file.fileno()
