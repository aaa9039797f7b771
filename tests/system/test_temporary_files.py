"""temporary_files: if no temporary file can be made, the error names the directory, and not an image."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from ociexport.cli.exit_codes import DISK, exit_code_of
from ociexport.cli.main import main
from ociexport.system.temporary_files import TemporaryFileError, make_temporary_directory, open_temporary_file
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

PLACES = ("missing", "a file")


@pytest.fixture(params=PLACES)
def no_temporary_files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make Python find no directory for temporary files, or one that no longer exists; returns its name."""
    place = tmp_path / "tmp"
    if request.param == "a file":
        place.write_bytes(b"")
        monkeypatch.setattr(tempfile, "tempdir", str(place))
    else:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(place)])
        monkeypatch.setenv("TMPDIR", str(place))
    return str(place)


@pytest.mark.parametrize("act", [open_temporary_file, make_temporary_directory])
def test_no_temporary_file_is_an_error_of_the_disk(act: object, no_temporary_files: str) -> None:
    with pytest.raises(TemporaryFileError) as caught:
        act()  # type: ignore[operator]
    assert caught.value.filename == no_temporary_files
    assert exit_code_of(caught.value) == DISK


@pytest.mark.parametrize(
    "words",
    [["verify", "--deep"], ["cat", "--platform=linux/amd64"]],
    ids=lambda words: words[0],
)
def test_command_ends_with_the_code_of_the_disk(
    words: list[str], no_temporary_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither 3, as if the image were not found, nor 7, as if a layer were wrong."""
    layout = tmp_path / "layout"
    write_layout(layout, {"1": build_image([[member("f", os.urandom(3_000_000))], [member("g")]])})
    assert main([*words, "-q", str(layout), *(["f"] if words[0] == "cat" else [])]) == DISK
    told = capsys.readouterr()
    assert told.out == ""
    assert no_temporary_files in told.err.splitlines()[0]
    assert told.err.splitlines()[1] == "hint: set TMPDIR to a directory that has room for temporary files"


def test_every_temporary_file_comes_through_one_door() -> None:
    """Unfinished files in their final directory, which `files` makes, are not temporary files."""
    package = Path(__file__).parent.parent.parent / "ociexport"
    users = {path.name for path in package.rglob("*.py") if re.search(r"\btempfile\.\w+\(", path.read_text())}
    assert users <= {"temporary_files.py", "files.py"}
