"""`ociexport pull` run by a user, from a registry on loopback into a layout in an empty directory."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ociexport.spec.descriptor import Descriptor
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage


@dataclass
class Pulled:
    code: int
    out: str
    lines: list[str]

    @property
    def errors(self) -> list[str]:
        """Standard error without the progress."""
        return [line for line in self.lines if line.startswith(("ociexport: error: ", "hint: "))]

    @property
    def others(self) -> list[str]:
        return [line for line in self.lines if line not in self.errors]


class Puller:
    """Runs ``ociexport pull``; in its output REGISTRY stands for the registry, LAYOUT for the layout, N for seconds."""

    def __init__(self, registry: FakeRegistry, home: Path) -> None:
        self.registry = registry
        self.home = home
        self.layout = home / "layout"

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        platform: str | None = "linux/amd64",
        out: str | os.PathLike[str] | None = None,
    ) -> Pulled:
        variables = {"DOCKER_DEFAULT_PLATFORM": platform} if platform else {}
        ended = run_command("pull", *arguments, "--out", out or self.layout, home=self.home, variables=variables)
        said = ended.stderr.replace(self.registry.host, "REGISTRY")
        for word in ("in", "to"):
            said = said.replace(f" {word} {self.layout}:", f" {word} LAYOUT:")
        said = re.sub(r", \d+\.\d s$", ", N s", said, flags=re.M)
        return Pulled(ended.returncode, ended.stdout.replace(self.registry.host, "REGISTRY"), said.splitlines())

    def serve(self, image: BuiltImage, tag: str | None = "1") -> str:
        return image.serve(self.registry, "library/app", tag)

    def blob(self, descriptor: Descriptor) -> Path:
        """Return the blob's path in the layout."""
        return Path(ImageLayout(self.layout).blob_path(descriptor.digest))

    def partial(self, descriptor: Descriptor) -> Path:
        """Return the path of the partial blob in the layout."""
        return Path(ImageLayout(self.layout).partial_path(descriptor.digest))

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.layout / "blobs" / "sha256").iterdir()}

    @property
    def index(self) -> list[dict[str, Any]]:
        return list(json.loads((self.layout / "index.json").read_bytes())["manifests"])

    def assert_nothing_left(self) -> None:
        assert list(self.home.iterdir()) == []
