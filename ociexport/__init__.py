"""Container images on disk, verified, with no daemon.

The public names are those in `__all__`; all other names may change. Each is loaded at first use, so ``ociexport
--version`` loads none of them, and a program loads only those that it uses.
"""

from __future__ import annotations

from ociexport.system.version import __version__

# Type checkers take it for true. The one of `typing` would cost `ociexport --version` a tenth of its time.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from ociexport.errors import (
        AuthenticationError,
        DiffIdMismatchError,
        DigestMismatchError,
        InvalidDigestError,
        InvalidImageError,
        InvalidReferenceError,
        LimitExceededError,
        MissingBlobsError,
        NoMatchingPlatformError,
        NotFoundError,
        OciexportError,
        RateLimitError,
        RegistryError,
        RegistryNotFoundError,
        SignatureError,
        SizeMismatchError,
        TransferError,
        UnsafeEntryError,
        UnsupportedMediaTypeError,
        UsageError,
    )
    from ociexport.images.choose import PlatformChoice
    from ociexport.images.destination import ImageDestination
    from ociexport.images.keys import VerificationKey
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.images.source import ImageName, ImageSource, ReceivedManifest
    from ociexport.inspection.access import Access
    from ociexport.inspection.inspect import Inspection, inspect
    from ociexport.inspection.list_files import ListedFile, ListedLayer, list_files, list_layers
    from ociexport.inspection.open_files import open_file, open_files
    from ociexport.inspection.trace_path import PathTrace, trace_path
    from ociexport.layers.limits import Limits
    from ociexport.layers.selection import PathSelection
    from ociexport.registry.options import Credentials, Mirror, RegistryOptions
    from ociexport.rootfs.disk.metadata import IdMap, XattrMode
    from ociexport.rootfs.outputs.formats import DiskImageOptions
    from ociexport.rootfs.outputs.layers.unpack import LayersResult, UnpackedLayer, unpack_layers
    from ociexport.rootfs.unpack import UnpackOptions, UnpackResult, unpack
    from ociexport.rootfs.unpack_many import UnpackOutcome, UnpackRequest, unpack_many
    from ociexport.spec.descriptor import Descriptor, Platform
    from ociexport.spec.digest import Digest
    from ociexport.spec.platforms import parse_platform
    from ociexport.spec.reference import ImageReference
    from ociexport.storage.layout.layout import ImageLayout
    from ociexport.system.progress.events import EventProgress, ProgressEvent
    from ociexport.system.progress.protocol import Progress
    from ociexport.transfer.bundle.merge import MergedImage, MergeResult, MissingBlob, merge
    from ociexport.transfer.pull import pull
    from ociexport.transfer.pull_many import PullOutcome, pull_many
    from ociexport.transfer.push import BlobCount, PushResult, push
    from ociexport.transfer.result import PullResult
    from ociexport.transfer.sources.open import open_source
    from ociexport.verification.findings import Finding
    from ociexport.verification.repair import PlannedRepair, RepairedBlob, RepairResult, UnrepairedBlob, repair
    from ociexport.verification.verify import Verification, verify


_HOMES = {
    "Access": "ociexport.inspection.access",
    "AuthenticationError": "ociexport.errors",
    "BlobCount": "ociexport.transfer.push",
    "Credentials": "ociexport.registry.options",
    "Descriptor": "ociexport.spec.descriptor",
    "DiffIdMismatchError": "ociexport.errors",
    "Digest": "ociexport.spec.digest",
    "DigestMismatchError": "ociexport.errors",
    "DiskImageOptions": "ociexport.rootfs.outputs.formats",
    "EventProgress": "ociexport.system.progress.events",
    "Finding": "ociexport.verification.findings",
    "IdMap": "ociexport.rootfs.disk.metadata",
    "ImageDestination": "ociexport.images.destination",
    "ImageLayout": "ociexport.storage.layout.layout",
    "ImageName": "ociexport.images.source",
    "ImageReference": "ociexport.spec.reference",
    "ImageSource": "ociexport.images.source",
    "Inspection": "ociexport.inspection.inspect",
    "InvalidDigestError": "ociexport.errors",
    "InvalidImageError": "ociexport.errors",
    "InvalidReferenceError": "ociexport.errors",
    "LayersResult": "ociexport.rootfs.outputs.layers.unpack",
    "LimitExceededError": "ociexport.errors",
    "Limits": "ociexport.layers.limits",
    "ListedFile": "ociexport.inspection.list_files",
    "ListedLayer": "ociexport.inspection.list_files",
    "MergeResult": "ociexport.transfer.bundle.merge",
    "MergedImage": "ociexport.transfer.bundle.merge",
    "Mirror": "ociexport.registry.options",
    "MissingBlob": "ociexport.transfer.bundle.merge",
    "MissingBlobsError": "ociexport.errors",
    "NoMatchingPlatformError": "ociexport.errors",
    "NotFoundError": "ociexport.errors",
    "OciexportError": "ociexport.errors",
    "PathSelection": "ociexport.layers.selection",
    "PathTrace": "ociexport.inspection.trace_path",
    "PlannedRepair": "ociexport.verification.repair",
    "Platform": "ociexport.spec.descriptor",
    "PlatformChoice": "ociexport.images.choose",
    "Progress": "ociexport.system.progress.protocol",
    "ProgressEvent": "ociexport.system.progress.events",
    "PullOutcome": "ociexport.transfer.pull_many",
    "PullResult": "ociexport.transfer.result",
    "PushResult": "ociexport.transfer.push",
    "RateLimitError": "ociexport.errors",
    "ReceivedManifest": "ociexport.images.source",
    "RegistryError": "ociexport.errors",
    "RegistryNotFoundError": "ociexport.errors",
    "RegistryOptions": "ociexport.registry.options",
    "RepairResult": "ociexport.verification.repair",
    "RepairedBlob": "ociexport.verification.repair",
    "SignatureError": "ociexport.errors",
    "SignaturePolicy": "ociexport.images.signatures",
    "SizeMismatchError": "ociexport.errors",
    "TransferError": "ociexport.errors",
    "UnpackOptions": "ociexport.rootfs.unpack",
    "UnpackOutcome": "ociexport.rootfs.unpack_many",
    "UnpackRequest": "ociexport.rootfs.unpack_many",
    "UnpackResult": "ociexport.rootfs.unpack",
    "UnpackedLayer": "ociexport.rootfs.outputs.layers.unpack",
    "UnrepairedBlob": "ociexport.verification.repair",
    "UnsafeEntryError": "ociexport.errors",
    "UnsupportedMediaTypeError": "ociexport.errors",
    "UsageError": "ociexport.errors",
    "Verification": "ociexport.verification.verify",
    "VerificationKey": "ociexport.images.keys",
    "XattrMode": "ociexport.rootfs.disk.metadata",
    "inspect": "ociexport.inspection.inspect",
    "list_files": "ociexport.inspection.list_files",
    "list_layers": "ociexport.inspection.list_files",
    "merge": "ociexport.transfer.bundle.merge",
    "open_file": "ociexport.inspection.open_files",
    "open_files": "ociexport.inspection.open_files",
    "open_source": "ociexport.transfer.sources.open",
    "parse_platform": "ociexport.spec.platforms",
    "pull": "ociexport.transfer.pull",
    "pull_many": "ociexport.transfer.pull_many",
    "push": "ociexport.transfer.push",
    "repair": "ociexport.verification.repair",
    "trace_path": "ociexport.inspection.trace_path",
    "unpack": "ociexport.rootfs.unpack",
    "unpack_layers": "ociexport.rootfs.outputs.layers.unpack",
    "unpack_many": "ociexport.rootfs.unpack_many",
    "verify": "ociexport.verification.verify",
}

__all__ = [
    "Access",
    "AuthenticationError",
    "BlobCount",
    "Credentials",
    "Descriptor",
    "DiffIdMismatchError",
    "Digest",
    "DigestMismatchError",
    "DiskImageOptions",
    "EventProgress",
    "Finding",
    "IdMap",
    "ImageDestination",
    "ImageLayout",
    "ImageName",
    "ImageReference",
    "ImageSource",
    "Inspection",
    "InvalidDigestError",
    "InvalidImageError",
    "InvalidReferenceError",
    "LayersResult",
    "LimitExceededError",
    "Limits",
    "ListedFile",
    "ListedLayer",
    "MergeResult",
    "MergedImage",
    "Mirror",
    "MissingBlob",
    "MissingBlobsError",
    "NoMatchingPlatformError",
    "NotFoundError",
    "OciexportError",
    "PathSelection",
    "PathTrace",
    "PlannedRepair",
    "Platform",
    "PlatformChoice",
    "Progress",
    "ProgressEvent",
    "PullOutcome",
    "PullResult",
    "PushResult",
    "RateLimitError",
    "ReceivedManifest",
    "RegistryError",
    "RegistryNotFoundError",
    "RegistryOptions",
    "RepairResult",
    "RepairedBlob",
    "SignatureError",
    "SignaturePolicy",
    "SizeMismatchError",
    "TransferError",
    "UnpackOptions",
    "UnpackOutcome",
    "UnpackRequest",
    "UnpackResult",
    "UnpackedLayer",
    "UnrepairedBlob",
    "UnsafeEntryError",
    "UnsupportedMediaTypeError",
    "UsageError",
    "Verification",
    "VerificationKey",
    "XattrMode",
    "__version__",
    "inspect",
    "list_files",
    "list_layers",
    "merge",
    "open_file",
    "open_files",
    "open_source",
    "parse_platform",
    "pull",
    "pull_many",
    "push",
    "repair",
    "trace_path",
    "unpack",
    "unpack_layers",
    "unpack_many",
    "verify",
]


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415 - start-up: `ociexport --version` does not need it

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ociexport' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
