"""Fuzz the readers of untrusted bytes: tar headers, decompressors, documents, and the application of a layer.

Run it for any time, with a corpus that it extends:

    python -m tests.fuzz.fuzz_layers CORPUS_DIRECTORY -max_total_time=3600 -timeout=20

An unexpected exception, or a change outside the tree, ends it; the input is kept in a file ``crash-…``.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tarfile
import tempfile

import atheris

with atheris.instrument_imports(include=["ociexport"]):
    from ociexport.errors import InvalidImageError, NotFoundError
    from ociexport.inspection.access import Access
    from ociexport.inspection.list_files import list_files
    from ociexport.layers.limits import Limits
    from ociexport.layers.tar.reader import TarReader
    from ociexport.rootfs.outputs.tar import flatten
    from ociexport.rootfs.unpack import UnpackOptions, unpack
    from ociexport.spec.config import parse_config
    from ociexport.spec.descriptor import Platform
    from ociexport.spec.manifest import parse_document
    from ociexport.system.compression import read_layer

from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of

_LIMITS = Limits(max_bytes=1 << 22, max_entries=200, max_depth=50)


def fuzz_one(data: bytes) -> None:
    """Pass ``data`` to one of the readers, chosen by its first byte."""
    kind, content = data[:1], data[1:]
    with contextlib.suppress(InvalidImageError):
        match kind[0] % 6 if kind else 0:
            case 0:
                _read_tar(content)
            case 1:
                for _ in read_layer(io.BytesIO(content)):
                    pass
            case 2:
                parse_document(content, None)
            case 3:
                parse_config(content)
            case 4:
                _apply_layers(content)
            case 5:
                _look_into_layers(content)


def _read_tar(content: bytes) -> None:
    step = 512 + len(content) % 1000
    reader = TarReader(content[start : start + step] for start in range(0, len(content), step))
    for entry in reader:
        # As much of a bomb as the limits allow.
        if entry.size <= 1 << 20:
            for _ in reader.read_data():
                pass


def _base_layer() -> bytes:
    return tar_of(
        [
            directory("d"),
            member("d/f", b"x"),
            symlink("l", "/d"),
            symlink("out", "../../outside"),
            hard_link("h", "d/f"),
        ]
    )


def _look_into_layers(content: bytes) -> None:
    """Write ``content`` over an ordinary layer as one tar, and look up its names from the top down."""
    source = MemorySource([_base_layer(), content], compress=bytes)
    platform = Platform("linux", "amd64")
    with contextlib.suppress(InvalidImageError):
        flatten(source, bytes, platform=platform, limits=_LIMITS)
    access = Access(platform=platform, limits=_LIMITS)
    for path in ("/", "/l/f", "/out"):
        with contextlib.suppress(InvalidImageError, NotFoundError):
            list_files(source, path, recursive=True, access=access)


def _apply_layers(content: bytes) -> None:
    """Apply ``content`` as a layer over an ordinary one, beside a file that must stay unchanged."""
    base = _base_layer()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as work:
        outside = os.path.join(work, "outside")
        os.mkdir(outside)
        os.mkdir(os.path.join(work, "in"))
        try:
            source = MemorySource([base, content], compress=bytes)
            unpack(source, os.path.join(work, "in", "rootfs"), options=UnpackOptions(limits=_LIMITS))
        finally:
            if os.listdir(outside) or sorted(os.listdir(work)) != ["in", "outside"]:
                raise AssertionError("something outside the tree was touched")
            if not set(os.listdir(os.path.join(work, "in"))) <= {"rootfs"}:
                raise AssertionError("something was left behind")


def write_seeds(corpus: str) -> None:
    """Put a few valid inputs into the corpus, from which the fuzzer starts."""
    os.makedirs(corpus, exist_ok=True)
    tar = tar_of(
        [member("n" * 120, b"x" * 600, xattrs={"user.a": b"1"}), symlink("s", "d"), directory("d"), member(".wh.f")]
    )
    sparse, _ = member("big")
    sparse.pax_headers = {"GNU.sparse.map": "0,3,4096,4", "GNU.sparse.size": "8192"}
    sparse.size = 7
    source = MemorySource([tar])
    seeds = [
        b"\0" + tar,
        b"\4" + tar,
        b"\4" + tar_of([(sparse, b"abcdefg"), hard_link("h", "big"), member("d/.wh..wh..opq")]),
    ]
    # One entry of each kind, over the ordinary layer and over each other.
    seeds += [
        b"\4"
        + tar_of(
            [
                member("pipe", type=tarfile.FIFOTYPE),
                member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
                member("pipe", b"x"),
                member("l/through", b"x"),
                hard_link("out2", "out"),
                member("out/x", b"x"),
                member(".wh..wh.plnk/1.2", b"x"),
                hard_link("p", ".wh..wh.plnk/1.2"),
                member("h/child", b"x"),
                member("d/.wh.f"),
                symlink("a", "t/" * 30),
                member("a/x"),
                directory("d", xattrs={"user.x": b"1"}),
            ]
        ),
        b"\4" + tar_of([member(name) for name in ("h/x", ".wh.d", "l/.wh..wh..opq", ".wh..wh..opq", "out/.wh.x")]),
    ]
    seeds += [b"\5" + seed[1:] for seed in seeds if seed[:1] == b"\4"]
    seeds += [b"\1" + raw for raw in source.blobs.values()]
    seeds += [kind + raw for kind in (b"\2", b"\3") for raw in source.blobs.values() if raw[:1] == b"{"]
    for number, seed in enumerate(seeds):
        with open(os.path.join(corpus, f"seed-{number}"), "wb") as file:
            file.write(seed)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        write_seeds(sys.argv[1])
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
