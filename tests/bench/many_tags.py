"""Timing of a repository with very many tags, in a fake registry."""

from __future__ import annotations

from pathlib import Path

from tests.bench.measuring import Contender, compare, removing
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member

_TAGS_PER_PAGE = 1000


def bench_tags(count: int, work: Path, command: str) -> None:
    """Time a list of ``count`` tags, and a pull of one of them."""
    image = build_image([[member("f", b"x" * 1000)]])
    with FakeRegistry(tags_per_page=_TAGS_PER_PAGE) as registry:
        for number in range(count):
            reference = image.serve(registry, "bench/image", f"1.{number}")
        repository, layout = reference.rpartition(":")[0], work / "layout"
        contenders = [
            Contender("tags", [command, "tags", repository]),
            Contender("pull one", [command, "pull", "-q", reference, "--out", str(layout)], removing(layout)),
        ]
        compare(f"growth: {count} tags", contenders, runs=3)
