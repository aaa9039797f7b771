"""archive.members: files that bsdtar, ``tar -S`` or Go wrote as sparse are read as they were, holes as zeros."""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, LimitExceededError
from ociexport.layers.tar.reader import TarReader
from ociexport.rootfs.unpack import unpack
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.transfer.pull import pull
from ociexport.verification.verify import verify
from tests.layers.test_tar_reader import header
from tests.support.command import command_environment, command_line
from tests.support.image_builder import AMD64
from tests.support.saved_archives import GENERATIONS, IMAGE, Files, of_docker_25, tree_of
from tests.support.system_parts import require
from tests.system_tests.test_readers_agree import pax

_BLOCK = 4096
WRITERS = {
    "old GNU": ["tar", "-S", "--hole-detection=raw", "--format=gnu"],
    **{
        f"PAX {version}": ["tar", "-S", "--hole-detection=raw", "--format=pax", f"--sparse-version={version}"]
        for version in ("0.0", "0.1", "1.0")
    },
    "bsdtar": ["bsdtar"],
}


def write_tree(place: Path, files: Files) -> Path:
    """Write ``files`` below ``place``, with holes for blocks of zeros."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tarfile.TarInfo):
            if content.type == tarfile.SYMTYPE:
                path.symlink_to(content.linkname)
            else:
                path.hardlink_to(place / content.linkname)
            continue
        with path.open("wb") as file:
            for start in range(0, len(content), _BLOCK):
                block = content[start : start + _BLOCK]
                if block.strip(b"\0"):
                    os.pwrite(file.fileno(), block, start)
            file.truncate(len(content))
    return place


def write_archive(path: Path, files: Files, writer: str) -> Path:
    command = WRITERS[writer]
    require(command[0])
    tree = write_tree(path.parent / "tree", files)
    subprocess.run([*command, "-C", tree, "-cf", path, *os.listdir(tree)], check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rootfs = tmp_path_factory.mktemp("expected") / "rootfs"
    unpack(IMAGE.source(), rootfs, platform=AMD64)
    return tree_of(rootfs)


def count_sparse(archive: Path) -> int:
    return sum(entry.segments is not None for entry in TarReader(iter([archive.read_bytes()])))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("writer", WRITERS)
def test_image_is_the_same_with_sparse_members(
    tmp_path: Path, expected: list[str], generation: str, writer: str
) -> None:
    archive = write_archive(tmp_path / "a.tar", GENERATIONS[generation](), writer)
    assert count_sparse(archive) >= 2 or generation == "crane", "crane's layers are compressed, and have no holes"
    assert pull(f"{archive}:app:1", tmp_path / "layout", platform=AMD64).config_digest == IMAGE.config.digest
    unpack(str(archive), tmp_path / "rootfs", platform=AMD64)
    assert tree_of(tmp_path / "rootfs") == expected
    assert verify(archive, deep=True).is_right


@pytest.mark.parametrize("writer", WRITERS)
def test_all_files_are_read_as_they_were(tmp_path: Path, writer: str) -> None:
    files: Files = {
        "middle": b"a" * _BLOCK + bytes(20 * _BLOCK) + b"b" * 100,
        "end": b"c" + bytes(50 * _BLOCK),
        "begin": bytes(5 * _BLOCK) + b"d",
        "hole": bytes(9 * _BLOCK + 7),
        "empty": b"",
        "many": b"".join(bytes(_BLOCK) + b"e" * _BLOCK for _ in range(100)),
        "é" * 60 + "/long": bytes(3 * _BLOCK) + b"f",
    }
    archive = write_archive(tmp_path / "a.tar", files, writer)
    assert count_sparse(archive) == 6
    with contextlib.closing(ArchiveMembers.open(str(archive))) as members:
        assert sorted(members.names) == sorted(files)
        assert {name: members.read(name, 10**7) for name in files} == files
        assert {name: members.size_of(name) for name in files} == {name: len(files[name]) for name in files}  # type: ignore[arg-type]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_sparse_archive_may_come_through_a_pipe(tmp_path: Path, compress: type[bytes]) -> None:
    archive = write_archive(tmp_path / "a.tar", of_docker_25(), "PAX 1.0")
    for words in (["pull", "-", "--out", tmp_path / "layout"], ["verify", "--deep", "-"]):
        ended = subprocess.run(
            command_line(*words, "-q"),
            env=command_environment(tmp_path),
            input=compress(archive.read_bytes()),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")


def sparse_archive(path: Path, segments: list[tuple[int, bytes]], size: int) -> Path:
    """Write an archive with one file ``f`` in PAX format 0.1."""
    stored = b"".join(part for _, part in segments)
    numbers = ",".join(f"{offset},{len(part)}" for offset, part in segments)
    records = {"map": numbers, "size": str(size), "name": "f"}
    block = header(name=b"GNUSparseFile.0/f", size=b"%011o\0" % len(stored))
    extended = pax(*((f"GNU.sparse.{key}".encode(), value.encode()) for key, value in records.items()))
    path.write_bytes(extended + block + stored + bytes(-len(stored) % 512) + bytes(1024))
    return path


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=700)), min_size=1, max_size=6),
    st.integers(0, 3000),
    st.data(),
)
def test_any_part_is_read_from_any_place(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], tail: int, data: st.DataObject
) -> None:
    content, segments = b"", []
    for hole, part in pieces:
        segments.append((len(content) + hole, part))
        content += bytes(hole) + part
    content += bytes(tail)
    path = sparse_archive(tmp_path_factory.getbasetemp() / "any.tar", segments, len(content))
    offset = data.draw(st.integers(0, len(content) + 1))
    with (
        contextlib.closing(ArchiveMembers.open(str(path))) as members,
        contextlib.closing(members.open_file("f", offset)) as stream,
    ):
        for size in data.draw(st.lists(st.integers(0, 6000), max_size=5)):
            assert stream.read(size) == content[offset : offset + size]
            offset += size
        assert stream.read() == content[offset:]
        assert stream.read(1) == b""


def test_holes_do_not_fill_the_disk(tmp_path: Path) -> None:
    path = sparse_archive(tmp_path / "a.tar", [(0, b"x")], 5 * 1024**3)
    with pytest.raises(LimitExceededError, match="sparse files: expected at most 100 times the size of the archive"):
        ArchiveMembers.open(str(path))


def test_map_of_another_size_than_the_data_is_refused(tmp_path: Path) -> None:
    path = sparse_archive(tmp_path / "a.tar", [(0, b"x"), (5, b"yy")], 6)
    with pytest.raises(InvalidImageError, match="sparse map: expected segments within 6 bytes, got one that ends at 7"):
        ArchiveMembers.open(str(path))
