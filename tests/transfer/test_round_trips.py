"""How often a copy waits for the network, in a row; docs/about/performance.md, "Round trips"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.rootfs.unpack import unpack
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from ociexport.transfer.pull import pull
from tests.support.fake_registry import FakeRegistry, Fault, Request
from tests.support.image_builder import build_image, build_index
from tests.support.memory_source import member
from tests.support.round_trips import sequential_round_trips

ROUND_TRIP_SECONDS = 0.05
IMAGE = build_image([[member(name, name.encode() * 1000)] for name in ("a", "b", "c")], platform=host_platform())
INDEX = build_index([IMAGE, build_image([[member("d", b"d")]], platform=Platform("linux", "s390x"))])


@pytest.fixture
def storage() -> Iterator[FakeRegistry]:
    with FakeRegistry(round_trip_seconds=ROUND_TRIP_SECONDS) as storage:
        yield storage


@pytest.fixture
def registry(storage: FakeRegistry) -> Iterator[FakeRegistry]:
    with FakeRegistry(round_trip_seconds=ROUND_TRIP_SECONDS) as registry:
        yield registry


def _pull(name: str, out: Path, *words: str) -> None:
    assert main(["pull", "-q", name, "--out", str(out), *words]) == 0


def test_image_takes_two(registry: FakeRegistry, tmp_path: Path) -> None:
    """The manifest, then config and layers at once."""
    _pull(IMAGE.serve(registry, "app"), tmp_path / "layout")
    assert sequential_round_trips(registry) == 2
    assert len(registry.requests) == 5


def test_image_of_an_index_takes_three(registry: FakeRegistry, tmp_path: Path) -> None:
    _pull(INDEX.serve(registry, "app"), tmp_path / "layout")
    assert sequential_round_trips(registry) == 3


def test_archive_takes_two(registry: FakeRegistry, tmp_path: Path) -> None:
    _pull(IMAGE.serve(registry, "app"), tmp_path / "image.tar")
    assert sequential_round_trips(registry) == 2


def test_rootfs_takes_two_for_config_and_first_layer(registry: FakeRegistry, tmp_path: Path) -> None:
    image = build_image([[member("a", b"a")]], platform=host_platform())
    unpack(image.serve(registry, "app"), tmp_path / "rootfs")
    assert sequential_round_trips(registry) == 2
    assert len(registry.requests) == 3


def test_token_and_storage_elsewhere_take_three_more(
    registry: FakeRegistry, storage: FakeRegistry, tmp_path: Path
) -> None:
    """The refusal is the challenge; then the token, and at the end one redirect for all blobs at once."""
    registry.auth, registry.users, registry.redirect_to = "bearer", {"alice": "secret"}, storage
    _pull(IMAGE.serve(registry, "app"), tmp_path / "layout", "--creds", "alice:secret")
    assert sequential_round_trips(registry, storage) == 5
    assert registry.paths().count("/token") == 1


@pytest.mark.parametrize("image", [IMAGE, INDEX])
@pytest.mark.parametrize("entity_tags", [True, False])
def test_unchanged_image_takes_one_request(
    registry: FakeRegistry, tmp_path: Path, image: object, entity_tags: bool
) -> None:
    name = (IMAGE if image is IMAGE else INDEX).serve(registry, "app")
    registry.entity_tags = entity_tags
    first = pull(name, tmp_path / "layout")
    registry.requests.clear()
    assert pull(name, tmp_path / "layout").digest == first.digest
    (request,) = registry.requests
    assert request.headers["if-none-match"] == f'"{first.digest}"'


def test_image_by_digest_that_is_there_takes_none(registry: FakeRegistry, tmp_path: Path) -> None:
    name = INDEX.serve(registry, "app", None)
    pull(name, tmp_path / "layout", platform=None)
    registry.requests.clear()
    # The index is not in the layout, which has the chosen manifest only.
    pull(name, tmp_path / "layout")
    assert len(registry.requests) == 1
    registry.requests.clear()
    pull(IMAGE.serve(registry, "app", None), tmp_path / "layout")
    assert registry.requests == []


def test_changed_tag_is_fetched(registry: FakeRegistry, tmp_path: Path) -> None:
    pull(IMAGE.serve(registry, "app"), tmp_path / "layout")
    changed = build_image([[member("e", b"e")]], platform=host_platform())
    assert pull(changed.serve(registry, "app"), tmp_path / "layout").digest == changed.digest


def test_document_that_is_damaged_in_the_layout_is_fetched_again(registry: FakeRegistry, tmp_path: Path) -> None:
    name = IMAGE.serve(registry, "app")
    pull(name, tmp_path / "layout")
    stored = tmp_path / "layout" / "blobs" / str(IMAGE.digest).replace(":", "/")
    stored.write_bytes(b"{}" + bytes(len(IMAGE.raw) - 2))
    registry.requests.clear()
    pull(name, tmp_path / "layout")
    assert stored.read_bytes() == IMAGE.raw
    assert "if-none-match" not in registry.requests[0].headers


def test_answer_that_nothing_changed_is_no_answer_if_it_was_not_asked_for(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    name = IMAGE.serve(registry, "app")
    registry.misbehave("/manifests/", Fault(status=304))
    with pytest.raises(Exception, match="304 Not Modified"):
        pull(name, tmp_path / "layout")


def test_layers_are_not_read_before_the_config_is_checked(registry: FakeRegistry, tmp_path: Path) -> None:
    """An image whose config is wrong writes nothing, and removes nothing that was there."""

    def one_too_few(config: dict[str, object]) -> None:
        config["rootfs"] = {"type": "layers", "diff_ids": []}

    image = build_image([[member("a", b"a")]], platform=host_platform(), edit_config=one_too_few)
    assert main(["pull", image.serve(registry, "app"), "--out", str(tmp_path / "layout")]) == 8
    assert not (tmp_path / "layout").exists()


def test_only_missing_layers_are_requested(registry: FakeRegistry, tmp_path: Path) -> None:
    pull(IMAGE.serve(registry, "app"), tmp_path / "layout")
    more = build_image(
        [[member(name, name.encode() * 1000)] for name in ("a", "b", "c", "new")], platform=host_platform()
    )
    registry.requests.clear()
    _pull(more.serve(registry, "app", "2"), tmp_path / "layout")
    asked = {request.path.rpartition("/")[2] for request in registry.requests if "/blobs/" in request.path}
    assert asked == {str(more.config.digest), str(more.layers[-1].digest)}


def test_at_most_as_many_connections_as_jobs(registry: FakeRegistry, tmp_path: Path) -> None:
    _pull(IMAGE.serve(registry, "app"), tmp_path / "layout", "--jobs", "2")

    def connection(request: Request) -> int:
        return request.connection

    assert len(set(map(connection, registry.requests))) == 2
