"""What a layer becomes: a directory, or an erofs file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Protocol

from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.rootfs.chosen_image import ChosenImage
from ociexport.rootfs.disk.metadata import MetadataPolicy, MetadataWriter, XattrMode
from ociexport.rootfs.disk.preparation import look_before, naming_target
from ociexport.rootfs.disk.rights import may_set_owners
from ociexport.rootfs.disk.staging import staged_directory
from ociexport.rootfs.disk.tree import Rootfs
from ociexport.rootfs.outputs.layers.directories import TRUSTED, USER, DirectoryWriter
from ociexport.rootfs.outputs.layers.form import LayerForm
from ociexport.rootfs.outputs.layers.store import ChainedLayer, LayerStore
from ociexport.rootfs.unpack import UnpackOptions
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.progress.protocol import Progress
from ociexport.system.temporary_files import make_temporary_directory_in


@dataclass(frozen=True, slots=True)
class LayerToMake:
    """A layer that is to be made.

    Args:
        wanted: the layer.
        form: what it has.
        spool_fd: has the data of its files.
        identity: of the layer in this form.
        image: that has the layer.
    """

    wanted: ChainedLayer
    form: LayerForm
    spool_fd: int
    identity: Digest
    image: ChosenImage


class Marks(NamedTuple):
    """How overlayfs finds what a layer hides; see `Stamp`."""

    has_marked_whiteouts: bool
    lacks_user_marks: bool


class Maker(Protocol):
    """Makes layers.

    Attributes:
        form: in words, how they are made; layers of one directory are all made so.
        uses_user_xattrs: whether overlayfs needs the option ``userxattr`` for them.
    """

    form: str
    uses_user_xattrs: bool

    def made(self, name: str, layer: LayerToMake, losses: Losses) -> AbstractContextManager[Marks]:
        """Make a layer, which gets its name when the ``with`` block ends well."""


class Kind(Protocol):
    """A kind of layers.

    Attributes:
        suffix: of their names.
    """

    suffix: str

    def maker(self, store: LayerStore, options: UnpackOptions, progress: Progress) -> Maker:
        """Return what makes layers for ``store``."""


class _Directories:
    suffix = ""

    def maker(self, store: LayerStore, options: UnpackOptions, progress: Progress) -> Maker:
        return _DirectoryMaker(store, options, progress)


class _DirectoryMaker:
    """Makes a directory of each layer."""

    def __init__(self, store: LayerStore, options: UnpackOptions, progress: Progress) -> None:
        self._directory = store.directory
        self._options = options
        self._progress = progress
        self._has_looked = False
        with make_temporary_directory_in(store.state) as probe:
            fd = os.open(probe, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._sets_owners = not options.rootless and may_set_owners(fd)
                self._prefix = TRUSTED if not options.rootless and _may_mark(fd) else USER
            finally:
                os.close(fd)
        self.uses_user_xattrs = self._prefix == USER
        words = ["by root" if self._sets_owners else f"by user {os.geteuid()}"]
        words += ["for userxattr"] if self.uses_user_xattrs else []
        words += [f"with --xattrs {options.xattrs.value}"] if options.xattrs.value == "none" else []
        words += ["with --devices placeholder"] if options.placeholder_devices else []
        self.form = " ".join(words)

    @contextmanager
    def made(self, name: str, layer: LayerToMake, losses: Losses) -> Iterator[Marks]:
        """Make a directory of a layer; see `Maker`."""
        options, target = self._options, os.path.join(self._directory, name)
        with staged_directory(target, replace=True, sync=options.sync) as staged:
            metadata = MetadataWriter(
                MetadataPolicy(self._sets_owners, options.xattrs),
                natural_owner=staged.natural_owner,
                masked_bits=staged.masked_bits,
                losses=losses,
            )
            limits = options.limits
            tree = Rootfs(
                staged.fd,
                metadata,
                budget=NameBudget(limits),
                holes=options.holes,
                devices=not options.rootless,
                max_depth=limits.max_depth,
                max_copied_bytes=limits.max_bytes,
                use_openat2=options.use_openat2,
            )
            if options.preflight and not self._has_looked:
                self._has_looked = True
                look_before(
                    staged.fd,
                    (layer.wanted.layer,),
                    self._directory,
                    self._progress,
                    sets_owners=self._sets_owners,
                    is_rootless=options.rootless,
                    with_xattrs=options.xattrs is not XattrMode.NONE,
                )
            with closing(tree), naming_target(target, staged.fd):
                writer = DirectoryWriter(
                    tree,
                    layer.form,
                    layer.spool_fd,
                    prefix=self._prefix,
                    losses=losses,
                    placeholder_devices=options.placeholder_devices,
                )
                writer.write()
            yield Marks(writer.has_marked_whiteouts, writer.lacks_user_marks)


def _may_mark(fd: int) -> bool:
    """Whether this process may set attributes that only root of the machine may set."""
    try:
        os.setxattr(fd, TRUSTED + b"opaque", b"y")
    except OSError:
        return False
    os.removexattr(fd, TRUSTED + b"opaque")
    return True


DIRECTORIES: Kind = _Directories()
