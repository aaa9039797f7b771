"""Container images on disk, verified, with no daemon.

The public names are those in `__all__`; whatever is not there may change. They are loaded when first used, so that
``ociexport --version`` and a program that needs one of them pay for no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ociexport.choice import PlatformChoice
    from ociexport.digest import Digest
    from ociexport.documents import Platform
    from ociexport.errors import OciexportError
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
    from ociexport.registry.options import RegistryOptions
    from ociexport.signatures import SignaturePolicy, VerificationKey
    from ociexport.source_names import open_source
    from ociexport.sources import ImageDestination, ImageSource
    from ociexport.transfer import pull
    from ociexport.tree.layers import UnpackOptions, UnpackResult, unpack
    from ociexport.tree.limits import Limits
    from ociexport.verification.findings import Finding
    from ociexport.verification.repairing import RepairedBlob, RepairResult, UnrepairedBlob, repair
    from ociexport.verification.verifying import Verification, verify

__version__ = "0.1.0"

_HOMES = {
    "Access": "ociexport.looking.subject",
    "Credentials": "ociexport.registry.credentials",
    "Digest": "ociexport.digest",
    "EventProgress": "ociexport.progress_events",
    "Finding": "ociexport.verification.findings",
    "ImageDestination": "ociexport.sources",
    "ImageLayout": "ociexport.layout",
    "ImageReference": "ociexport.reference",
    "ImageSource": "ociexport.sources",
    "Inspection": "ociexport.inspection",
    "Limits": "ociexport.tree.limits",
    "ListedFile": "ociexport.looking.listing",
    "ListedLayer": "ociexport.looking.listing",
    "OciexportError": "ociexport.errors",
    "PathTrace": "ociexport.looking.provenance",
    "Platform": "ociexport.documents",
    "PlatformChoice": "ociexport.choice",
    "Progress": "ociexport.progress",
    "ProgressEvent": "ociexport.progress_events",
    "PullOutcome": "ociexport.many",
    "PullResult": "ociexport.pull_result",
    "RegistryOptions": "ociexport.registry.options",
    "RepairResult": "ociexport.verification.repairing",
    "RepairedBlob": "ociexport.verification.repairing",
    "SignaturePolicy": "ociexport.signatures",
    "UnpackOptions": "ociexport.tree.layers",
    "UnpackResult": "ociexport.tree.layers",
    "UnrepairedBlob": "ociexport.verification.repairing",
    "Verification": "ociexport.verification.verifying",
    "VerificationKey": "ociexport.signatures",
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
    "Credentials",
    "Digest",
    "EventProgress",
    "Finding",
    "ImageDestination",
    "ImageLayout",
    "ImageReference",
    "ImageSource",
    "Inspection",
    "Limits",
    "ListedFile",
    "ListedLayer",
    "OciexportError",
    "PathTrace",
    "Platform",
    "PlatformChoice",
    "Progress",
    "ProgressEvent",
    "PullOutcome",
    "PullResult",
    "RegistryOptions",
    "RepairResult",
    "RepairedBlob",
    "SignaturePolicy",
    "UnpackOptions",
    "UnpackResult",
    "UnrepairedBlob",
    "Verification",
    "VerificationKey",
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
