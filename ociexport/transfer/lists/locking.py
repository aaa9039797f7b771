"""lock_image(): the digests, sizes and platforms that an image's name leads to now."""

from __future__ import annotations

from contextlib import closing

from ociexport.errors import UnsupportedMediaTypeError
from ociexport.images.choose import PlatformChoice
from ociexport.images.prepare import PreparedImage, PreparedManifest, prepare_image
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.lists.locked import LockedImage, LockedManifest
from ociexport.transfer.sources.convert import ConvertingSource
from ociexport.transfer.sources.names import parse_source_name
from ociexport.transfer.sources.open import SourceOpener


def lock_image(
    image: str, choice: PlatformChoice, opener: SourceOpener, progress: Progress, *, time: str | None
) -> LockedImage:
    """Return what ``image`` leads to now; its manifests and configs are read and verified, its layers are not fetched.

    Args:
        image: a reference or another source's name.
        choice: the platforms to lock.
        time: is written as it is.

    Raises:
        as `prepare_image` does; UnsupportedMediaTypeError: the image would have to be converted, so its digest is
            known only after its layers are fetched.
    """
    with closing(opener.open(parse_source_name(image))) as source:
        if isinstance(source, ConvertingSource):
            source.only_plan()
        prepared = prepare_image(source, choice, None, progress)
        if isinstance(source, ConvertingSource) and source.converted:
            raise UnsupportedMediaTypeError(
                "expected an image with digests to lock, got a Docker schema 1 manifest",
                where=f"image {source.display_name}",
            )
        name = prepared.name.full or prepared.name.tag or source.display_name
    main = prepared.main.config if prepared.main is not None else None
    # The first is the one for the platform that is asked for first; the lock file has them in the index's order.
    manifests = sorted(prepared.manifests, key=lambda one: (str(one.platform or "~"), str(one.manifest.digest)))
    return LockedImage(
        name=name,
        source=image,
        digest=prepared.published,
        listed=prepared.listed.digest,
        choice=choice,
        manifests=tuple(map(_locked, manifests)),
        size=_size_of(prepared),
        created=main.created if main is not None else None,
        time=time,
    )


def _locked(one: PreparedManifest) -> LockedManifest:
    manifest = one.manifest
    blobs = {blob.digest: blob.size for blob in (manifest.config, *manifest.layers)}
    platform = str(one.platform) if one.platform is not None else None
    return LockedManifest(platform, manifest.digest, manifest.config.digest, len(manifest.raw) + sum(blobs.values()))


def _size_of(image: PreparedImage) -> int:
    sizes: dict[Digest, int] = {document.digest: len(document.raw) for document in image.documents}
    sizes |= {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
    return sum(sizes.values())
