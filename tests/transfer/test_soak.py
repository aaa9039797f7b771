"""A few rounds of the soak in `tests.support.soak`; docs/about/reliability.md has the results of many rounds."""

from __future__ import annotations

import pytest

from tests.support.soak import soak


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_every_fault_is_survived(seed: int) -> None:
    assert soak(10, seed).total() == 10
