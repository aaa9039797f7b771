"""Layers with the right digest that do not hold the tar which the config names."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from typing import Any

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.image_builder import BuiltImage, build_image
from tests.support.memory_source import directory, member, tar_of

TARS = [
    tar_of([directory("etc"), member("etc/big", random.Random(1).randbytes(3_000_000))]),
    tar_of([member("b", b"2" * 50_000)]),
]
SOUND = build_image(TARS, compression=["gzip", "zstd"])


def image_of(stored: Sequence[bytes], tars: Sequence[bytes] = TARS, **settings: Any) -> BuiltImage:
    """Return an image whose config names ``tars``, and whose layers are ``stored``, said to be gzip."""

    edit_more = settings.pop("edit_manifest", lambda manifest: None)

    def set_types(manifest: dict[str, Any]) -> None:
        for layer in manifest["layers"]:
            layer["mediaType"] = mediatypes.OCI_LAYER_GZIP
        edit_more(manifest)

    return build_image(stored, compression="plain", edit_config=diff_ids_of(tars), edit_manifest=set_types, **settings)


def diff_ids_of(tars: Sequence[bytes], algorithm: str = "sha256") -> Callable[[dict[str, Any]], None]:
    """Return an edit for `build_image`: the config has the diff_ids of ``tars``."""
    diff_ids = [str(Digest.of(tar, algorithm)) for tar in tars]
    return lambda config: config["rootfs"].update(diff_ids=diff_ids)


def zipped(tar: bytes) -> bytes:
    """Return ``tar`` as gzip, always the same bytes."""
    return gzip.compress(tar, 1, mtime=0)


FIRST = zipped(TARS[0])
PAGE = b"<!DOCTYPE html>\n<html><body>Log in</body></html>"
# What the second of two layers is: its bytes as stored, and the error after the layer's name.
BROKEN: dict[str, tuple[bytes, str]] = {
    "a page": (PAGE, "got {got} (HTML document, ASCII text)"),
    "noise": (random.Random(2).randbytes(9000), "got {got} (data)"),
    "nothing": (b"", "got {got} (empty)"),
    "two bytes": (b"\x1f\x8b", "got no whole tar: gzip data: expected a complete stream, got one that ends too soon"),
    "another tar": (zipped(TARS[0][:20480]), "got " + str(Digest.of(TARS[0][:20480]))),
    "a plain tar": (TARS[0][:20480], "got {got} (POSIX tar archive)"),
    "gzip in gzip": (zipped(zipped(TARS[1])), f"got {Digest.of(zipped(TARS[1]))}"),
    "a cut stream": (
        zipped(TARS[1])[:-9],
        "got no whole tar: gzip data: expected a complete stream, got one that ends too soon",
    ),
    "a damaged stream": (zipped(TARS[1])[:-8] + b"\0" * 8, "got no whole tar: gzip data: expected a valid stream"),
    "bytes after the end": (
        zipped(TARS[1]) + b"trailing",
        "got no whole tar: gzip data: expected the end or another gzip stream, got other bytes",
    ),
}
