"""Fixtures of the tests of `ociexport push`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.image_builder import write_layout
from tests.support.pushed_images import INDEX, OTHER, Push


@pytest.fixture
def push(tmp_path: Path) -> Push:
    def run(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        return run_command("push", *arguments, "--retry-delay", "0", home=tmp_path)

    return run


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"docker.io/library/app:1": INDEX, "quay.io/team/other:2": OTHER})
    return tmp_path / "layout"
