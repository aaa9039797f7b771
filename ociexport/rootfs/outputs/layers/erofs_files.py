"""Writes a layer in overlayfs's form as an erofs file, as containerd's erofs snapshotter and its layer cache have it.

The names are those of ``layer_content_cache`` of containerd 2.4: ``ALGORITHM/HEX.erofs``, by diff_id. Whiteouts are
devices 0:0, and opaque directories have the attribute ``trusted.overlay.opaque``.

Spec: containerd, docs/snapshotters/erofs.md; ``ctr images build-erofs-cache``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.errors import UsageError
from ociexport.layers.losses import Losses
from ociexport.rootfs.disk.metadata import XattrMode
from ociexport.rootfs.outputs.erofs.writer import write_layer_erofs
from ociexport.rootfs.outputs.flat_image import FlatImage
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.layers.directories import TRUSTED
from ociexport.rootfs.outputs.layers.kinds import Kind, LayerToMake, Maker, Marks
from ociexport.rootfs.outputs.layers.store import LayerStore
from ociexport.rootfs.unpack import UnpackOptions
from ociexport.system.files import new_file
from ociexport.system.progress.protocol import Progress


class _ErofsFiles:
    suffix = ".erofs"

    def maker(self, store: LayerStore, options: UnpackOptions, progress: Progress) -> Maker:
        for name, value in (
            ("--rootless", options.rootless),
            ("--sparse", options.holes),
            ("--devices placeholder", options.placeholder_devices),
            ("--xattrs none", options.xattrs is XattrMode.NONE),
            ("--sync", options.sync),
        ):
            if value:
                raise UsageError(f"{name}: expected ROOTFS or --layers-dir beside it, got --erofs-layers")
        return _ErofsMaker(store.directory, xattrs_must_fit=options.xattrs is XattrMode.STRICT)


class _ErofsMaker:
    """Makes an erofs file of each layer."""

    form = "as erofs files"
    uses_user_xattrs = False

    def __init__(self, directory: str, *, xattrs_must_fit: bool) -> None:
        self._directory = directory
        self._xattrs_must_fit = xattrs_must_fit

    @contextmanager
    def made(self, name: str, layer: LayerToMake, losses: Losses) -> Iterator[Marks]:
        """Make an erofs file of a layer; see `Maker`."""
        form = layer.form
        losses.xattrs_must_fit = self._xattrs_must_fit
        for number in form.opaque:
            node = form.nodes[number]
            xattrs = {**(node.entry.xattrs or {}), TRUSTED + b"opaque": b"y"}
            node.entry = node.entry._replace(xattrs=dict(sorted(xattrs.items())))
        image = FlatImage(
            *layer.image._replace(layers=(layer.wanted.layer,)),
            entries=len(form.nodes),
            tar_bytes=0,
            losses=losses,
            nodes=form.nodes,
            spool_fd=layer.spool_fd,
        )
        with new_file(os.path.join(self._directory, name)) as file:
            write_layer_erofs(image, file.fileno(), DiskImageOptions(), layer.identity)
            yield Marks(has_marked_whiteouts=False, lacks_user_marks=True)


EROFS_FILES: Kind = _ErofsFiles()
