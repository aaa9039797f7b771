"""pull_many: a list of images on threads, on processes, and on a Dask cluster; one failure does
not stop the others."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from ociexport import errors
from ociexport.errors import InvalidImageError, NotFoundError, OciexportError, RegistryError, UsageError
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.spec.descriptor import Platform
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull_many import PullOutcome, pull_many
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member

AMD64 = Platform("linux", "amd64")
BASE = [member("base", os.urandom(20_000))]
IMAGES = {str(number): build_image([BASE, [member(f"own {number}")]]) for number in range(12)}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth="bearer", users={"alice": "secret"}) as registry:
        for tag, image in IMAGES.items():
            image.serve(registry, "library/app", tag)
        yield registry


@pytest.fixture
def names(registry: FakeRegistry) -> list[str]:
    return [f"{registry.host}/library/app:{tag}" for tag in IMAGES]


ALICE = RegistryOptions(credentials=Credentials("alice", "secret"), retry_times=0)


@contextmanager
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@contextmanager
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@contextmanager
def dask_cluster() -> Iterator[Executor]:
    """Yield the executor of a cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield executor


def assert_all_there(outcomes: list[PullOutcome], names: list[str], layout: Path) -> None:
    assert sorted(outcome.image for outcome in outcomes) == sorted(names)
    assert [outcome.error for outcome in outcomes] == [None] * len(names)
    listed = {name.tag: descriptor.digest for descriptor, name in ImageLayout(layout).read_images()}
    assert listed == {tag: image.digest for tag, image in IMAGES.items()}
    blobs = {path.name for path in (layout / "blobs" / "sha256").iterdir()}
    assert blobs == {digest.encoded for image in IMAGES.values() for digest in image.all_digests}


@pytest.mark.parametrize("executor_of", [threads, processes])
def test_list_is_pulled_into_one_layout(registry: FakeRegistry, names: list[str], tmp_path: Path, executor_of) -> None:  # type: ignore[no-untyped-def] # parametrized
    with executor_of() as executor:
        outcomes = list(pull_many(names, tmp_path, executor=executor, platform=AMD64, registry=ALICE))
    assert_all_there(outcomes, names, tmp_path)


@pytest.mark.filterwarnings("default")  # what the cluster's own parts warn of is not ours
def test_list_is_pulled_on_a_dask_cluster(registry: FakeRegistry, names: list[str], tmp_path: Path) -> None:
    with dask_cluster() as executor:
        outcomes = list(
            pull_many([*names, f"{registry.host}/library/app:none"], tmp_path, executor=executor, registry=ALICE)
        )
    (failed,) = [outcome for outcome in outcomes if outcome.error is not None]
    assert isinstance(failed.error, NotFoundError)
    assert_all_there([outcome for outcome in outcomes if outcome is not failed], names, tmp_path)
    # The shared layer was fetched once; if both workers began at once, one waited for the other.
    shared = IMAGES["0"].layers[0].digest.encoded
    assert len([path for path in registry.paths("GET") if shared in path]) == 1


def test_without_an_executor_connections_and_logins_are_shared(
    registry: FakeRegistry, names: list[str], tmp_path: Path
) -> None:
    assert_all_there(list(pull_many(names, tmp_path, platform=AMD64, registry=ALICE)), names, tmp_path)
    assert len(registry.paths("GET")) > len(names)
    assert registry.paths("GET").count("/token") == 1
    assert len([request for request in registry.requests if "authorization" not in request.headers]) == 1


def test_each_image_may_have_a_layout_of_its_own(registry: FakeRegistry, names: list[str], tmp_path: Path) -> None:
    outcomes = pull_many(
        names, lambda name: tmp_path / name[-1], platform=AMD64, registry=ALICE, cache=tmp_path / "cache"
    )
    assert all(outcome.result is not None for outcome in outcomes)
    assert {path.name for path in tmp_path.iterdir()} == {*(name[-1] for name in names), "cache"}


def test_failure_is_an_outcome(registry: FakeRegistry, names: list[str], tmp_path: Path) -> None:
    missing = f"{registry.host}/library/app:none"
    outcomes = {outcome.image: outcome for outcome in pull_many([missing, names[0]], tmp_path, registry=ALICE)}
    assert isinstance(outcomes[missing].error, NotFoundError)
    assert outcomes[names[0]].result is not None


def test_error_of_the_disk_is_an_outcome(registry: FakeRegistry, names: list[str]) -> None:
    (outcome,) = pull_many(names[:1], "/proc/layout", platform=AMD64, registry=ALICE)
    assert isinstance(outcome.error, OSError)


def test_name_that_does_not_parse_is_an_error_before_anything_is_sent(registry: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be lower case"):
        pull_many([f"{registry.host}/library/app:1", "Foo/BAR"], tmp_path, registry=ALICE)
    assert registry.requests == []


def test_who_stops_gets_no_more(registry: FakeRegistry, names: list[str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        outcomes = pull_many(names, tmp_path, executor=executor, platform=AMD64, registry=ALICE)
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined] # it is a generator
    assert len(ImageLayout(tmp_path).read_images()) < len(names)


def test_empty_list_is_no_work(tmp_path: Path) -> None:
    assert list(pull_many([], tmp_path / "layout")) == []
    assert list(tmp_path.iterdir()) == []


def all_errors(kind: type[OciexportError] = OciexportError) -> Iterator[type[OciexportError]]:
    if kind.__module__ == errors.__name__:
        yield kind
    for derived in kind.__subclasses__():
        yield from all_errors(derived)


@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=str), ids=lambda kind: kind.__name__)
def test_each_error_comes_back_from_another_process(kind: type[OciexportError]) -> None:
    error = kind("what happened", hint="what to do")
    if isinstance(error, InvalidImageError):
        error.add_place("where")
    if isinstance(error, RegistryError):
        error.status = 404
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))
