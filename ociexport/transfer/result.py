"""What a pull tells when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ociexport.errors import InvalidReferenceError
from ociexport.images.fetch import BlobFetch
from ociexport.images.prepare import PreparedImage
from ociexport.images.source import ImageName
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference


@dataclass(frozen=True, slots=True)
class PulledManifest:
    """One manifest that was pulled.

    Args:
        digest: of the manifest.
        config_digest: docker's image ID, where it is an image.
        is_image: whether it is one, and no attestation or other artifact.
        platform: that it is for; None where nothing is said, or it is no image.
    """

    digest: Digest
    config_digest: Digest
    is_image: bool
    platform: Platform | None


@dataclass(frozen=True, slots=True)
class PullResult:
    """What was pulled.

    Args:
        name: how the source calls the image.
        reference: name and digest, ``docker.io/library/alpine:3.20@sha256:…``, to be used in commands again.
        digest: of what the destination lists: the manifest, or the index of several platforms.
        manifests: that were pulled; first the one that stands for the image where only one can.
        fetched_blobs: how many blobs came over.
        fetched_bytes: of these; what an earlier try had left is not counted.
        reused_blobs: how many were there already, and valid.
        reused_bytes: of these.
        companions: digests of what came along: signatures, SBOMs and such; of their blobs none is counted.
    """

    name: str
    reference: str
    digest: Digest
    manifests: tuple[PulledManifest, ...]
    fetched_blobs: int
    fetched_bytes: int
    reused_blobs: int
    reused_bytes: int
    companions: tuple[Digest, ...] = ()

    @property
    def manifest_digest(self) -> Digest:
        """Of the first manifest."""
        return self.manifests[0].digest

    @property
    def config_digest(self) -> Digest:
        """Of the first manifest: docker's image ID, where it is an image."""
        return self.manifests[0].config_digest

    @property
    def is_image(self) -> bool:
        """Whether the first manifest is of an image, and no artifact of another kind."""
        return self.manifests[0].is_image

    @property
    def platform(self) -> Platform | None:
        """That the first manifest is for; None where nothing is said, or it is no image."""
        return self.manifests[0].platform


def results_of(
    images: Sequence[PreparedImage], written: Sequence[PreparedImage], fetches: Sequence[BlobFetch]
) -> list[PullResult]:
    """Return what was pulled; a blob of several images is counted for the first, and without a fetch all are.

    Args:
        images: as they were published.
        written: the same ones as they are at the destination.
        fetches: that may have got their blobs.
    """
    results = []
    seen: set[Digest] = set()
    reused = {digest for fetch in fetches for digest in fetch.reused}
    for image, copy in zip(images, written, strict=True):
        sizes = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
        # An archive's config is written with the plan.
        counted = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs if blob.content is not None}
        for fetch in fetches:
            counted |= fetch.fetched_bytes
        counted = {digest: size for digest, size in counted.items() if digest not in reused} if fetches else sizes
        fetched = [counted[digest] for digest in sizes.keys() & counted.keys() - seen]
        results.append(
            PullResult(
                name=image.source.display_name,
                reference=_reference_of(copy.name, image.source.display_name, copy.listed.digest),
                digest=copy.listed.digest,
                manifests=tuple(
                    PulledManifest(
                        one.manifest.digest, one.manifest.config.digest, one.config is not None, one.platform
                    )
                    for one in copy.manifests
                ),
                fetched_blobs=len(fetched),
                fetched_bytes=sum(fetched),
                reused_blobs=len(sizes.keys() & reused),
                reused_bytes=sum(size for digest, size in sizes.items() if digest in reused),
            )
        )
        seen |= sizes.keys()
    return results


def with_companions(result: PullResult, companions: Iterable[PreparedImage]) -> PullResult:
    """Return ``result`` with what came along."""
    return replace(result, companions=tuple(companion.listed.digest for companion in companions))


def _reference_of(name: ImageName, display_name: str, digest: Digest) -> str:
    """Return the name with the digest, as commands take it; a name from a layout may be anything, and then is not."""
    if name.full is not None:
        try:
            return str(ImageReference.parse(name.full).with_digest(digest))
        except InvalidReferenceError:
            pass
    return f"{display_name.partition('@')[0]}@{digest}"
