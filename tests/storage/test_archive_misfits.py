"""archive.misfits: what is no archive of images is named for what it is, and the hint makes an archive of it."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import shlex
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.storage.archive.reader import list_archive_images, open_archive_image
from ociexport.verification.verify import verify
from tests.support.command import command_environment, command_line
from tests.support.saved_archives import Files, of_crane, of_docker_1_9, of_docker_25, of_skopeo, write_tar
from tests.support.system_parts import require


def zipped(tar: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.tar", tar)
    return stream.getvalue()


def lzma_alone(tar: bytes) -> bytes:
    return lzma.compress(tar, format=lzma.FORMAT_ALONE)


def twice(tar: bytes) -> bytes:
    return gzip.compress(gzip.compress(tar))


def encoded(tar: bytes) -> bytes:
    """Base64 as base64(1) writes it, in lines."""
    return base64.encodebytes(tar)


UNPACK = "unpack it, and name the layout or the archive that is in it"
MISFITS: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "zip": (zipped, "a zip archive", UNPACK),
    "empty zip": (lambda _: b"PK\5\6" + bytes(18), "a zip archive", UNPACK),
    "zip in gzip": (lambda tar: gzip.compress(zipped(tar)), "a zip archive in gzip data", UNPACK),
    "7z": (lambda _: b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7z archive", UNPACK),
    "lzma": (lzma_alone, "lzma data", "xz --format=lzma -dc {} | ociexport … -"),
    "lz4": (lambda _: b"\4\x22\x4d\x18" + bytes(600), "lz4 data", "lz4 -dc {} | ociexport … -"),
    "base64": (encoded, "base64 of a tar", "base64 -d {} | ociexport … -"),
    "base64, one line": (base64.b64encode, "base64 of a tar", "base64 -d {} | ociexport … -"),
    "base64 of gzip": (lambda t: encoded(gzip.compress(t)), "base64 of gzip data", "base64 -d {} | ociexport … -"),
    "base64 of bzip2": (lambda t: encoded(bz2.compress(t)), "base64 of bzip2 data", "base64 -d {} | ociexport … -"),
    "base64 in xz": (
        lambda tar: lzma.compress(encoded(tar)),
        "base64 of a tar in xz data",
        "xz -dc {} | base64 -d | ociexport … -",
    ),
    "twice": (twice, "gzip data in gzip data", "gzip -dc {} | gzip -dc | ociexport … -"),
    "nothing": (lambda _: b"", "an empty file", "the archive is damaged or incomplete: copy or save it again"),
    "bytes": (
        lambda _: b"\1\2" * 300,
        "a damaged one or none (tar: header field checksum: expected an octal number, "
        r"got '\x01\x02\x01\x02\x01\x02\x01\x02')",
        "an archive is a layout in a tar, or what docker save and podman save write",
    ),
}


def error_of(path: Path) -> InvalidImageError:
    with pytest.raises(InvalidImageError) as caught:
        open_archive_image(str(path))
    return caught.value


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_no_tar_is_named(tmp_path: Path, name: str) -> None:
    make, what, hint = MISFITS[name]
    path = tmp_path / "the images"
    path.write_bytes(make(write_tar(tmp_path / "a.tar", of_skopeo()).read_bytes()))
    error = error_of(path)
    assert str(error) == f"{path}: expected a tar, got {what}"
    assert error.hint == hint.format(shlex.quote(str(path)))
    (finding,) = verify(path).findings
    assert str(finding) == f"wrong: {error}; {error.hint}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><title>Login</title></html>" * 20, "an HTML page"),
        (b'{"schemaVersion": 2}' * 40, "JSON"),
        (b"#!/bin/sh\n" * 100, r"the text '#!/bin/sh\n"),
        (bytes(range(1, 256)) * 3, "tar: header "),
    ],
)
def test_other_content_is_described(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a").write_bytes(content)
    error = error_of(tmp_path / "a")
    assert str(error).startswith(f"{tmp_path}/a: expected a tar, got a damaged one or none ({what}")
    assert error.hint == "an archive is a layout in a tar, or what docker save and podman save write"


def run_hint(hint: str, place: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a hint as a user would, with `inspect` for its dots."""
    command = hint.replace("ociexport … -", shlex.join(command_line("inspect", "-q", "-")))
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=place,
        env=command_environment(place),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", [name for name, (_, _, hint) in MISFITS.items() if "|" in hint and name != "lz4"])
def test_hint_reads_the_archive(tmp_path: Path, name: str) -> None:
    require("xz", "gzip", "base64")
    path = tmp_path / "the images"
    path.write_bytes(MISFITS[name][0](write_tar(tmp_path / "a.tar", of_skopeo()).read_bytes()))
    hint = error_of(path).hint
    assert hint is not None
    ended = run_hint(hint, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_hint_for_standard_input_names_no_file(tmp_path: Path) -> None:
    content = encoded(write_tar(tmp_path / "a.tar", of_skopeo()).read_bytes())
    ended = run_hint("ociexport … -", tmp_path, content)
    assert ended.returncode == 8
    assert ended.stderr.decode().splitlines() == [
        "ociexport: error: standard input: expected a tar, got base64 of a tar",
        "hint: base64 -d | ociexport … -",
    ]
    assert run_hint("base64 -d | ociexport … -", tmp_path, content).returncode == 0


@pytest.mark.parametrize("text", [b"deadbeef\n", b"word " * 300, b"A" * 5000, b"====", b"\n" * 600, b"QUJD" * 300])
def test_text_is_not_taken_for_base64_of_an_archive(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a").write_bytes(text)
    assert "base64 of" not in str(error_of(tmp_path / "a"))


# Archives whose content is a directory down.


@pytest.mark.parametrize("directory", ["layout", "tmp/my images/x", "-C"])
@pytest.mark.parametrize("files", [of_docker_25, of_skopeo, of_crane, of_docker_1_9])
def test_content_a_directory_down_is_told_and_repacked(
    tmp_path: Path, files: Callable[[], Files], directory: str
) -> None:
    archive = write_tar(tmp_path / "a.tar", files(), f"./{directory}/")
    error = error_of(archive)
    assert str(error) == (
        f"{archive}: expected an archive of images, got a tar that has one a directory down, in '{directory}'"
    )
    with pytest.raises(InvalidImageError) as caught:
        list_archive_images(str(archive))
    assert str(caught.value) == str(error)
    assert [str(finding) for finding in verify(archive).findings] == [f"wrong: {error}; {error.hint}"]
    assert error.hint is not None
    ended = run_hint(error.hint.removeprefix("repack it: "), tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert list_archive_images(str(tmp_path / "NEW.tar")) != []


def test_layout_a_directory_down_may_have_neighbours(tmp_path: Path) -> None:
    """macOS adds a file of attributes for the directory."""
    files: Files = {"._layout": b"\0\5\x16\7", **{f"layout/{name}": item for name, item in of_docker_25().items()}}
    assert "a directory down, in 'layout'" in str(error_of(write_tar(tmp_path / "a.tar", files)))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"etc/passwd": b"x", "usr/lib/app/manifest.json": b"{}"},
        {"etc/passwd": b"x", "usr/lib/app/index.json": b"{}"},
    ],
)
def test_tar_of_something_else_has_no_images_further_down(tmp_path: Path, files: Files) -> None:
    error = error_of(write_tar(tmp_path / "a.tar", files))
    assert "got a tar without index.json and manifest.json" in str(error)
    assert error.hint is None
