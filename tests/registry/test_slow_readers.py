"""A busy processor or a slow disk is no slow connection: a large blob then comes over one connection all the same."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from ociexport.registry.download import ranges
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import BlobCheck, Chunk
from ociexport.storage.layout.blobs import LayoutBlobWriter
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import member

MIB = 1 << 20
IMAGE = build_image([[member("big", random.Random(1).randbytes(44 * MIB))]], compression="plain")


class _SlowWriter(LayoutBlobWriter):
    def write(self, chunk: Chunk, /) -> None:
        time.sleep(self.offset < MIB)
        super().write(chunk)


class _SlowLayout(ImageLayout):
    """A layout whose disk takes a second for the first MiB of a blob."""

    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> LayoutBlobWriter:
        self.make_ready()
        return _SlowWriter(self, descriptor.digest, descriptor.size, check)


def _ranges_of_pull(layout: ImageLayout) -> list[str]:
    with FakeRegistry() as registry:
        pull(IMAGE.serve(registry, "library/app", "1"), layout, platform=AMD64)
        return [request.headers["range"] for request in registry.requests if "range" in request.headers]


def test_busy_machine_reads_over_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads would wait for the same processors."""
    monkeypatch.setattr(ranges, "_WORTHWHILE_SECONDS", 0.0)
    monkeypatch.setattr(ranges, "_FAST_BYTES_PER_SECOND", float("inf"))
    monkeypatch.setattr(ranges, "_BUSY_SHARE", -1.0)  # every machine is busier than that
    assert _ranges_of_pull(ImageLayout(tmp_path / "layout")) == []


def test_writer_that_is_slow_does_not_make_the_connection_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk or a check takes its time, the kernel goes on receiving; more connections would gain nothing."""
    monkeypatch.setattr(ranges, "_WORTHWHILE_SECONDS", 0.0)
    # Far less than loopback brings, and more than this disk takes.
    monkeypatch.setattr(ranges, "_FAST_BYTES_PER_SECOND", 4.0 * MIB)
    assert _ranges_of_pull(_SlowLayout(tmp_path / "layout")) == []
