"""PullOptions: what a pull takes of an image and how it stores that, as one value for all of `transfer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS, verify_jobs
from ociexport.images.source import ImageSource, is_remote
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.platforms import host_platform

if TYPE_CHECKING:
    from ociexport.images.diff_id_checks import DiffIdChecks, VerifiedDiffIds
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.transfer.bundle.select import ThinOptions


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What a pull takes of an image, and how it stores that.

    Without ``signatures`` the value can be pickled, and sent to a worker of `pull_many`.

    Args:
        platform: the platform to take, or several.
        jobs: how many blobs are fetched in parallel.
        decompress: whether layers are stored as plain tars; the manifest changes, the config does not.
        legacy: whether the archive is for engines before Docker 1.10.
        referrers: whether signatures, SBOMs and other artifacts that refer to the image are copied too.
        signatures: which signatures the image must have; None for none.
        max_memory: bytes of memory for the window of a zstd layer, where layers are decompressed; None for what is
            available, at most 2 GiB.
        deep: whether each layer's tar is compared with its diff_id while the layer arrives. None for the default: yes
            for an archive of an image from a registry, as long as the network takes longer, and wherever layers are
            stored as plain tars, since these are inflated anyway.
        required: what must be beside the image: ``signature``, ``sbom``, ``referrers``; needs ``referrers``.
        thin: what the far side has and need not get; None to copy whole images.
        volume_bytes: the most that each volume of an archive may have; None for one archive. Needs ``thin``, without
            recipes.
        recheck: whether the blobs that a layout has are read and verified although their files did not change since
            an earlier run did that.
        platforms: of each image, where several are copied together; None for ``platform`` for all of them.
        is_alone: whether nothing else copies images into the same place meanwhile. Then layers are requested together
            with the config; otherwise two copies could both request a layer that they share.

    Raises:
        UsageError: ``jobs`` is out of range, or ``referrers`` or ``thin`` is combined with an option that changes the
            manifest.
    """

    platform: Platform | PlatformChoice = field(default_factory=host_platform)
    jobs: int = DEFAULT_JOBS
    decompress: bool = False
    legacy: bool = False
    referrers: bool = False
    signatures: SignaturePolicy | None = None
    max_memory: int | None = None
    deep: bool | None = None
    required: tuple[str, ...] = ()
    thin: ThinOptions | None = None
    volume_bytes: int | None = None
    recheck: bool = False
    platforms: tuple[PlatformChoice, ...] | None = None
    is_alone: bool = False

    def __post_init__(self) -> None:
        verify_jobs(self.jobs)
        if self.referrers and (self.decompress or self.legacy):
            raise UsageError(
                "referrers: expected neither decompressed layers nor a legacy archive",
                hint="signatures and other referrers name the manifest as published",
            )
        if self.volume_bytes is not None and self.deep:
            raise UsageError(
                "deep: expected no volumes, into which a layer may be cut",
                hint="pull --deep into a layout first, and write the volumes from there",
            )
        if self.volume_bytes is not None and self.thin is not None and self.thin.delta is not None:
            raise UsageError(
                "delta: expected no volumes, into which a recipe may be cut",
                hint="an update of recipes is one archive; without delta, whole layers travel in volumes",
            )
        if self.thin is not None and (self.decompress or self.legacy):
            raise UsageError(
                "since: expected neither decompressed layers nor a legacy archive",
                hint="the far side finds the layers that it has by the digests of the published image",
            )

    def platform_of(self, number: int) -> Platform | PlatformChoice:
        """Return the platforms to take of the image with this number, from 0."""
        return self.platform if self.platforms is None else self.platforms[number]

    def is_deep_for(self, source: ImageSource, *, into_archive: bool) -> bool:
        """Whether the diff_ids of an image from ``source`` are verified; see ``deep``."""
        if self.deep is not None or self.volume_bytes is not None:
            return bool(self.deep)
        return self.decompress or self.legacy or (into_archive and is_remote(source))

    def new_diff_id_checks(self, verified: VerifiedDiffIds | None = None) -> DiffIdChecks:
        """Return the checks of one run.

        Only if the user asked for them, an encrypted layer is refused, and layers wait for their checks.

        Args:
            verified: from earlier images of the same run, and for later ones.
        """
        from ociexport.images.diff_id_checks import DiffIdChecks  # noqa: PLC0415 - start-up: some pulls do without

        is_default = self.deep is None
        is_hidden = is_default and not (self.decompress or self.legacy)
        return DiffIdChecks(verified, max_memory=self.max_memory, passes_encrypted=is_default, must_be_hidden=is_hidden)

    def signed(self, source: ImageSource) -> ImageSource:
        """Return ``source``; where signatures are required, a source around it that returns only a signed image."""
        if self.signatures is None:
            return source
        from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: few require signatures

        return require_signature(source, self.signatures)
