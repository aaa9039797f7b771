"""A layout that tests damage, and the findings of a verification."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ociexport import verify
from ociexport.spec.digest import Digest
from tests.support.image_builder import BuiltImage, Json, descriptor_of, to_json, write_layout


class DamagedLayout:
    """A layout that a test damages; findings show names in place of digests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, str] = {}

    def write(self, **images: BuiltImage) -> DamagedLayout:
        write_layout(self.path, images)
        for tag, image in images.items():
            self.names[str(image.digest)] = f"<{tag}>"
            self.names[str(image.config.digest)] = f"<{tag} config>"
            for number, layer in enumerate(image.layers, start=1):
                self.names.setdefault(str(layer.digest), f"<{tag} layer {number}>")
        return self

    def blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.encoded

    def spoil(self, digest: Digest, how: str) -> None:
        """Damage the blob as ``how`` says, or remove it."""
        path = self.blob(digest)
        content = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif how == "long":
            path.write_bytes(content + b"x")
        elif how == "other":
            path.write_bytes(bytes(len(content)))
        elif how == "unreadable":
            path.symlink_to("/proc/self/mem")
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "looped":
            path.symlink_to(path.name)

    def edit_index(self, edit: Callable[[Json], object]) -> None:
        index = json.loads((self.path / "index.json").read_bytes())
        edit(index)
        (self.path / "index.json").write_bytes(to_json(index))

    def add(self, raw: bytes, media_type: str, *, tag: str = "added", **members: Any) -> Digest:
        """Add a document and list it in ``index.json``."""
        descriptor = descriptor_of(raw, media_type)
        self.blob(descriptor.digest).write_bytes(raw)
        self.names[str(descriptor.digest)] = f"<{tag}>"
        entry = {**descriptor.to_json(), "annotations": {"org.opencontainers.image.ref.name": tag}, **members}
        self.edit_index(lambda index: index["manifests"].append(entry))
        return descriptor.digest

    def findings(self, **wishes: Any) -> list[str]:
        return self.told(map(str, verify(self.path, **wishes).findings))

    def told(self, lines: Iterable[str]) -> list[str]:
        known = re.compile("|".join(map(re.escape, self.names)) or "$.")
        return [known.sub(lambda match: self.names[match[0]], line) for line in lines]


def deep(image: BuiltImage, **wishes: object) -> list[str]:
    """Return the findings of an image in memory, without its place and digest."""
    found = verify(image.source(), deep=True, **wishes)  # type: ignore[arg-type]
    return [str(finding).replace(f"memory: manifest {image.digest}: ", "") for finding in found.findings]
