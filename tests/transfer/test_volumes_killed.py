"""`pull --volume-size` killed at any moment: the next run keeps the finished volumes, and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from tests.support.image_builder import build_image
from tests.support.killed import killed_before
from tests.support.updates import layer
from tests.support.volumes import pull_volumes, volumes_of

IMAGE = build_image([layer("big", 60_000), layer("small", 500), layer("other", 30_000)])
SIZE = 32_000


def test_killed_before_any_call_the_next_run_goes_on_at_the_volume_where_it_ended(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir()
    pull_volumes(tmp_path / "warm" / "u.tar", [(IMAGE, "1")], SIZE)  # the child imports nothing then
    expected = {path.name: path.read_bytes() for path in (tmp_path / "warm").iterdir()}
    call, was_killed = 0, True
    finished_at = set()
    while was_killed:
        place = tmp_path / f"place{call}"
        place.mkdir()
        out = place / "u.tar"
        was_killed = killed_before(call, partial(pull_volumes, out, [(IMAGE, "1")], SIZE))
        finished = volumes_of(out)
        finished_at.add(len(finished))
        assert all(path.read_bytes() == expected[path.name] for path in finished)
        assert len([path for path in place.iterdir() if path.name.endswith(".partial")]) <= 1
        for path in finished:
            os.utime(path, (1, 1))
        pull_volumes(out, [(IMAGE, "1")], SIZE)
        assert {path.name: path.read_bytes() for path in place.iterdir()} == expected
        assert all(path.stat().st_mtime == 1 for path in finished)
        shutil.rmtree(place)
        call += 1
    assert finished_at == set(range(len(expected)))
    assert call > 10
