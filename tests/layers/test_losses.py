"""The lines about what a tree or an image of a disk lacks."""

from __future__ import annotations

from collections import Counter

from ociexport.layers.losses import Losses


def test_what_a_format_cannot_store_has_its_own_lines() -> None:
    losses = Losses(times=2, unstorable_xattrs=Counter({b"system.posix_acl_access": 3}))
    assert list(losses.lines()) == [
        "times: 2 became the nearest that this format can store",
        "xattrs: 3 left out, which this format can't store: system.posix_acl_access",
    ]
