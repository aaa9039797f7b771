"""The workers of an executor store images, and the run that began them names many with one change of ``index.json``.

Source: issue 18, "10,000 images": "one commit of index.json for many names ... the same list on Dask ... and on
processes". Whatever the workers and the run see of each other, every image that is told as done has its name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import InvalidImageError
from ociexport.images.source import ImageName
from ociexport.registry.options import RegistryOptions
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.namer import HandedOver
from ociexport.transfer import pull_many as module
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull_many import PullOutcome, pull_requests
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, build_image, write_layout
from tests.support.memory_source import member
from tests.support.read_bytes import bytes_read_by, own_files

IMAGES = {str(number): build_image([[member(f"own {number}")]], platform=AMD64) for number in range(8)}
OTHER = build_image([[member("other")]], platform=AMD64)
NO_RETRY = RegistryOptions(retry_times=0)


class InTurn(Executor):
    """Does each order as soon as it is submitted, in the calling thread.

    Args:
        before, after: are called before and after each order.
    """

    def __init__(self, before: Callable[[], object] = int, after: Callable[[], object] = int) -> None:
        self._before, self._after = before, after

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._before()
        future.set_result(fn(*args, **kwargs))
        self._after()
        return future


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        for tag, image in IMAGES.items():
            image.serve(registry, "app", tag)
        yield registry


@pytest.fixture
def names(registry: FakeRegistry) -> list[str]:
    return [f"{registry.host}/app:{tag}" for tag in IMAGES]


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with one place; the rest of the list waits in this process."""
    monkeypatch.setattr(module, "_SUBMITTED", 1)
    monkeypatch.setattr(module, "_NAMING_SECONDS", 60)


def pull_together(
    names: list[str], layout: Path | str | Callable[[str], Path], *, executor: Executor, names_together: bool = True
) -> Iterator[PullOutcome]:
    return pull_requests(
        names, layout, PullOptions(AMD64), executor=executor, registry=NO_RETRY, names_together=names_together
    )


def tags_in(layout: Path) -> list[str]:
    return sorted(name.tag or "" for _, name in ImageLayout(layout).read_images())


@pytest.mark.usefixtures("one_at_a_time")
def test_names_are_written_together_and_before_they_are_told(names: list[str], tmp_path: Path) -> None:
    changes: list[int] = []
    executor = InTurn(after=lambda: changes.append((tmp_path / "layout/index.json").stat().st_mtime_ns))
    for outcome in pull_together(names, tmp_path / "layout", executor=executor):
        assert outcome.error is None
        assert outcome.image.rpartition(":")[2] in tags_in(tmp_path / "layout")
    # The first worker names its own image: only then the run knows that both see the layout.
    assert len(set(changes)) == 1
    assert tags_in(tmp_path / "layout") == sorted(IMAGES)
    assert own_files(tmp_path / "layout") == set()


@pytest.mark.usefixtures("one_at_a_time")
def test_two_paths_to_one_layout_are_one_layout(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("layout")
    places = {name: tmp_path / ("link" if position % 2 else "layout") for position, name in enumerate(names)}
    outcomes = list(pull_together(names, places.__getitem__, executor=InTurn()))
    assert [outcome.error for outcome in outcomes] == [None] * len(names)
    assert tags_in(tmp_path / "layout") == sorted(IMAGES)


@pytest.mark.usefixtures("one_at_a_time")
def test_blobs_of_a_refused_image_are_removed(registry: FakeRegistry, names: list[str], tmp_path: Path) -> None:
    registry.misbehave(IMAGES["3"].layers[0].digest.encoded, Fault(change=lambda raw: bytes(len(raw))))
    outcomes = list(pull_together(names, tmp_path, executor=InTurn()))
    assert [outcome.image for outcome in outcomes if outcome.error is not None] == [names[3]]
    blobs = {path.name for path in (tmp_path / "blobs/sha256").iterdir()}
    assert blobs == {digest.encoded for tag, image in IMAGES.items() if tag != "3" for digest in image.all_digests}


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("how", ["stops", "is interrupted"])
def test_what_is_stored_has_its_name_when_the_caller(how: str, names: list[str], tmp_path: Path) -> None:
    counter = iter(range(100))

    def after() -> None:
        if next(counter) == 4 and how == "is interrupted":
            raise KeyboardInterrupt

    outcomes = pull_together(names, tmp_path, executor=InTurn(after=after))
    if how == "stops":
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined] # it is a generator
    else:
        with pytest.raises(KeyboardInterrupt):
            list(outcomes)
    blobs = {path.name for path in (tmp_path / "blobs/sha256").iterdir()}
    stored = [tag for tag, image in IMAGES.items() if image.digest.encoded in blobs]
    # The future of the one that was interrupted never came back; it is left to do.
    assert tags_in(tmp_path) == (stored if how == "stops" else stored[:-1])
    assert own_files(tmp_path) == set()


def test_workers_that_see_another_directory_name_their_images(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster the same path may be a directory of each machine; here it is relative."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    write_layout(here / "layout", {"registry.example/other:1": OTHER})
    before = (here / "layout/index.json").read_bytes()
    monkeypatch.chdir(here)
    monkeypatch.setattr(module, "_SUBMITTED", 1)
    executor = InTurn(before=lambda: os.chdir(there), after=lambda: os.chdir(here))
    outcomes = list(pull_together(names, "layout", executor=executor))
    assert [outcome.error for outcome in outcomes] == [None] * len(names)
    assert tags_in(there / "layout") == sorted(IMAGES)
    assert (here / "layout/index.json").read_bytes() == before
    assert own_files(here / "layout") == set()


def test_an_index_that_a_worker_cannot_change_is_its_outcome(names: list[str], tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"registry.example/other:1": OTHER})
    (tmp_path / "layout/index.json").write_text("{")
    outcomes = list(pull_together(names, tmp_path / "layout", executor=InTurn()))
    assert len(outcomes) == len(names)
    assert all(isinstance(outcome.error, InvalidImageError) for outcome in outcomes)


@pytest.mark.usefixtures("one_at_a_time")
def test_an_index_that_cannot_be_changed_any_more_is_the_outcome_of_each(names: list[str], tmp_path: Path) -> None:
    outcomes = pull_together(names, tmp_path, executor=InTurn())
    told = [next(outcomes)]
    (tmp_path / "index.json").write_text("{")
    told += outcomes
    assert sorted(outcome.position for outcome in told) == list(range(len(names)))
    assert [type(outcome.error) for outcome in told] == [type(None)] + [InvalidImageError] * (len(names) - 1)


def test_a_caller_who_may_not_go_on_leaves_no_image_without_its_name(names: list[str], tmp_path: Path) -> None:
    """The Python interface can't ask its callers to close an iterator, so there each worker names its own images."""
    with ThreadPoolExecutor(2) as executor:
        outcomes = pull_together(names, tmp_path, executor=executor, names_together=False)
        next(outcomes)
    assert tags_in(tmp_path) == sorted(IMAGES)
    assert own_files(tmp_path) == set()
    del outcomes


def test_what_is_handed_over_when_the_caller_stops_is_named(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over = ImageLayout.hand_over

    def slowly(self: ImageLayout, mark: str) -> HandedOver | None:
        handed = hand_over(self, mark)
        if handed is not None:
            time.sleep(0.3)
        return handed

    monkeypatch.setattr(ImageLayout, "hand_over", slowly)
    with ThreadPoolExecutor(3) as executor:
        outcomes = pull_together(names, tmp_path, executor=executor)
        next(outcomes)
        time.sleep(0.1)
        outcomes.close()  # type: ignore[attr-defined] # it is a generator
    blobs = {path.name for path in (tmp_path / "blobs/sha256").iterdir()}
    assert tags_in(tmp_path) == [tag for tag, image in IMAGES.items() if image.digest.encoded in blobs]
    assert own_files(tmp_path) == set()


@pytest.mark.usefixtures("one_at_a_time")
def test_an_executor_that_takes_no_more_is_told_after_what_it_did(names: list[str], tmp_path: Path) -> None:
    counter = iter(range(100))

    def before() -> None:
        if next(counter) == 3:
            raise RuntimeError("closed")

    told: list[str] = []
    outcomes = pull_together(names, tmp_path, executor=InTurn(before=before))
    with pytest.raises(RuntimeError, match="closed"):
        told.extend(outcome.image.rpartition(":")[2] for outcome in outcomes)
    assert sorted(told) == tags_in(tmp_path) == ["0", "1", "2"]


def test_names_of_a_namer_that_was_killed_are_written_by_the_worker(tmp_path: Path) -> None:
    """The kernel releases its lock; its file stays until the layout is tidied."""
    namer, worker = ImageLayout(tmp_path), ImageLayout(tmp_path)
    descriptors = [Descriptor("application/x", Digest.of(text), 1) for text in (b"a", b"b")]
    with namer.batch():
        namer.name_for_others("mark").close()
        (tmp_path / ".ociexport/namer.mark").touch()
        with worker.batch(), worker.begin():
            worker.write_name(descriptors[0], ImageName("1", None))
            assert worker.hand_over("mark") is None
        assert tags_in(tmp_path) == ["1"]
        living = namer.name_for_others("mark")
        with worker.batch(), worker.begin():
            worker.write_name(descriptors[1], ImageName("2", None))
            assert worker.hand_over("another") is None
            handed = worker.hand_over("mark")
        assert handed is not None
        assert tags_in(tmp_path) == ["1"]
        namer.take_over(handed)
        living.close()
        (tmp_path / ".ociexport/namer.mark").touch()
    assert tags_in(tmp_path) == ["1", "2"]
    assert own_files(tmp_path) == set()


@pytest.mark.usefixtures("one_at_a_time")
def test_the_index_is_not_parsed_for_each_image(names: list[str], tmp_path: Path) -> None:
    write_layout(tmp_path, {"registry.example/other:1": OTHER})
    index = json.loads((tmp_path / "index.json").read_text())
    (entry,) = index["manifests"]
    index["manifests"] = [
        entry | {"annotations": {"org.opencontainers.image.ref.name": f"t{number}"}} for number in range(2000)
    ]
    (tmp_path / "index.json").write_text(json.dumps(index))
    size = (tmp_path / "index.json").stat().st_size
    pulled = pull_together(names, tmp_path, executor=InTurn())
    # Each worker reads it once, the first and the run also parse and write it. Before, each worker read it four times.
    assert bytes_read_by(lambda: list(pulled)) < (len(names) + 8) * size
