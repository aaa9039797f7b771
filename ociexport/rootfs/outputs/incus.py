"""What Incus needs beside a root filesystem in its unified tar: ``metadata.yaml``, made from the image's config.

Spec: linuxcontainers.org, Incus, "Image format", "Metadata"; its "Architectures".
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.spec.config import ImageConfig

ROOTFS_PREFIX = b"rootfs/"
# Names of architectures in Incus by those in an image's config (Go's); any other name is kept.
_ARCHITECTURES = {
    "amd64": "x86_64",
    "386": "i686",
    "arm64": "aarch64",
    "ppc64": "ppc64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "mips": "mips",
    "mips64": "mips64",
    "mips64le": "mips64el",
    "riscv64": "riscv64",
    "loong64": "loongarch64",
}
_ARM = {"v6": "armv6l", "v7": "armv7l", "v8": "armv8l"}
_PROPERTIES = {
    "name": "org.opencontainers.image.title",
    "description": "org.opencontainers.image.description",
    "release": "org.opencontainers.image.version",
    "serial": "org.opencontainers.image.revision",
}
_NAME = b"metadata.yaml"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS = 1_000_000_000


def incus_files(config: ImageConfig, max_mtime_ns: int | None) -> Iterator[tuple[Entry, bytes]]:
    """Yield the file ``metadata.yaml`` for an image.

    Args:
        max_mtime_ns: a newer time of creation is replaced by this one.
    """
    created = _created(config.created)
    if max_mtime_ns is not None:
        created = min(created, max_mtime_ns // _NANOSECONDS) if created is not None else max_mtime_ns // _NANOSECONDS
    # Incus refuses 0, and takes it for a missing date.
    created = max(created or 0, 1)
    architecture = _architecture_of(config)
    properties = {
        "architecture": architecture,
        "os": config.platform.os,
        "description": f"OCI image {config.digest}",
        **{name: value for name, label in _PROPERTIES.items() if (value := config.container.labels.get(label))},
    }
    lines = [
        f"architecture: {_yaml_text(architecture)}",
        f"creation_date: {created}",
        "properties:",
        *(f"  {name}: {_yaml_text(value)}" for name, value in sorted(properties.items())),
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    time_ns = created * _NANOSECONDS
    yield Entry(EntryType.FILE, _NAME, b"", 0o644, 0, 0, len(content), time_ns, None, None, (0, 0), None), content


def _yaml_text(text: str) -> str:
    """Return any text in YAML's double quotes (YAML 1.2, 5.7)."""
    text = text.encode("utf-8", "replace").decode()
    shown = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)
    return f'"{"".join(shown)}"'


def _architecture_of(config: ImageConfig) -> str:
    platform = config.platform
    if platform.architecture == "arm":
        return _ARM.get(platform.variant or "v7", "armv7l")
    return _ARCHITECTURES.get(platform.architecture, platform.architecture)


def _created(text: str | None) -> int | None:
    """Return the seconds since 1970 of a time in a config; None if there is none that can be read."""
    try:
        time = datetime.fromisoformat(text or "")
        return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
