"""`merge FAR VOLUME…` killed at any moment: ranges that were verified stay, and the next run completes the blob."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from ociexport.transfer.bundle.merge import merge
from ociexport.verification.verify import verify
from tests.support.image_builder import build_image
from tests.support.killed import killed_before
from tests.support.updates import NAME, blobs_in, layer, names_in
from tests.support.volumes import write_volumes

IMAGE = build_image([layer("big", 70_000), layer("small", 500), layer("other", 20_000)])
NAMES = {f"{NAME}:1": str(IMAGE.digest)}


def test_killed_before_any_call_the_next_run_completes_it(tmp_path: Path) -> None:
    volumes = [str(path) for path in write_volumes(tmp_path / "u.tar", IMAGE, "1", 38_000)]
    merge(tmp_path / "warm", volumes)  # the child imports nothing then
    call, was_killed = 0, True
    while was_killed:
        far = tmp_path / f"far{call}"
        was_killed = killed_before(call, partial(merge, far, volumes, jobs=1))
        if (far / "oci-layout").exists() and (far / "index.json").exists():
            assert verify(far).is_right
        merge(far, volumes)
        assert (names_in(far), blobs_in(far)) == (NAMES, IMAGE.all_digests)
        assert verify(far).is_right
        assert sorted(path.name for path in far.iterdir()) == ["blobs", "index.json", "oci-layout"]
        shutil.rmtree(far)
        call += 3
    assert call > 50


def test_killed_at_the_last_volume_the_earlier_ones_need_not_come_again(tmp_path: Path) -> None:
    """A whole blob that is there stays there, and so do verified ranges: the last volume alone completes the image."""
    *earlier, last = [str(path) for path in write_volumes(tmp_path / "u.tar", IMAGE, "1", 38_000)]
    for path in (last, *earlier[1:]):
        merge(tmp_path / "begun", [path])
    merge(shutil.copytree(tmp_path / "begun", tmp_path / "warm"), earlier[:1])
    call, was_killed = 0, True
    while was_killed:
        far = shutil.copytree(tmp_path / "begun", tmp_path / f"far{call}")
        was_killed = killed_before(call, partial(merge, far, earlier[:1], jobs=1))
        merge(far, earlier[:1])
        assert (names_in(far), blobs_in(far)) == (NAMES, IMAGE.all_digests)
        assert verify(far).is_right
        shutil.rmtree(far)
        call += 1
    assert call > 20
