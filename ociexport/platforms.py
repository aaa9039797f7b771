"""Which manifest of an index fits which platform."""

from __future__ import annotations

import platform as host
import re
from collections.abc import Iterable
from dataclasses import replace

from ociexport.documents import Descriptor, Index, Platform
from ociexport.errors import NoMatchingPlatformError, UsageError, quoted

# What machines and people call an architecture, and what Go calls it.
_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "arm64e": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "loongarch64": ("loong64", None),
}
_SYSTEMS = {"macos": "darwin"}
# What an entry without a variant means, and so what such a variant is worth in a comparison.
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_VARIANT_PATTERN = re.compile(r"v?([0-9]{1,4})")
_PART_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")
# What a platform of attestations is called: it names no machine.
_UNKNOWN = "unknown"


def parse_platform(text: str) -> Platform:
    """Return the platform that ``os/arch[/variant]`` means; a bare architecture is one of Linux.

    Raises:
        UsageError: ``text`` has no or too many parts.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART_PATTERN.fullmatch(part) for part in parts):
        raise UsageError(
            f"platform {quoted(text)}: expected os/arch[/variant]", hint="for example --platform linux/arm64"
        )
    if len(parts) == 1:
        parts = ["linux", *parts]
    return normalize_platform(Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else None))


def host_platform() -> Platform:
    """Return the platform that images for this machine have: always Linux, since images for other systems are rare.

    On macOS docker runs images in a Linux machine, and so does whoever unpacks one there.
    """
    return normalize_platform(Platform("linux", host.machine() or _UNKNOWN))


def normalize_platform(platform: Platform) -> Platform:
    """Return ``platform`` in Go's words: ``x86_64`` is ``amd64``, ``armv7l`` is ``arm/v7``."""
    system, name = platform.os.lower(), platform.architecture.lower()
    architecture, variant = _ARCHITECTURES.get(name, (name, None))
    if platform.variant:
        variant = platform.variant.lower()
        if variant[0].isdigit():
            variant = f"v{variant}"
    if _DEFAULT_VARIANTS.get(architecture) == variant and architecture != "arm":
        variant = None
    return replace(platform, os=_SYSTEMS.get(system, system), architecture=architecture, variant=variant)


def select_manifest(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry of ``index`` that runs best on ``wanted``; the first of equals.

    An entry of a lower variant runs on a machine of a higher one (``arm/v6`` on ``arm/v7``), so the highest that is
    not above the wanted one is taken, as containerd does. Attestations are no platforms. An entry without a platform,
    where it is the only one, is taken as it is.

    Raises:
        NoMatchingPlatformError: lists the platforms there are.
    """
    candidates = [entry for entry in index.manifests if not entry.is_attestation]
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    fitting = [
        (rank, entry)
        for entry in candidates
        if entry.platform is not None and (rank := _rank(normalize_platform(entry.platform), wanted)) is not None
    ]
    if not fitting:
        raise NoMatchingPlatformError(
            f"manifest {index.digest}: no image for platform {wanted}, there are: {_listed(candidates)}",
            hint="choose one with --platform",
        )
    return max(fitting, key=lambda ranked: ranked[0])[1]


def fits_platform(offered: Platform, wanted: Platform) -> bool:
    """Whether what is for ``offered`` runs on ``wanted``; see `select_manifest`."""
    return _rank(normalize_platform(offered), wanted) is not None


def _rank(offered: Platform, wanted: Platform) -> int | None:
    """Return how well ``offered`` fits, higher being better; None where it does not run on ``wanted``."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if _UNKNOWN in (offered.os, offered.architecture):
        return None
    if wanted.os_version and offered.os_version and wanted.os_version != offered.os_version:
        return None
    if not set(wanted.os_features) <= set(offered.os_features):
        return None
    offered_variant, wanted_variant = _variant_number(offered), _variant_number(wanted)
    if offered_variant is None or wanted_variant is None:
        return 0 if offered.variant == wanted.variant else None
    return offered_variant if offered_variant <= wanted_variant else None


def _variant_number(platform: Platform) -> int | None:
    variant = platform.variant or _DEFAULT_VARIANTS.get(platform.architecture, "")
    match = _VARIANT_PATTERN.fullmatch(variant)
    return int(match[1]) if match else None


def _listed(entries: Iterable[Descriptor]) -> str:
    return ", ".join(dict.fromkeys(str(entry.platform) for entry in entries if entry.platform is not None)) or "none"
