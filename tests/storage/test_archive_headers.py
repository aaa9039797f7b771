"""archive.members: a broken header anywhere in an archive is refused, for each file after it might be missed unseen.

Python's tarfile ends at such a header without an error, unless it is the first.
"""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.storage.archive.members import ArchiveMembers
from tests.support.command import run_command
from tests.support.saved_archives import GENERATIONS, of_docker_1_9, of_skopeo, write_tar

ARCHIVES = {**GENERATIONS, "docker 1.9": of_docker_1_9}


def header_offsets(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [item.offset for item in tar]


def names_of(path: Path) -> tuple[str, ...]:
    members = ArchiveMembers.open(str(path))
    try:
        return members.names
    finally:
        members.close()


@pytest.mark.parametrize("generation", ARCHIVES)
def test_any_header_with_a_false_checksum_is_refused(tmp_path: Path, generation: str) -> None:
    sound = write_tar(tmp_path / "a.tar", ARCHIVES[generation]()).read_bytes()
    assert len(names_of(tmp_path / "a.tar")) == len(header_offsets(tmp_path / "a.tar"))
    for offset in header_offsets(tmp_path / "a.tar"):
        broken = bytearray(sound)
        broken[offset + 110] ^= 1  # a digit of the uid
        (tmp_path / "b.tar").write_bytes(broken)
        with pytest.raises(InvalidImageError, match="header checksum: expected "):
            ArchiveMembers.open(str(tmp_path / "b.tar"))


@given(st.data())
def test_changed_header_is_refused_or_all_files_are_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A byte of the checksum's padding may change; no other change leaves a header that is read."""
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    write_tar(path, ARCHIVES[data.draw(st.sampled_from(sorted(ARCHIVES)))]())
    offsets, names, raw = header_offsets(path), names_of(path), bytearray(path.read_bytes())
    position = data.draw(st.sampled_from(offsets)) + data.draw(st.integers(0, 511))
    raw[position] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(InvalidImageError):
        assert names_of(path) == names


@pytest.mark.parametrize("command", ["inspect", "pull", "unpack", "ls", "verify"])
def test_commands_name_the_place_and_what_to_do(tmp_path: Path, command: str) -> None:
    archive = write_tar(tmp_path / "a.tar", of_skopeo())
    raw = bytearray(archive.read_bytes())
    *_, before, last = header_offsets(archive)
    raw[last + 110] ^= 1
    archive.write_bytes(raw)
    with tarfile.open(archive) as tar:
        assert [item.offset for item in tar][-1] == before, "tarfile is to end early, or nothing is tested"
        name = tar.getmembers()[-1].name
    targets: dict[str, list[str | Path]] = {"pull": ["--out", tmp_path / "layout"], "unpack": [tmp_path / "rootfs"]}
    ended = run_command(command, archive, *targets.get(command, []), home=tmp_path)
    said = ended.stdout if command == "verify" else ended.stderr
    assert f"{archive}: expected a tar, got a damaged one (after '{name}': tar: header checksum: expected " in said
    assert "the archive is damaged or incomplete: copy or save it again" in said
    assert ended.returncode == (7 if command == "verify" else 8)
    assert not (tmp_path / "layout").exists()
    assert not (tmp_path / "rootfs").exists()


def test_data_beyond_the_end_is_refused(tmp_path: Path) -> None:
    """The data of the last entry is passed over, not read: its end is compared with that of the file."""
    archive = write_tar(tmp_path / "a.tar", {"index.json": b"{}", "x": b"y" * 5000})
    archive.write_bytes(archive.read_bytes()[: header_offsets(archive)[1] + 512 + 4999])
    with pytest.raises(InvalidImageError, match="expected data of an entry, got the end of the tar"):
        ArchiveMembers.open(str(archive))
