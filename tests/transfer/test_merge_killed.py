"""`merge` killed at any moment: no name leads to a gap, and the next run completes what was begun."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from ociexport.transfer.bundle.merge import merge
from ociexport.verification.verify import verify
from tests.support.killed import killed_before
from tests.support.updates import NAME, V1, V2, V3, blobs_in, names_in, write_bundles, write_update, write_whole

NAMES = {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest), f"{NAME}:3": str(V3.digest)}


def test_killed_before_any_call_no_name_leads_to_a_gap_and_the_next_run_completes_it(tmp_path: Path) -> None:
    place = write_bundles(tmp_path)
    bundles = [str(place / name) for name in ("update3", "update2.tar", "v1")]
    merge(place / "warm", bundles)  # the child imports nothing then
    call, was_killed = 0, True
    while was_killed:
        far = place / f"far{call}"
        was_killed = killed_before(call, partial(merge, far, bundles, jobs=1))
        if far.exists() and (far / "index.json").exists():
            assert verify(far).is_right or not (far / "oci-layout").exists()
        merge(far, bundles)
        assert (names_in(far), blobs_in(far)) == (NAMES, V1.all_digests | V2.all_digests | V3.all_digests)
        assert verify(far).is_right
        shutil.rmtree(far)
        call += 5
    assert call > 50


@pytest.mark.parametrize("out", ["update", "update.tar", "update.tar.gz"])
def test_a_thin_pull_that_is_killed_is_completed_by_the_next(tmp_path: Path, out: str) -> None:
    base = write_whole(tmp_path / "v1", V1, "1")
    write_update(tmp_path / f"whole{out}", V2, "2", base)
    call, was_killed = 0, True
    while was_killed:
        was_killed = killed_before(call, partial(write_update, tmp_path / out, V2, "2", base))
        write_update(tmp_path / out, V2, "2", base)
        found = verify(tmp_path / out)
        assert (found.is_right, len(found.expected or ())) == (True, 2)
        left = {path.name for path in tmp_path.rglob("*") if "partial" in path.name or path.name == ".ociexport"}
        assert left == set()
        if (tmp_path / out).is_dir():
            shutil.rmtree(tmp_path / out)
        else:
            assert (tmp_path / out).read_bytes() == (tmp_path / f"whole{out}").read_bytes()
            (tmp_path / out).unlink()
        call += 3
    assert call > 20


def test_killed_while_it_waits_it_completes_with_what_comes_later(tmp_path: Path) -> None:
    place = write_bundles(tmp_path)
    update, base = str(place / "update2.tar"), str(place / "v1")
    both = {name: digest for name, digest in NAMES.items() if not name.endswith("3")}
    call, was_killed = 0, True
    while was_killed:
        far = place / f"far{call}"
        was_killed = killed_before(call, partial(merge, far, [update], jobs=1))
        merge(far, [base])
        if not was_killed:
            assert names_in(far) == both
        merge(far, [update])
        assert names_in(far) == both
        shutil.rmtree(far)
        call += 7
    assert call > 50
