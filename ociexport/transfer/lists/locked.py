"""LockedImage: the digests that the name of an image led to when a list was locked."""

from __future__ import annotations

import json

from ociexport.images.choose import PlatformChoice
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass

LOCK_VERSION = 1
VERSION_KEY = "lockVersion"


@dataclass(frozen=True, slots=True)
class LockedManifest:
    """One manifest of a locked image.

    Args:
        platform: as the image declares it; None for an attestation or another artifact.
        size: of the manifest, its config and its layers, each once.
    """

    platform: str | None
    digest: Digest
    config_digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class LockedImage:
    """What a lock file says about one image.

    Args:
        name: under which a layout lists the image.
        source: what is pulled, as users type it.
        digest: of the published index or manifest that the name led to.
        listed: of what a layout lists for these platforms.
        choice: the platforms that were locked.
        manifests: those of the platforms.
        size: of everything that a pull stores for the image, each blob once.
        created: when the image was made, as its config says; None if it does not.
        time: when it was locked, by ``SOURCE_DATE_EPOCH``; None without it.
    """

    name: str
    source: str
    digest: Digest
    listed: Digest
    choice: PlatformChoice
    manifests: tuple[LockedManifest, ...]
    size: int
    created: str | None
    time: str | None

    def to_line(self) -> str:
        """Return the line of the lock file."""
        members = {
            VERSION_KEY: LOCK_VERSION,
            "name": self.name,
            "source": self.source,
            "digest": str(self.digest),
            "listed": str(self.listed),
            "requested": [str(platform) for platform in self.choice.platforms] or ["all"],
            "platforms": [
                {
                    "platform": one.platform,
                    "digest": str(one.digest),
                    "configDigest": str(one.config_digest),
                    "size": one.size,
                }
                for one in self.manifests
            ],
            "size": self.size,
            "created": self.created,
            "time": self.time,
        }
        return json.dumps(members, separators=(",", ":"), ensure_ascii=True) + "\n"
