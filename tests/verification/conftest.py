"""Fixtures of the tests of what is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.damaged_layout import DamagedLayout


@pytest.fixture
def layout(tmp_path: Path) -> DamagedLayout:
    return DamagedLayout(tmp_path / "layout")
