"""A tar as what the far side has: it is told by its checksum or its magic, whatever its name."""

from __future__ import annotations

import io
import os
import resource
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.system.temporary_files import TemporaryFileError
from tests.support.updates import V1
from tests.transfer.test_have import LAYERS, archive_of, read, written


@pytest.mark.parametrize("magic", [b"ustar", b"\0\0\0\0\0"], ids=["POSIX", "v7"])
def test_a_tar_is_told_by_its_checksum_whatever_its_magic(tmp_path: Path, magic: bytes) -> None:
    """GNU tar --format=v7 and old BSD tars write no magic."""
    content = bytearray(archive_of(tmp_path / "have.tar", V1).read_bytes())
    content[257:262] = magic
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    assert set(LAYERS) <= read(written(tmp_path / "have", bytes(content))).blobs


def test_a_tar_with_a_damaged_first_header_is_called_so(tmp_path: Path) -> None:
    content = bytearray(archive_of(tmp_path / "have.tar", V1).read_bytes())
    content[0:3] = b"{x}"
    with pytest.raises(InvalidImageError, match="expected a tar, got a damaged one or none"):
        read(written(tmp_path / "have", bytes(content)))


def test_a_full_disk_while_standard_input_is_copied_names_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is about this machine, and says which directory is full."""
    archive = archive_of(tmp_path / "have.tar", V1).read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    begin, end = os.pipe()
    writer = threading.Thread(target=lambda: suppressed_write(end, archive))
    writer.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(TemporaryFileError) as caught:
            read(f"/dev/fd/{begin}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.close(begin)
        writer.join(60)
    assert caught.value.filename == str(tmp_path)


def suppressed_write(fd: int, content: bytes) -> None:
    """Write as much to a pipe as its reader takes."""
    with suppress(OSError), os.fdopen(fd, "wb") as file:
        file.write(content)


def test_a_truncated_archive_ends_in_one_line(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "have.tar", V1)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InvalidImageError, match="expected a tar, got a damaged one"):
        read(path)


def test_an_archive_may_hold_anything_after_its_first_block(tmp_path: Path) -> None:
    """A tar without images is no HAVE."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    with pytest.raises(InvalidImageError, match="expected an archive of images"):
        read(written(tmp_path / "have", buffer.getvalue()))
