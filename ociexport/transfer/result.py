"""PullResult: what a finished pull returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidReferenceError
from ociexport.images.prepare import PreparedImage
from ociexport.images.source import ImageName
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field, replace
from ociexport.spec.reference import ImageReference

if TYPE_CHECKING:
    from ociexport.storage.bundle_recipes import BundleRecipe


@dataclass(frozen=True, slots=True)
class PulledManifest:
    """One manifest that was pulled.

    Args:
        digest: of the manifest.
        config_digest: of an image, docker's image ID.
        is_image: whether it is an image's, not an attestation's or another artifact's.
        platform: the one that the image is for; None if undeclared, or for an artifact.
    """

    digest: Digest
    config_digest: Digest
    is_image: bool
    platform: Platform | None


@dataclass(frozen=True, slots=True)
class WrittenVolume:
    """One file of an archive in volumes.

    Args:
        sha256: as in ``SHA256SUMS``; None for one that is only planned.
    """

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaContent:
    """What recipes brought for an image.

    Args:
        recipes: that travel in place of layers.
        refused: layers that travel whole, since they can't be made again with their digests: the sizes of the layer
            and of the recipe that would have travelled.
        changed: manifests and indexes that were written anew: the new digests by the published ones.
    """

    recipes: tuple[BundleRecipe, ...]
    refused: Mapping[Digest, tuple[int, int]] = field(hash=False)
    changed: Mapping[Digest, Digest] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ThinContent:
    """The layers and other blobs of an image that was copied thin; configs and manifests are always in the copy.

    Args:
        new: those in the copy; of a layer that is made from a recipe, the recipe.
        expected: those left out, since the far side has them.
        volumes: of an archive in several files, all of them, also those without blobs of this image.
        delta: what recipes brought; None if none were asked for.
    """

    new: tuple[Descriptor, ...]
    expected: tuple[Descriptor, ...]
    volumes: tuple[WrittenVolume, ...] = ()
    delta: DeltaContent | None = None


@dataclass(frozen=True, slots=True)
class PullResult:
    """What was pulled.

    Args:
        name: the image's name at the source.
        reference: name and digest, ``docker.io/library/alpine:3.20@sha256:…``, which commands accept.
        digest: of the manifest or index that the destination lists.
        manifests: the pulled ones, first the one that represents the image where only one can; none of a build cache,
            whose index lists blobs only.
        fetched_blobs: how many blobs were fetched.
        fetched_bytes: how many bytes of these, without those of an earlier try.
        reused_blobs: how many valid blobs the destination already had.
        reused_bytes: how many bytes these have.
        companions: digests of the copied signatures, SBOMs and other referrers; the counts exclude their blobs.
        is_deep: whether the tar of each layer was compared with its diff_id; an artifact has none to compare.
        thin: of a thin copy, what is new in it and what it leaves out; None for a whole one.
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
    is_deep: bool = False
    thin: ThinContent | None = None

    @property
    def manifest_digest(self) -> Digest:
        """The first manifest's digest, or the index's if it lists none."""
        return self.manifests[0].digest if self.manifests else self.digest

    @property
    def config_digest(self) -> Digest:
        """The first manifest's config digest; of an image, docker's image ID."""
        return self.manifests[0].config_digest

    @property
    def is_image(self) -> bool:
        """Whether the first manifest is an image's, not an artifact's."""
        return bool(self.manifests) and self.manifests[0].is_image

    @property
    def platform(self) -> Platform | None:
        """The platform of the first manifest; None if undeclared, or for an artifact."""
        return self.manifests[0].platform if self.manifests else None


class FetchedBlobs(Protocol):
    """What a `BlobFetch` counts."""

    @property
    def fetched_bytes(self) -> Mapping[Digest, int]: ...

    @property
    def reused(self) -> Collection[Digest]: ...


def results_of(
    images: Sequence[PreparedImage], written: Sequence[PreparedImage], fetches: Sequence[FetchedBlobs]
) -> list[PullResult]:
    """Return a result for each image. A blob of several images is counted for the first.

    Args:
        images: as published.
        written: the same images as written to the destination.
        fetches: the fetches of their blobs; if empty, as for a stream, every blob counts as fetched.
    """
    results = []
    seen: set[Digest] = set()
    reused = {digest for fetch in fetches for digest in fetch.reused}
    for image, copy in zip(images, written, strict=True):
        sizes = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
        # An archive's configs are written without a fetch.
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
    """Return ``result`` with the digests of ``companions``."""
    return replace(result, companions=tuple(companion.listed.digest for companion in companions))


def _reference_of(name: ImageName, display_name: str, digest: Digest) -> str:
    """Return the name with the digest as commands accept it, or the display name if a layout's name is no reference."""
    if name.full is not None:
        try:
            return str(ImageReference.parse(name.full).with_digest(digest))
        except InvalidReferenceError:
            pass
    return f"{display_name.partition('@')[0]}@{digest}"
