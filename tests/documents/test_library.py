"""The library: the blocks of docs/guide/library.md run and are typed, and several threads may call at once."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ociexport
from ociexport import errors
from ociexport.errors import OciexportError
from ociexport.rootfs.treehash import hash_tree
from tests.support.document_blocks import Block, blocks_of, workplace
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.system_parts import require

_DOCUMENT = "docs/guide/library.md"
_CLUSTER = "On a cluster"
AMD64 = ociexport.Platform("linux", "amd64")
BASE = [member(f"base/{number}", bytes([number]) * 20_000) for number in range(20)]
IMAGES = {str(number): build_image([BASE, [member(f"own{number}")]]) for number in range(4)}


def blocks() -> list[Block]:
    return blocks_of(_DOCUMENT, "python")


@pytest.mark.system
def test_pieces_of_the_document_work(tmp_path: Path) -> None:
    require("busybox")
    printed = ""
    with workplace(tmp_path) as place:
        for block in blocks():
            if block.heading != _CLUSTER:
                printed += place.run(block)
    assert "docker.io/library/debian:12@sha256:" in printed
    assert "linux/" in printed
    assert "./layout: expected image '13', there are: docker.io/library/debian:12" in printed
    assert 'NAME="Debian GNU/Linux"' in printed
    assert "debian:none image docker.io/library/debian:none: GET " in printed


@pytest.mark.system
@pytest.mark.slow
def test_piece_about_clusters_works(tmp_path: Path) -> None:
    require("busybox")
    with workplace(tmp_path, PYTHONWARNINGS="ignore") as place:
        (block,) = blocks_of(_DOCUMENT, "python", heading=_CLUSTER)
        place.run(block)
        assert len(ociexport.ImageLayout(place.directory / "shared").read_images()) == 2


def test_pieces_of_the_document_are_typed(tmp_path: Path) -> None:
    """A program that imports the package passes mypy in strict mode."""
    for number, block in enumerate(blocks()):
        (tmp_path / f"piece{number}.py").write_text(block.text)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", tmp_path / "cache", tmp_path],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    # Errors about Dask's own types are not ours.
    others = ("distributed", "LocalCluster", "[no-untyped-call]")
    found = [line for line in ended.stdout.splitlines() if ": error: " in line]
    assert [line for line in found if not any(other in line for other in others)] == []


def test_each_error_is_public() -> None:
    """A caller can catch each class by a public name."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OciexportError)]
    assert {kind.__name__ for kind in kinds} <= set(ociexport.__all__)


def test_calls_neither_print_nor_exit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as registry:
        reference = IMAGES["0"].serve(registry, "team/app", "1")
        ociexport.pull(reference, tmp_path / "layout", platform=AMD64)
        ociexport.unpack(str(tmp_path / "layout"), tmp_path / "rootfs", platform=AMD64)
        ociexport.inspect(reference, platform=AMD64)
        ociexport.verify(tmp_path / "layout", deep=True)
        for call in (ociexport.pull, ociexport.unpack):
            with pytest.raises(ociexport.NotFoundError):
                call(f"{reference}-none", tmp_path / "other", platform=AMD64)
    assert capfd.readouterr() == ("", "")


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


def test_threads_pull_into_one_layout_and_unpack_at_once(tmp_path: Path) -> None:
    """The shared layer is fetched once, and each tree equals the one that a single call makes."""
    layout = tmp_path / "layout"
    with FakeRegistry() as registry:
        references = [image.serve(registry, "team/app", tag) for tag, image in IMAGES.items()]

        def pull(reference: str) -> object:
            return ociexport.pull(reference, layout, platform=AMD64)

        at_once([lambda reference=reference: pull(reference) for reference in references])  # type: ignore[misc]
        shared = IMAGES["0"].layers[0].digest.encoded
        assert len([path for path in registry.paths("GET") if shared in path]) == 1
        assert ociexport.verify(layout, deep=True).findings == ()

        def unpack(source: str, name: str) -> object:
            return ociexport.unpack(source, tmp_path / name, platform=AMD64)

        calls: list[Callable[[], object]] = []
        for tag, reference in zip(IMAGES, references, strict=True):
            calls.append(lambda tag=tag: unpack(f"{layout}:{tag}", f"local{tag}"))  # type: ignore[misc]
            calls.append(lambda reference=reference, tag=tag: unpack(reference, f"remote{tag}"))  # type: ignore[misc]
        at_once(calls)
    for tag in IMAGES:
        ociexport.unpack(f"{layout}:{tag}", tmp_path / f"alone{tag}", platform=AMD64)
        trees = {hash_tree(tmp_path / f"{kind}{tag}", mtimes=True) for kind in ("local", "remote", "alone")}
        assert len(trees) == 1


def test_one_source_serves_several_threads(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        source = ociexport.open_source(IMAGES["0"].serve(registry, "team/app", "1"))
        try:
            at_once(
                [
                    lambda: ociexport.unpack(source, tmp_path / "a", platform=AMD64),
                    lambda: ociexport.unpack(source, tmp_path / "b", platform=AMD64),
                    lambda: ociexport.pull(source, tmp_path / "c", platform=AMD64),
                    lambda: ociexport.verify(source, platform=AMD64),
                ]
            )
        finally:
            source.close()
    assert hash_tree(tmp_path / "a", mtimes=True) == hash_tree(tmp_path / "b", mtimes=True)


def test_what_a_callback_raises_stops_the_work(tmp_path: Path) -> None:
    def on_event(event: ociexport.ProgressEvent) -> None:
        if event.kind == "taskAdvanced":
            raise InterruptedError("the button")

    for work, place in ((ociexport.pull, "layout"), (ociexport.unpack, "rootfs")):
        with pytest.raises(InterruptedError, match="the button"):
            work(IMAGES["0"].source(), tmp_path / place, platform=AMD64, progress=ociexport.EventProgress(on_event))
    assert not (tmp_path / "rootfs").exists()
    assert not (tmp_path / "layout" / "index.json").exists()


def test_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    """Only errors of files in the tree get the tree's path."""

    def on_event(event: ociexport.ProgressEvent) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "events.json")

    with pytest.raises(OSError, match="No space") as caught:
        ociexport.unpack(
            IMAGES["0"].source(), tmp_path / "rootfs", platform=AMD64, progress=ociexport.EventProgress(on_event)
        )
    assert caught.value.filename == "events.json"
