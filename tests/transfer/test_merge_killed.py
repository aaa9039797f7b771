"""`merge` killed at any moment: no name leads to a gap, and the next run completes what was begun."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from ociexport.transfer.bundle.merge import merge
from ociexport.verification.verify import verify
from tests.support.updates import NAME, V1, V2, V3, blobs_in, names_in, write_bundles

NAMES = {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest), f"{NAME}:3": str(V3.digest)}
# Calls that change a directory, or come before one that does.
_EVENTS = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"})


def merge_until(call: int, far: Path, *bundles: str) -> bool:
    """Merge in a process that is killed before its call of this number; return whether it was killed."""
    child = os.fork()
    if child == 0:
        left = call

        def count(event: str, _words: tuple[object, ...]) -> None:
            nonlocal left
            if event in _EVENTS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            merge(far, bundles, jobs=1)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_before_any_call_no_name_leads_to_a_gap_and_the_next_run_completes_it(tmp_path: Path) -> None:
    place = write_bundles(tmp_path)
    bundles = [str(place / name) for name in ("update3", "update2.tar", "v1")]
    merge(place / "warm", bundles)  # the child imports nothing then
    call, was_killed = 0, True
    while was_killed:
        far = place / f"far{call}"
        was_killed = merge_until(call, far, *bundles)
        if far.exists() and (far / "index.json").exists():
            assert verify(far).is_right or not (far / "oci-layout").exists()
        merge(far, bundles)
        assert (names_in(far), blobs_in(far)) == (NAMES, V1.all_digests | V2.all_digests | V3.all_digests)
        assert verify(far).is_right
        shutil.rmtree(far)
        call += 5
    assert call > 50


def test_killed_while_it_waits_it_completes_with_what_comes_later(tmp_path: Path) -> None:
    place = write_bundles(tmp_path)
    update, base = str(place / "update2.tar"), str(place / "v1")
    both = {name: digest for name, digest in NAMES.items() if not name.endswith("3")}
    call, was_killed = 0, True
    while was_killed:
        far = place / f"far{call}"
        was_killed = merge_until(call, far, update)
        merge(far, [base])
        if not was_killed:
            assert names_in(far) == both
        merge(far, [update])
        assert names_in(far) == both
        shutil.rmtree(far)
        call += 7
    assert call > 50
