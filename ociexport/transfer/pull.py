"""pull(): one image, by its name or from an open source, into a layout, an archive or an open destination."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.destination import ImageDestination
from ociexport.images.fetch import DEFAULT_JOBS
from ociexport.images.source import ImageSource
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.platforms import host_platform
from ociexport.spec.reference import ImageReference
from ociexport.storage.archive.names import is_archive_name
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.copy import copy_image
from ociexport.transfer.layouts import open_layout
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult
from ociexport.transfer.sources.names import RegistryName, is_s3_url, source_text
from ociexport.transfer.sources.open import SourceOpener, open_source

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions
    from ociexport.transfer.bundle.select import ThinOptions


def pull(
    image: str | ImageReference | ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    *,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    decompress: bool = False,
    legacy: bool = False,
    referrers: bool = False,
    registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
    max_memory: int | None = None,
    deep: bool | None = None,
    recheck: bool = False,
    since: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    delta: bool = False,
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name appears there when the image is complete.

    Args:
        image: a reference, another source's name, or an open source, which the caller closes.
        out: a layout's directory (absent, empty or a layout), a layout in an object store (``s3://BUCKET/PATH``), an
            archive's file (``*.tar``, or compressed ``*.tar.gz`` or ``*.tar.zst``), or an open destination.
        platform: the platform to take, or several; None for this machine's.
        jobs: how many blobs are fetched in parallel.
        progress: gets messages and the state of transfers.
        decompress: whether layers are stored as plain tars; the manifest changes, the config does not.
        legacy: whether the archive is for engines before Docker 1.10.
        referrers: whether signatures, SBOMs and other artifacts that refer to the image are copied too.
        registry: how registries are reached, for an image given by name.
        signatures: which signatures the image must have; None for none.
        max_memory: bytes of memory for the window of a zstd layer that is decompressed; None for what is available,
            at most 2 GiB.
        deep: whether each layer's tar is compared with its diff_id while the layer arrives; None for the default, which
            is yes for plain layers, and for an archive of an image from a registry as long as the network takes longer;
            `PullResult.is_deep` tells what was done.
        recheck: whether blobs that the layout at ``out`` has are read and verified although their files did not change
            since an earlier run did that.
        since: what the far side has, as ``pull --since`` takes it: a layout, an archive, an earlier update, a
            receipt, a lock file, lines of digests, an image reference; or several. Layers that it has are left out, and
            `merge` unites the rest with it. Empty to copy the whole image.
        delta: whether a new layer travels as a recipe that makes it from an older layer, if that is smaller.

    Raises:
        UsageError: ``out`` holds something else, ``jobs`` is out of range, ``since`` does not tell what is there, or
            ``delta`` is set without it.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image or its platform is not available.
        InvalidImageError: a part of it breaks the specification or does not match its digest.
        DiffIdMismatchError: with ``deep``, a layer has its digest, and does not hold the tar that the config names.
        SignatureError: no signature that ``signatures`` requires covers it; nothing was written.
        OSError: the disk or file system.
    """
    options = PullOptions(
        platform or host_platform(),
        jobs,
        decompress,
        legacy,
        referrers,
        signatures,
        max_memory=max_memory,
        deep=deep,
        recheck=recheck,
    )
    haves = tuple(map(source_text, [since] if isinstance(since, str | os.PathLike) else since))
    if delta and not haves:
        raise UsageError("delta: expected since with it, which gives the older layers, got none")
    with ExitStack() as stack:
        if haves:
            opener = stack.enter_context(closing(SourceOpener(options=registry, progress=progress)))
            is_archive = isinstance(out, str | os.PathLike) and is_archive_name(os.fspath(out))
            thin = _thin_options(haves, delta, opener, options, progress, is_archive=is_archive)
            options = replace(options, thin=thin)
        if not isinstance(image, str | ImageReference):
            return _pull_source(image, out, options, registry, progress)
        name = image if isinstance(image, str) else RegistryName(image)
        source = stack.enter_context(closing(open_source(name, options=registry, progress=progress)))
        return _pull_source(source, out, options, registry, progress)


def _thin_options(
    haves: tuple[str, ...],
    delta: bool,
    opener: SourceOpener,
    options: PullOptions,
    progress: Progress,
    *,
    is_archive: bool,
) -> ThinOptions:
    """Return what the far side has, with the defaults of the command: docker reads a thin archive without recipes."""
    from ociexport.transfer.bundle.have_volumes import read_haves  # noqa: PLC0415 - start-up: few pulls are thin
    from ociexport.transfer.bundle.select import DOCKER, LAYOUT, ThinOptions  # noqa: PLC0415 - start-up: as above

    recipes = None
    if delta:
        from ociexport.transfer.bundle.delta.bases import HaveBytes  # noqa: PLC0415 - start-up: as above
        from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions  # noqa: PLC0415 - start-up: as above

        recipes = DeltaOptions(HaveBytes(haves, opener.open, options.platform))
    since = read_haves(haves, opener.open, options.platform, progress)
    return ThinOptions(since, DOCKER if is_archive and not delta else LAYOUT, delta=recipes)


def _pull_source(
    source: ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    options: PullOptions,
    registry: RegistryOptions | None,
    progress: Progress,
) -> PullResult:
    if not isinstance(out, str | os.PathLike):
        return copy_image(source, out, options, progress)
    path = os.fspath(out)
    if is_s3_url(path) or not is_archive_name(path):
        with closing(open_layout(path, None, registry, progress, recheck=options.recheck)) as layout:
            return copy_image(source, layout, options, progress)
    from ociexport.transfer.copy_to_archive import copy_to_archive  # noqa: PLC0415 - start-up: a layout does without

    return copy_to_archive([source], path, options, progress)[0]
