"""Parsing of platforms, and the choice of an index's manifest for a platform."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ociexport.errors import NoMatchingPlatformError, UnsupportedMediaTypeError, UsageError, quoted
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Index
from ociexport.spec.numerals import number_in, number_up_to

_T = TypeVar("_T")

# Other names of architectures, from machines and people, and Go's name and variant for each.
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
# The variant of a platform that names none.
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_VARIANT_PATTERN = re.compile(r"v?([0-9]{1,4})")
_PART_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")
# containerd's syntax for a system's version and features: windows(10.0.17763+win32k)/amd64.
_SYSTEM_PATTERN = re.compile(r"([A-Za-z0-9_.-]+)\(([A-Za-z0-9_.-]*)((?:\+[A-Za-z0-9_.-]+)*)\)")
# Windows Server 2022. From this build on, Windows also runs images of older builds, back to the previous release with
# long-term support. Before it, host and image must have the same build.
_FIRST_BUILD_THAT_RUNS_OLDER = 20348
_LONG_SUPPORTED_BUILDS = (20348, 26100)
# Architectures that images are published for, in Go's words (GOARCH); none of them is a misspelling.
_COMMON = frozenset({"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "mips64le", "wasm"})
_COMMON_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "wasip1"})
# The lowest difflib ratio that counts as a misspelling, such as swapped letters (linux/amd46).
_NEAR = 0.85
# The name in platforms of attestations, which run on no machine.
_UNKNOWN = "unknown"


def parse_platform(text: str) -> Platform:
    """Return ``os/arch[/variant]`` parsed as a platform; a bare architecture means Linux.

    A version and features may follow the system's name: ``windows(10.0.17763+win32k)/amd64``.

    Raises:
        UsageError: ``text`` has too many parts, or a part is empty or has other characters.
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    system = _SYSTEM_PATTERN.fullmatch(parts[0])
    if system:
        parts[0] = system[1]
    if len(parts) > 3 or not all(_PART_PATTERN.fullmatch(part) for part in parts):
        raise UsageError(
            f"platform {quoted(text)}: expected os/arch[/variant]", hint="for example --platform linux/arm64"
        )
    platform = Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else None)
    if system:
        features = tuple(part for part in system[3].split("+") if part)
        platform = replace(platform, os_version=system[2] or None, os_features=features)
    return normalize_platform(platform)


def host_platform() -> Platform:
    """Return the platform of images for this machine: always Linux, since images for other systems are rare.

    On macOS too, images are for Linux: docker runs them there in a virtual machine with Linux.
    """
    return normalize_platform(Platform("linux", os.uname().machine or _UNKNOWN, is_default=True))


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


def select_manifest(
    index: Index, wanted: Platform, judge: Callable[[Descriptor], Iterable[Platform]] | None = None
) -> Descriptor:
    """Return the entry of ``index`` that runs best on ``wanted``; the first of equals.

    An image of a lower variant runs on a machine of a higher one (``arm/v6`` on ``arm/v7``). So the highest variant
    that is not above the machine's is chosen, as in containerd. ``wanted`` must have all system features that an entry
    names (image-index.md: they are mandatory for the image). Versions count on Windows only. Attestations are skipped.
    A single entry without a platform is chosen without a check. Where no declared platform fits, ``judge`` is asked
    about each of several entries without one.

    Args:
        judge: returns the platforms that an entry is for, although the index declares none; None if nothing tells.

    Raises:
        NoMatchingPlatformError: no entry fits; the message lists the available platforms.
        UnsupportedMediaTypeError: no entry can be an image.
    """
    candidates = [entry for entry in index.manifests if _may_be_image(entry)]
    if not candidates:
        verify_lists_documents(index)
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    offered = [(entry.platform, entry) for entry in candidates if entry.platform is not None]
    found = best_of(offered, wanted)
    if not found and judge is not None:
        judged = [(platform, entry) for entry in candidates if entry.platform is None for platform in judge(entry)]
        found = best_of(judged, wanted)
        offered += judged
    if not found:
        platforms = dict.fromkeys(platform for platform, _ in offered)
        raise NoMatchingPlatformError(
            f"manifest {index.digest}: no image for platform {wanted}, "
            f"there are: {', '.join(dict.fromkeys(map(str, platforms))) or 'none'}",
            hint=hint_for(wanted, platforms),
        )
    return found[0]


def verify_lists_documents(index: Index) -> None:
    """Return if ``index`` lists manifests or indexes, or nothing.

    Raises:
        UnsupportedMediaTypeError: it lists other blobs only, as the index of a build cache does.

    Spec: BuildKit's remote cache, "type=registry": its layers are listed as manifests, and a config after them.
    """
    kinds = dict.fromkeys(entry.media_type for entry in index.manifests if not _may_be_document(entry))
    if kinds and not any(map(_may_be_document, index.manifests)):
        what = (
            "a build cache"
            if kinds.keys() & mediatypes.CACHE_CONFIGS
            else f"blobs of type {', '.join(map(quoted, kinds))}"
        )
        raise UnsupportedMediaTypeError(
            f"holds no image, but {what}", where=f"manifest {index.digest}", hint="pull --all copies what it lists"
        )


def _may_be_document(entry: Descriptor) -> bool:
    return not entry.media_type or entry.media_type in mediatypes.DOCUMENTS or entry.platform is not None


def _may_be_image(entry: Descriptor) -> bool:
    return _may_be_document(entry) and not entry.is_attestation


def best_of(offered: Iterable[tuple[Platform, _T]], wanted: Platform) -> list[_T]:
    """Return those whose platforms fit ``wanted`` best: none, one, or several equals, in order."""
    ranked = [(_rank(normalize_platform(platform), wanted), item) for platform, item in offered]
    best = max((rank for rank, _ in ranked if rank is not None), default=None)
    return [item for rank, item in ranked if rank is not None and rank == best]


def hint_for(wanted: Platform, offered: Iterable[Platform]) -> str | None:
    """Return a hint that names the offered platform that is probably meant, or else the first; None if there are none.

    Only a name that is not a common one may be a misspelling: ``arm64`` is never meant to be ``amd64``.
    """
    from difflib import SequenceMatcher  # noqa: PLC0415 - start-up: only an error needs it

    names: list[str] = []
    near: list[tuple[float, str]] = []
    for platform in dict.fromkeys(offered):
        other = normalize_platform(platform)
        names.append(str(platform))
        if (wanted.os in _COMMON_SYSTEMS and other.os != wanted.os) or (
            wanted.architecture in _COMMON and other.architecture != wanted.architecture
        ):
            continue
        if (wanted.os, wanted.architecture) != (other.os, other.architecture):
            written, meant = (f"{one.os}/{one.architecture}" for one in (wanted, other))
            if len(meant) <= 2 * len(written):  # the time to compare is bounded, whatever an index contains
                near.append((SequenceMatcher(None, written, meant).ratio(), str(platform)))
    likeness, name = max(near, key=lambda pair: pair[0], default=(0.0, ""))
    if likeness >= _NEAR:
        return f"did you mean --platform {name}?"
    return f"for example --platform {names[0]}" if names else None


def fits_platform(offered: Platform, wanted: Platform) -> bool:
    """Whether an image for ``offered`` runs on ``wanted``; see `select_manifest`."""
    return _rank(normalize_platform(offered), wanted) is not None


def contradicts(offered: Platform | None, wanted: Platform) -> bool:
    """Whether a config that declares ``offered`` is not one of an image for ``wanted``.

    A config without a platform or without its variant contradicts nothing.

    Spec: image-spec 1.1 config.md: the variant is optional.
    """
    if offered is None:
        return False
    wanted = normalize_platform(wanted)
    return not fits_platform(replace(offered, variant=offered.variant or wanted.variant), wanted)


def verify_not_contradicted(offered: Platform | None, wanted: Platform, where: str) -> None:
    """Return if an image without an index, whose config declares ``offered``, may be used for ``wanted``.

    An image for another platform may be used if nobody requested a platform.

    Raises:
        NoMatchingPlatformError: ``wanted`` was requested, and the config declares another platform.
    """
    if not wanted.is_default and contradicts(offered, wanted):
        raise NoMatchingPlatformError(
            f"{where}: no image for platform {wanted}, there is only: {offered}",
            hint=hint_for(wanted, [offered] if offered is not None else []),
        )


def _rank(offered: Platform, wanted: Platform) -> tuple[int, Sequence[int]] | None:
    """Return how well ``offered`` fits ``wanted``, higher is better; None if it does not run there."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if _UNKNOWN in (offered.os, offered.architecture):
        return None
    if not _needed_features(offered) <= set(wanted.os_features):
        return None
    if wanted.os == "windows" and not _runs_windows(wanted.os_version, offered.os_version):
        return None
    version = _version_numbers(offered.os_version)
    offered_variant, wanted_variant = _variant_number(offered), _variant_number(wanted)
    if offered_variant is None or wanted_variant is None:
        return (0, version) if offered.variant == wanted.variant else None
    return (offered_variant, version) if offered_variant <= wanted_variant else None


def _needed_features(offered: Platform) -> set[str]:
    """Return the system features that the image requires.

    ``win32k`` is ignored, as in containerd, since only Nano Server lacks it.
    """
    features = set(offered.os_features)
    return features - {"win32k"} if offered.os == "windows" else features


def _runs_windows(host: str | None, image: str | None) -> bool:
    """Whether Windows of version ``host`` runs an image of version ``image``; a version that is not given fits any.

    Source: Microsoft's table of Windows container version compatibility, as containerd reads it.
    """
    if not host or not image:
        return True
    wanted, offered = _version_numbers(host), _version_numbers(image)
    if len(wanted) < 3 or len(offered) < 3:
        return wanted == offered[: len(wanted)]
    if wanted[:2] != offered[:2]:
        return False
    if wanted[2] < _FIRST_BUILD_THAT_RUNS_OLDER:
        return wanted[2] == offered[2]
    oldest = max((build for build in _LONG_SUPPORTED_BUILDS if build < wanted[2]), default=wanted[2])
    return oldest <= offered[2] <= wanted[2]


def _version_numbers(version: str | None) -> list[int]:
    """Return the numbers of ``10.0.17763.2300``, up to the first part that is not a number."""
    numbers = (number_up_to(part, 10**9) for part in (version or "").split("."))
    return [number for number in itertools.takewhile(lambda number: number is not None, numbers) if number is not None]


def _variant_number(platform: Platform) -> int | None:
    variant = platform.variant or _DEFAULT_VARIANTS.get(platform.architecture, "")
    match = _VARIANT_PATTERN.fullmatch(variant)
    return number_in(match[1]) if match else None
