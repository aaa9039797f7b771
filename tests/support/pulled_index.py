"""A layout to damage and repair: an index of two platforms, pulled from a registry."""

from __future__ import annotations

import os

from ociexport.images.choose import PlatformChoice
from ociexport.transfer.pull import pull
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, build_image, build_index
from tests.support.memory_source import member

IMAGE = build_image([[member("a", os.urandom(300_000))], [member("b")]])
OTHER = build_image([[member("c")]], platform=ARM64)
INDEX = build_index([OTHER, IMAGE])
FIRST, SECOND = IMAGE.layers


def pull_all(registry: FakeRegistry, layout: DamagedLayout) -> DamagedLayout:
    """Return ``layout`` with both platforms, as pull writes them; the registry's log of requests is cleared."""
    pull(INDEX.serve(registry, "library/app", "1"), layout.path, platform=PlatformChoice())
    registry.requests.clear()
    return layout
