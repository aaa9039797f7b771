"""Archives that `ociexport pull` writes to files, pipes, devices and standard output; and other tools reading them."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import directory, member
from tests.support.system_parts import require

BIG = member("etc/big", os.urandom(3_000_000))
IMAGE = build_image([[directory("etc"), BIG], [member("b", b"2")], [member("c", b"3")]])
OTHER = build_image([[directory("etc"), BIG], [member("d", b"4")]], compression="zstd")
NAME = "docker.io/library/app:1"


def test_command_writes_archives_to_files_pipes_and_standard_output(registry: FakeRegistry, tmp_path: Path) -> None:
    first, second = IMAGE.serve(registry, "library/app", "1"), OTHER.serve(registry, "team/other", "2")
    names = f"{first}@{IMAGE.digest}\n{second}@{OTHER.digest}\n"
    environment = command_environment(tmp_path)

    ended = run_command("pull", first, second, "-q", "--out", tmp_path / "a.tar", home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, names, "")
    by_format = run_command(
        "pull", first, second, "-q", "--format", "docker-archive", "--out", tmp_path / "b", home=tmp_path
    )
    assert (by_format.returncode, by_format.stdout) == (0, names)
    piped = subprocess.run(
        command_line("pull", first, second, "-q", "--out", "-"),
        env=environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(
        command_line("pull", first, second, "-q", "--out", tmp_path / "pipe"), env=environment
    ) as run:
        through_pipe = (tmp_path / "pipe").read_bytes()
    assert run.returncode == 0
    assert piped.stderr.decode() == names
    archives = {(tmp_path / "a.tar").read_bytes(), (tmp_path / "b").read_bytes(), piped.stdout, through_pipe}
    assert len(archives) == 1


def test_source_date_epoch_is_the_time_of_all_entries(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "a/b")
    run_command(
        "pull", reference, "--out", tmp_path / "a.tar", home=tmp_path, variables={"SOURCE_DATE_EPOCH": "1700000000"}
    )
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {item.mtime for item in tar} == {1_700_000_000}
    wrong = run_command(
        "pull", reference, "--out", tmp_path / "a.tar", home=tmp_path, variables={"SOURCE_DATE_EPOCH": "yesterday"}
    )
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "ociexport: error: SOURCE_DATE_EPOCH: expected seconds since 1970, got 'yesterday'\n",
    )


def test_terminal_gets_no_archive(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        ended = subprocess.run(
            command_line("pull", "alpine", "--out", "-"),
            env=command_environment(tmp_path),
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (ended.returncode, ended.stderr) == (
        2,
        "ociexport: error: --out -: expected a file or a pipe on standard output, got a terminal\n"
        "hint: for example --out - | docker load\n",
    )


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_open_file_by_its_name_is_written_and_not_replaced(registry: FakeRegistry, tmp_path: Path, name: str) -> None:
    """Root would otherwise have replaced /dev/stdout itself with the archive."""
    reference = IMAGE.serve(registry, "library/app", "1")
    before = os.readlink("/dev/stdout")
    with (tmp_path / "a").open("wb") as out:
        out.write(b"what was there")
        out.flush()
        ended = subprocess.run(
            command_line("pull", reference, "-q", "--format", "oci-archive", "--out", name),
            env=command_environment(tmp_path),
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr.decode()) == (0, f"{reference}@{IMAGE.digest}\n")
    fresh = io.BytesIO()
    copy_to_archive([IMAGE.source("1", reference)], fresh, PullOptions(AMD64))
    assert (tmp_path / "a").read_bytes() == b"what was there" + fresh.getvalue()
    assert os.readlink("/dev/stdout") == before


def test_streams_take_other_files_too(registry: FakeRegistry, tmp_path: Path) -> None:
    """A list of digests and the tar of a tree, which for a regular file are written aside and renamed."""
    reference = IMAGE.serve(registry, "library/app", "1")
    before = os.readlink("/dev/stderr")
    with (tmp_path / "a").open("wb") as out:
        command = command_line("pull", reference, "-q", "--digestfile", "/dev/stderr", "--out", tmp_path / "layout")
        subprocess.run(command, env=command_environment(tmp_path), stderr=out, timeout=60, check=True)
    assert (tmp_path / "a").read_text() == f"{IMAGE.digest}\n"
    assert os.readlink("/dev/stderr") == before
    os.mkfifo(tmp_path / "pipe")
    command = command_line("unpack", tmp_path / "layout", "-q", "--to-tar", tmp_path / "pipe")
    with subprocess.Popen(command, env=command_environment(tmp_path), stdout=subprocess.DEVNULL) as run:
        through_pipe = (tmp_path / "pipe").read_bytes()
    assert run.returncode == 0
    with tarfile.open(fileobj=io.BytesIO(through_pipe)) as tar:
        assert tar.getnames() == [".", "etc", "etc/big", "b", "c"]


def test_device_takes_an_archive(registry: FakeRegistry, tmp_path: Path) -> None:
    """A tape does; and /dev/null, to check an image without storing it."""
    ended = run_command("pull", IMAGE.serve(registry, "library/app"), "-q", "--out", "/dev/null", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_layout_is_no_stream(tmp_path: Path, name: str) -> None:
    ended = run_command("pull", "alpine", "--format", "oci", "--out", name, home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"ociexport: error: --out '{name}': expected the directory of a layout, got a stream",
            "hint: --format oci-archive is a layout in one file",
        ],
    )


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.bz2"])
def test_another_compression_is_not_taken_for_a_layout(tmp_path: Path, suffix: str) -> None:
    ended = run_command("pull", "alpine", "--out", tmp_path / f"a{suffix}", home=tmp_path)
    expected = f"expected a layout, *.tar, *.tar.gz or *.tar.zst, got {suffix}"
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"ociexport: error: --out '{tmp_path / 'a'}{suffix}': {expected}",
            f"hint: did you mean --out {tmp_path / 'a'}.tar.zst?",
        ],
    )


# Other tools read it


@pytest.mark.system
@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_skopeo_reads_it(tmp_path: Path, transport: str, compression: Any) -> None:
    require("skopeo")
    image = build_image(
        [[directory("etc"), BIG], [member("etc/.wh.big")], [member("b", b"2")]], compression=compression
    )
    archive = tmp_path / "a.tar"
    sources = [image.source("1", NAME), IMAGE.source("2", "ghcr.io/team/app:2")]
    copy_to_archive(sources, str(archive), PullOptions(AMD64))
    names = {"docker-archive": ["app:1", "ghcr.io/team/app:2"], "oci-archive": ["1", "2"]}[transport]
    for name, expected in zip(names, [image, IMAGE], strict=True):
        target = tmp_path / f"{name}".replace("/", "-")
        command = ["skopeo", "copy", f"{transport}:{archive}:{name}", f"dir:{target}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        config = json.loads((target / "manifest.json").read_bytes())["config"]["digest"]
        assert config == str(expected.config.digest)
