"""Container images on disk, verified, with no daemon.

The public names are those in `__all__`; whatever is not there may change. They are loaded when first used, so that
``ociexport --version`` and a program that needs one of them pay for no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ociexport.choice import PlatformChoice
    from ociexport.digest import Digest
    from ociexport.documents import Descriptor, Platform
    from ociexport.errors import (
        AuthenticationError,
        DiffIdMismatchError,
        DigestMismatchError,
        InvalidDigestError,
        InvalidImageError,
        InvalidReferenceError,
        LimitExceededError,
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
    from ociexport.inspection import Inspection, inspect
    from ociexport.layout import ImageLayout
    from ociexport.looking.content import open_file, open_files
    from ociexport.looking.listing import ListedFile, ListedLayer, list_files, list_layers
    from ociexport.looking.provenance import PathTrace, trace_path
    from ociexport.looking.subject import Access
    from ociexport.many import PullOutcome, pull_many
    from ociexport.platforms import parse_platform
    from ociexport.progress import Progress
    from ociexport.progress_events import EventProgress, ProgressEvent
    from ociexport.pull_result import PullResult
    from ociexport.reference import ImageReference
    from ociexport.registry.credentials import Credentials
    from ociexport.registry.options import Mirror, RegistryOptions
    from ociexport.signatures import SignaturePolicy, VerificationKey
    from ociexport.source_names import open_source
    from ociexport.sources import ImageDestination, ImageName, ImageSource, ReceivedManifest
    from ociexport.transfer import pull
    from ociexport.tree.layers import UnpackOptions, UnpackResult, unpack
    from ociexport.tree.limits import Limits
    from ociexport.tree.metadata import IdMap, XattrMode
    from ociexport.tree.selection import PathSelection
    from ociexport.verification.findings import Finding
    from ociexport.verification.repairing import PlannedRepair, RepairedBlob, RepairResult, UnrepairedBlob, repair
    from ociexport.verification.verifying import Verification, verify

__version__ = "0.1.0"

_HOMES = {
    "Access": "ociexport.looking.subject",
    "AuthenticationError": "ociexport.errors",
    "Credentials": "ociexport.registry.credentials",
    "Descriptor": "ociexport.documents",
    "DiffIdMismatchError": "ociexport.errors",
    "Digest": "ociexport.digest",
    "DigestMismatchError": "ociexport.errors",
    "EventProgress": "ociexport.progress_events",
    "Finding": "ociexport.verification.findings",
    "IdMap": "ociexport.tree.metadata",
    "ImageDestination": "ociexport.sources",
    "ImageLayout": "ociexport.layout",
    "ImageName": "ociexport.sources",
    "ImageReference": "ociexport.reference",
    "ImageSource": "ociexport.sources",
    "Inspection": "ociexport.inspection",
    "InvalidDigestError": "ociexport.errors",
    "InvalidImageError": "ociexport.errors",
    "InvalidReferenceError": "ociexport.errors",
    "LimitExceededError": "ociexport.errors",
    "Limits": "ociexport.tree.limits",
    "ListedFile": "ociexport.looking.listing",
    "ListedLayer": "ociexport.looking.listing",
    "Mirror": "ociexport.registry.options",
    "NoMatchingPlatformError": "ociexport.errors",
    "NotFoundError": "ociexport.errors",
    "OciexportError": "ociexport.errors",
    "PathSelection": "ociexport.tree.selection",
    "PathTrace": "ociexport.looking.provenance",
    "PlannedRepair": "ociexport.verification.repairing",
    "Platform": "ociexport.documents",
    "PlatformChoice": "ociexport.choice",
    "Progress": "ociexport.progress",
    "ProgressEvent": "ociexport.progress_events",
    "PullOutcome": "ociexport.many",
    "PullResult": "ociexport.pull_result",
    "RateLimitError": "ociexport.errors",
    "ReceivedManifest": "ociexport.sources",
    "RegistryError": "ociexport.errors",
    "RegistryNotFoundError": "ociexport.errors",
    "RegistryOptions": "ociexport.registry.options",
    "RepairResult": "ociexport.verification.repairing",
    "RepairedBlob": "ociexport.verification.repairing",
    "SignatureError": "ociexport.errors",
    "SignaturePolicy": "ociexport.signatures",
    "SizeMismatchError": "ociexport.errors",
    "TransferError": "ociexport.errors",
    "UnpackOptions": "ociexport.tree.layers",
    "UnpackResult": "ociexport.tree.layers",
    "UnrepairedBlob": "ociexport.verification.repairing",
    "UnsafeEntryError": "ociexport.errors",
    "UnsupportedMediaTypeError": "ociexport.errors",
    "UsageError": "ociexport.errors",
    "Verification": "ociexport.verification.verifying",
    "VerificationKey": "ociexport.signatures",
    "XattrMode": "ociexport.tree.metadata",
    "inspect": "ociexport.inspection",
    "list_files": "ociexport.looking.listing",
    "list_layers": "ociexport.looking.listing",
    "open_file": "ociexport.looking.content",
    "open_files": "ociexport.looking.content",
    "open_source": "ociexport.source_names",
    "parse_platform": "ociexport.platforms",
    "pull": "ociexport.transfer",
    "pull_many": "ociexport.many",
    "repair": "ociexport.verification.repairing",
    "trace_path": "ociexport.looking.provenance",
    "unpack": "ociexport.tree.layers",
    "verify": "ociexport.verification.verifying",
}

__all__ = [
    "Access",
    "AuthenticationError",
    "Credentials",
    "Descriptor",
    "DiffIdMismatchError",
    "Digest",
    "DigestMismatchError",
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
    "LimitExceededError",
    "Limits",
    "ListedFile",
    "ListedLayer",
    "Mirror",
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
    "UnpackResult",
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
    "open_file",
    "open_files",
    "open_source",
    "parse_platform",
    "pull",
    "pull_many",
    "repair",
    "trace_path",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415 - who asks for the version only needs none of it

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ociexport' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
