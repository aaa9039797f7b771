"""Images for tests of `ociexport push`, and what is read from a push."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import TypeAlias

from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, build_attestation, build_image, build_index
from tests.support.memory_source import member

MIB = 1024 * 1024
BASE = [member("base", os.urandom(300_000))]
APP = build_image([BASE, [member("app", b"app")]])
OTHER = build_image([BASE, [member("other", b"other")]])
INDEX = build_index([APP, build_image([BASE], platform=ARM64), build_attestation(APP)])

Push: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


def sent(registry: FakeRegistry) -> list[str]:
    """Return the requests that send something, in order."""
    return [f"{one.method} {one.path}" for one in registry.requests if one.method not in ("GET", "HEAD")]


def errors_of(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of an error and its hint."""
    return [line for line in ended.stderr.splitlines() if line.startswith(("ociexport: error: ", "hint: "))]
