"""An image of schema 1 with a step that made no layer, and the documents that a layout has after the conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.memory_source import member, tar_of
from tests.support.schema1_images import build_schema1

A, B = [member("a", b"1" * 1000), member("gone", b"")], [member("b", b"2"), member(".wh.gone")]
IMAGE = build_schema1([A, None, B])
LAYERS = tuple(map(Digest.of, IMAGE.layers))
DIFF_IDS = [str(Digest.of(tar_of(tar))) for tar in (A, B)]


def made(layout: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and the config of the only image in a layout."""
    ((descriptor, _),) = ImageLayout(layout).read_images()
    manifest = json.loads(Path(ImageLayout(layout).blob_path(descriptor.digest)).read_bytes())
    config = Path(ImageLayout(layout).blob_path(Digest.parse(manifest["config"]["digest"])))
    return manifest, json.loads(config.read_bytes())
