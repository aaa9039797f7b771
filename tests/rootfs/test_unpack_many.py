"""unpack_many: a list of images on one process or on several gives the same trees; one image is unpacked once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from ociexport import UnpackOptions, UnpackRequest, unpack_many
from ociexport.errors import UsageError
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack_many import UnpackOutcome
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member

COUNT = 200
# So many of them are different.
DIFFERENT = 40


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with names ``t0`` to ``t199``, of which ``t0``, ``t40``, ``t80`` and so on are the same image."""
    path = tmp_path_factory.mktemp("many") / "layout"
    base = [directory("etc", mtime=5), member("etc/os", b"base")]
    images = [build_image([base, [member("own", b"%d" % number)]]) for number in range(DIFFERENT)]
    write_layout(path, {f"t{number}": images[number % DIFFERENT] for number in range(COUNT)})
    return path


def described(place: Path) -> dict[str, str]:
    return {
        path.name: f"-> {os.readlink(path)}" if path.is_symlink() else str(hash_tree(path, mtimes=True))
        for path in place.iterdir()
    }


def names_in(layout: Path, count: int = COUNT) -> list[str]:
    return [f"{layout}:t{number}" for number in range(count)]


def test_processes_give_the_same_as_one(layout: Path, tmp_path: Path) -> None:
    alone = list(unpack_many(names_in(layout), tmp_path / "alone"))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        together = list(unpack_many(names_in(layout), tmp_path / "together", executor=executor))
    assert [outcome.error for outcome in alone + together] == [None] * 2 * COUNT
    assert sorted(outcome.position for outcome in together) == list(range(COUNT))
    trees = described(tmp_path / "alone")
    assert described(tmp_path / "together") == trees
    links = {name: tree.removeprefix("-> ") for name, tree in trees.items() if tree.startswith("-> ")}
    assert links == {f"t{number}": f"t{number % DIFFERENT}" for number in range(DIFFERENT, COUNT)}
    assert (tmp_path / "together" / "t199" / "own").read_bytes() == b"39"


def errors_of(outcomes: Iterator[UnpackOutcome]) -> dict[str, bool]:
    """Return whether each image failed, by the name of its directory."""
    return {Path(outcome.path).name: outcome.error is not None for outcome in outcomes}


def test_image_that_fails_does_not_stop_the_others(layout: Path, tmp_path: Path) -> None:
    names = [f"{layout}:t0", f"{layout}:absent", f"{layout}:t1", f"{layout}:t40"]
    (tmp_path / "t0").write_text("mine")
    with ThreadPoolExecutor(2) as executor:
        failed = errors_of(unpack_many(names, tmp_path, executor=executor))
    assert failed == {"t0": True, "absent": True, "t1": False, "t40": False}
    # The first name of the image failed, so the second is no link.
    assert not (tmp_path / "t40").is_symlink()
    assert (tmp_path / "t0").read_text() == "mine"


def test_link_of_an_earlier_run_is_not_taken_for_its_tree(layout: Path, tmp_path: Path) -> None:
    """t40 was the same image as t0, and is another one now."""
    options = UnpackOptions(replace=True)
    list(unpack_many([f"{layout}:t0", f"{layout}:t40"], tmp_path, options=options))
    assert os.readlink(tmp_path / "t40") == "t0"
    list(unpack_many([UnpackRequest(f"{layout}:t1", "t40")], tmp_path, options=options))
    assert not (tmp_path / "t40").is_symlink()
    assert ((tmp_path / "t0" / "own").read_bytes(), (tmp_path / "t40" / "own").read_bytes()) == (b"0", b"1")
    outcomes = list(unpack_many([f"{layout}:t0", f"{layout}:t40"], tmp_path, options=options))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert (tmp_path / "t40" / "own").read_bytes() == b"0"


def test_layers_of_all_images_are_made_once(layout: Path, tmp_path: Path) -> None:
    names = names_in(layout, 12)
    with ThreadPoolExecutor(3) as executor:
        outcomes = list(unpack_many(names, tmp_path / "layers", layers="directories", executor=executor))
    assert [outcome.error for outcome in outcomes] == [None] * 12
    # The base, and a layer of each.
    assert len(os.listdir(tmp_path / "layers" / "sha256")) == 13


def test_two_images_with_one_directory_are_refused(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a directory of its own"):
        unpack_many([f"{layout}:t1", UnpackRequest(f"{layout}:t2", "t1")], tmp_path / "x")
    assert not (tmp_path / "x").exists()
