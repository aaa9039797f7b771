"""pull(): choose, fetch side by side, verify, hand to the destination."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from ociexport.errors import (
    InvalidImageError,
    NotFoundError,
    UsageError,
)
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS, BlobFetch, unite_blobs, verify_jobs
from ociexport.images.prepare import prepare_image
from ociexport.images.source import ImageDestination, ImageSource
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import host_platform
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.result import PullResult, results_of, with_companions
from ociexport.transfer.sources.convert import ConvertingSource
from ociexport.transfer.sources.names import RegistryName, open_source

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.options import RegistryOptions


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
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name there appears when all of it is there.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        out: a layout's directory (absent, empty or a layout), an archive's file (``*.tar``), or an open destination.
        platform: of several the one to take, or which of them; None for this machine's.
        jobs: how many blobs are fetched side by side.
        progress: told what goes on.
        decompress: whether layers are kept as plain tars; the manifest is another then, the config is not.
        legacy: whether an archive is to be one for engines before Docker 1.10.
        referrers: whether signatures, SBOMs and what else is about the image come along.
        registry: how registries are reached, for an image that is given by name.
        signatures: which signatures the image must have.

    Raises:
        UsageError: ``out`` holds something else, or ``jobs`` is out of range.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: something in it breaks the specification or is not what its digest says.
        SignatureError: it is not signed as ``signatures`` wants it; nothing was written.
        OSError: the disk or file system.
    """
    platform = platform or host_platform()
    if isinstance(image, str | ImageReference):
        name = image if isinstance(image, str) else RegistryName(image)
        with closing(open_source(name, options=registry, progress=progress)) as source:
            return pull(
                source,
                out,
                platform=platform,
                jobs=jobs,
                progress=progress,
                decompress=decompress,
                legacy=legacy,
                referrers=referrers,
                signatures=signatures,
            )
    if signatures is not None:
        from ociexport.images.signatures import require_signature  # noqa: PLC0415 - few ask for signatures

        image = require_signature(image, signatures)
    if isinstance(out, str | os.PathLike) and os.fspath(out).endswith(".tar"):
        from ociexport.transfer.copy_to_archive import copy_to_archive  # noqa: PLC0415 - a layout does without

        path = os.fspath(out)
        return copy_to_archive(
            [image],
            path,
            platform=platform,
            jobs=jobs,
            progress=progress,
            decompress=decompress,
            legacy=legacy,
            referrers=referrers,
        )[0]
    if legacy:
        raise UsageError("legacy: expected an archive to write, got a layout")
    destination = ImageLayout(out) if isinstance(out, str | os.PathLike) else out
    return copy_image(
        image,
        destination,
        platform=platform,
        jobs=jobs,
        progress=progress,
        decompress=decompress,
        referrers=referrers,
    )


def copy_image(
    source: ImageSource,
    destination: ImageDestination,
    *,
    platform: Platform | PlatformChoice,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    decompress: bool = False,
    referrers: bool = False,
) -> PullResult:
    """Copy one image from any source to any destination; see `pull`.

    1. The manifests of the platforms are found and parsed, and the configs read: nothing is written for a bad image.
    2. Configs and layers that are there and valid are left alone; the others are fetched side by side.
    3. A manifest is written when all it names is there, an index after its manifests, and the name last.

    What is about the image goes the same way, and is named before it.

    Raises:
        as `pull` does; UsageError: ``decompress`` is for layouts.
    """
    verify_jobs(jobs)
    if decompress and not isinstance(destination, ImageLayout):
        raise UsageError("decompress: expected a layout or an archive as destination")
    if referrers:
        from ociexport.transfer.companions import prepare_companions, verify_keeps_digests  # noqa: PLC0415 - few ask for it

        verify_keeps_digests(referrers=referrers, changes=decompress)
    brought: Collection[Digest] = ()
    if isinstance(source, ConvertingSource) and isinstance(destination, ImageLayout) and not decompress:
        source.keep_layers_in(destination, jobs)
        brought = source.layers
    image = prepare_image(source, platform, destination, progress)  # 1
    companions = prepare_companions(image, destination, progress) if referrers else []
    plain = None
    if decompress and isinstance(destination, ImageLayout):
        from ociexport.transfer.decompress import PlainLayerStore, diff_ids_of  # noqa: PLC0415 - few ask for plain layers

        plain = PlainLayerStore(destination, diff_ids_of([image]))
    fetch = BlobFetch(plain or destination, progress)
    with destination.begin() as use:
        try:
            blobs = unite_blobs([image.blobs, *(companion.blobs for companion in companions)])
            fetch.run([blob for blob in blobs if blob.descriptor.digest not in brought], jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is not as it should be, so nothing of it is to stay. After all else the next try goes on here.
            use.discard(map(plain.stored_digest, fetch.begun) if plain else fetch.begun)
            raise
        written = image
        if plain is not None:
            from ociexport.transfer.decompress import with_plain_layers  # noqa: PLC0415 - as above

            written = with_plain_layers(image, plain, progress)
        for copy in (*companions, written):  # 3
            for document in copy.documents:
                destination.write_manifest(document)
            destination.write_name(copy.listed, copy.name)
    return with_companions(results_of([image], [written], [*_conversions([source]), fetch])[0], companions)


def _conversions(sources: Iterable[ImageSource]) -> list[BlobFetch]:
    """Return what has fetched layers before their images were known."""
    return [fetch for source in sources if isinstance(source, ConvertingSource) for fetch in source.fetches]
