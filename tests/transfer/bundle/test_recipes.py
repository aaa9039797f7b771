"""A recipe makes the very bytes of a layer's tar from those of older tars, and nothing in it is believed."""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, OciexportError
from ociexport.spec.digest import Digest
from ociexport.system.zstd import zstd
from ociexport.transfer.bundle.delta import recipe as recipes
from ociexport.transfer.bundle.delta.apply import apply_recipe
from ociexport.transfer.bundle.delta.make import TarFile, make_recipe
from ociexport.transfer.bundle.delta.recipe import Recipe, read_recipe
from tests.support.memory_source import Member, directory, hard_link, member, symlink, tar_of

RANDOM = random.Random(1)
PROGRAM = RANDOM.randbytes(300_000)
PATCHED = PROGRAM[:1000] + b"patched" + PROGRAM[1000:200_000] + PROGRAM[200_100:]


def _file(content: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return os.dup(file.fileno())


def _made(new: bytes, olds: Sequence[bytes]) -> bytes:
    """Return the recipe, as a file's bytes, that makes ``new`` from ``olds``."""
    tars = [TarFile(_file(tar), Digest.of(tar)) for tar in (new, *olds)]
    batches: list[bytes] = []
    try:
        recipe = make_recipe(tars[0], tars[1:], batches.append)
    finally:
        for tar in tars:
            os.close(tar.fd)
    return recipe.encode() + b"".join(batches)


def _applied(raw: bytes, olds: Sequence[bytes]) -> bytes:
    fds = [_file(tar) for tar in olds]
    try:
        stream = io.BytesIO(raw)
        recipe = read_recipe(stream, where="recipe")
        assert [base.diff_id for base in recipe.bases] == [Digest.of(tar) for tar in olds]
        return b"".join(apply_recipe(recipe, stream, fds, where="recipe"))
    finally:
        for fd in fds:
            os.close(fd)


OLD = [
    directory("usr/"),
    member("usr/lib/libfoo.so.1.2.3", PROGRAM),
    member("usr/bin/tool", b"same" * 5000),
    member("etc/version", b"1"),
    symlink("usr/lib/libfoo.so", "libfoo.so.1.2.3"),
]


@pytest.mark.parametrize(
    ("new", "most_new_bytes"),
    [
        pytest.param(OLD, 300, id="the same"),
        pytest.param([*OLD[:3], member("etc/version", b"2"), OLD[4]], 500, id="one small file changed"),
        pytest.param([*OLD[:2], OLD[3], OLD[2], OLD[4]], 300, id="another order"),
        pytest.param([OLD[0], member("usr/lib/libfoo.so.1.2.4", PATCHED), *OLD[2:]], 1500, id="a new version's name"),
        pytest.param([OLD[0], member("usr/lib/other", PROGRAM, mode=0o755), *OLD[2:]], 600, id="moved, another mode"),
        pytest.param(
            [member("usr/bin/tool", b"same" * 5000, mtime=5), hard_link("b", "usr/bin/tool")], 600, id="links"
        ),
        pytest.param([member("x" * 300, PROGRAM, xattrs={"user.a": b"b"})], 800, id="extended headers"),
        pytest.param([], 300, id="nothing"),
    ],
)
def test_only_the_new_bytes_travel(new: list[Member], most_new_bytes: int) -> None:
    old_tar, new_tar = tar_of(OLD), tar_of(new)
    raw = _made(new_tar, [old_tar])
    assert _applied(raw, [old_tar]) == new_tar
    assert len(raw) < most_new_bytes


def test_a_large_changed_file_is_compared_piece_by_piece_with_its_older_version() -> None:
    old = RANDOM.randbytes(11 * 1024**2)
    new = old[: 5 * 1024**2] + RANDOM.randbytes(300_000) + old[5 * 1024**2 :]
    raw = _made(tar_of([member("data", new)]), [tar_of([member("data", old)])])
    assert _applied(raw, [tar_of([member("data", old)])]) == tar_of([member("data", new)])
    assert len(raw) < 320_000


def test_files_come_from_every_base() -> None:
    first, second = tar_of([member("a", PROGRAM)]), tar_of([member("b", PATCHED)])
    new = tar_of([member("c", PATCHED), member("d", PROGRAM)])
    raw = _made(new, [first, second])
    assert _applied(raw, [first, second]) == new
    assert len(raw) < 1200


_contents = st.one_of(st.binary(max_size=2000), st.sampled_from([PROGRAM[:5000], PROGRAM[100:9000], b"", b"\0" * 1024]))
_members = st.lists(
    st.builds(
        lambda name, content, mode: member(name, content, mode=mode),
        st.sampled_from(["a", "b/c", "b/c2", "d" * 120, "lib.so.1", "lib.so.2", "é"]),
        _contents,
        st.sampled_from([0o644, 0o755]),
    ),
    max_size=6,
)
_tars = st.one_of(
    _members.map(tar_of),
    st.binary(max_size=3000),
    st.builds(lambda members, cut: tar_of(members)[:cut], _members, st.integers(0, 9000)),
    st.builds(lambda members, end: tar_of(members) + end, _members, st.binary(max_size=600)),
)


@settings(max_examples=150, deadline=None)
@given(_tars, st.lists(_tars, max_size=2))
def test_any_bytes_are_made_again_whether_they_are_a_tar_or_not(new: bytes, olds: list[bytes]) -> None:
    assert _applied(_made(new, olds), olds) == new


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_recipe_ends_in_one_error_or_in_other_bytes(data: st.DataObject) -> None:
    old_tar, new_tar = tar_of(OLD), tar_of([OLD[0], member("usr/lib/libfoo.so.1.2.4", PATCHED)])
    raw = bytearray(_made(new_tar, [old_tar]))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    try:
        made = _applied(bytes(raw), [old_tar])
    except (InvalidImageError, AssertionError):  # the latter if the name of a base changed
        return
    assert len(made) <= len(new_tar) + len(old_tar)


DIFF_ID = str(Digest.of(b""))
LARGE_BASE = {"diffId": DIFF_ID, "size": 10**8}


def _head(**changes: Any) -> Callable[[], bytes]:
    def encode() -> bytes:
        head = {
            "diffId": DIFF_ID,
            "size": 30,
            "bases": [{"diffId": DIFF_ID, "size": 100}],
            "steps": [[0, 90, 10], [20]],
            "batches": [[25, 20, [[0, 0, 100]]]],
        }
        frame = zstd.compress(json.dumps({**head, **changes}).encode())
        return recipes.MAGIC + len(frame).to_bytes(8, "big") + frame

    return encode


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (_head(steps=[[0, 91, 10], [20]]), "steps: expected a number from 1 to 9, got 10"),
        (_head(steps=[[1, 0, 10], [20]]), "steps: expected a number from 0 to 0, got 1"),
        (_head(steps=[[-1, 0, 10], [20]]), "steps: expected a number from 0 to 0, got -1"),
        (_head(steps=[[0, 0, 10], [21]]), "steps: expected 30 bytes in all, got 31"),
        (_head(steps=[[0, 0, 10], [True]]), "steps: expected a number from 1"),
        (_head(steps=[[0, 0, 10], [0]]), "steps: expected a number from 1"),
        (_head(steps=[[0, 0], [20]]), "steps: expected 3 numbers, got 2"),
        (_head(steps=None), "steps: expected a list, got nothing"),
        (_head(batches=[[25, 19, []]]), "batches: expected 20 new bytes, as in the steps, got 19"),
        (_head(batches=[[25, 2**30, []]]), "batches: expected a number from 1 to 8388608"),
        (_head(batches=[[25, 20, [[0, 0, 101]]]]), "batches: expected a number from 1 to 100, got 101"),
        (
            _head(bases=[{"diffId": DIFF_ID, "size": 10**8}], batches=[[25, 20, [[0, 0, 10**7]] * 2]]),
            "batches: expected a number from 0 to 16777216",
        ),
        (_head(bases=[{"diffId": "../../x", "size": 100}]), "diffId: digest"),
        (_head(bases=[]), "steps: expected a number from 0 to -1, got 0"),
        (_head(size=2**64), "size: expected a number from 0"),
        (_head(padding=" " * 9_000_000), "head: expected at most 8388608 bytes, got more"),
        (lambda: b"ociexport recipe 2\n" + bytes(100), "expected a recipe, got other bytes"),
        (lambda: recipes.MAGIC + b"\xff" * 8, "head: expected at most 8388608 bytes"),
        (lambda: recipes.MAGIC + bytes(3), "expected 5 more bytes, got the end of the recipe"),
        (lambda: recipes.MAGIC + (4).to_bytes(8, "big") + b"zzzz", "head: zstd: "),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_before_anything_is_made(
    raw: Callable[[], bytes], message: str
) -> None:
    with pytest.raises(InvalidImageError) as caught:
        read_recipe(io.BytesIO(raw()), where="recipe x")
    assert message in str(caught.value)
    assert str(caught.value).startswith("recipe x: ")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (bytes(25), "batch 1: zstd: "),
        (b"", "batch 1: expected 25 more bytes, got the end of the recipe"),
        (zstd.compress(bytes(10**6)), "batch 1: "),
    ],
)
def test_a_batch_that_is_damaged_or_too_large_is_refused(batches: bytes, message: str) -> None:
    stream = io.BytesIO(_head(batches=[[max(25, len(batches)), 20, []]])() + batches)
    recipe = read_recipe(stream, where="recipe x")
    fd = _file(bytes(100))
    with pytest.raises(OciexportError) as caught:
        list(apply_recipe(recipe, stream, [fd], where="recipe x"))
    os.close(fd)
    assert message in str(caught.value)


def test_bytes_behind_the_last_batch_are_refused() -> None:
    raw = _made(tar_of(OLD), [tar_of(OLD)]) + b"x"
    with pytest.raises(InvalidImageError, match="expected the end of the recipe, got more bytes"):
        _applied(raw, [tar_of(OLD)])


def test_a_recipe_says_the_same_after_it_was_written() -> None:
    raw = _made(tar_of(OLD[1:]), [tar_of(OLD)])
    recipe = read_recipe(io.BytesIO(raw), where="recipe")
    assert isinstance(recipe, Recipe)
    assert raw.startswith(recipe.encode())
