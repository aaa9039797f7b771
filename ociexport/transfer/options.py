"""PullOptions: what a pull takes of an image and how it stores that, as one value for all of `transfer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS, verify_jobs
from ociexport.images.source import ImageSource
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform

if TYPE_CHECKING:
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
        required: what must be beside the image: ``signature``, ``sbom``, ``referrers``; needs ``referrers``.
        thin: what the far side has and need not get; None to copy whole images.
        volume_bytes: the most that each volume of an archive may have; None for one archive. Needs ``thin``.

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
    required: tuple[str, ...] = ()
    thin: ThinOptions | None = None
    volume_bytes: int | None = None

    def __post_init__(self) -> None:
        verify_jobs(self.jobs)
        if self.referrers and (self.decompress or self.legacy):
            raise UsageError(
                "referrers: expected neither decompressed layers nor a legacy archive",
                hint="signatures and other referrers name the manifest as published",
            )
        if self.thin is not None and (self.decompress or self.legacy):
            raise UsageError(
                "since: expected neither decompressed layers nor a legacy archive",
                hint="the far side finds the layers that it has by the digests of the published image",
            )

    def signed(self, source: ImageSource) -> ImageSource:
        """Return ``source``; where signatures are required, a source around it that returns only a signed image."""
        if self.signatures is None:
            return source
        from ociexport.images.signatures import require_signature  # noqa: PLC0415 - start-up: few require signatures

        return require_signature(source, self.signatures)
