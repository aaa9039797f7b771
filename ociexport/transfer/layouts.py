"""open_layout(): the layout to copy images into, in a directory or in an object store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ociexport.errors import UsageError, quoted
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.sources.names import is_s3_url, parse_remote_layout
from ociexport.transfer.sources.open import open_s3_layout

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions
    from ociexport.storage.s3.layout import S3Layout


def open_layout(
    place: str,
    cache: str | os.PathLike[str] | None,
    registry: RegistryOptions | None,
    progress: Progress,
    *,
    recheck: bool = False,
) -> ImageLayout | S3Layout:
    """Return the layout at ``place``, a path or an s3 URL, as a destination; nothing is written yet.

    Args:
        cache: directory with blobs that layouts share; None for none.
        registry: how servers are reached, an object store too.
        recheck: see `ImageLayout`.

    Raises:
        UsageError: the URL names an image, a layout in S3 has no cache, or s3fs is not installed.
    """
    if not is_s3_url(place):
        return ImageLayout(place, cache=BlobCache(cache) if cache is not None else None, recheck=recheck)
    name = parse_remote_layout(place)
    if name.image is not None or cache is not None:
        expected = "no image's name" if name.image is not None else "no cache"
        raise UsageError(f"{quoted(place)}: expected {expected} for a layout in S3, got one")
    return open_s3_layout(name.path, registry, progress)
