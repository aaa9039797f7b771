"""archive: a layout and a docker archive in one file, the same bytes each time, there only when it is complete."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.archive_plan import plan_archive, repo_tag
from ociexport.archive_transfer import copy_to_archive
from ociexport.digest import Digest
from ociexport.errors import DigestMismatchError, InvalidImageError, TransferError, UsageError
from ociexport.prepare import PreparedImage, prepare_image
from ociexport.progress import SILENT
from ociexport.sources import ImageName
from ociexport.transfer import pull
from tests.command import command_environment, command_line, run_command
from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import AMD64, BuiltImage, build_artifact, build_image, write_layout
from tests.memory_source import directory, member
from tests.signing import signature_of, tag_of
from tests.system_parts import mounted, require

BIG = member("etc/big", os.urandom(3_000_000))
IMAGE = build_image([[directory("etc"), BIG], [member("b", b"2")], [member("c", b"3")]])
OTHER = build_image([[directory("etc"), BIG], [member("d", b"4")]], compression="zstd")
NAME = "docker.io/library/app:1"


def prepared(image: BuiltImage, tag: str | None = "1", full: str | None = NAME) -> PreparedImage:
    return prepare_image(image.source(tag, full), AMD64, None, SILENT)


def contents_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def json_in(path: Path, name: str) -> Any:
    return json.loads(contents_of(path)[name])


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def test_archive_holds_the_image_byte_for_byte(tmp_path: Path) -> None:
    pull(IMAGE.source("1", NAME), tmp_path / "a.tar", platform=AMD64)
    contents = contents_of(tmp_path / "a.tar")
    assert {name for name in contents if not name.startswith("blobs/")} == {"oci-layout", "index.json", "manifest.json"}
    blobs = {name.removeprefix("blobs/sha256/"): raw for name, raw in contents.items() if name.startswith("blobs/")}
    assert blobs == {digest.encoded: raw for digest, raw in {**IMAGE.blobs, IMAGE.digest: IMAGE.raw}.items()}
    assert os.listdir(tmp_path) == ["a.tar"]


def test_documents_are_those_of_both_formats(tmp_path: Path) -> None:
    """image-layout.md; moby image/spec/spec.md: Config, RepoTags as docker shows names, Layers lowest first."""
    pull(IMAGE.source("1", NAME), tmp_path / "a.tar", platform=AMD64)
    annotations = {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": NAME}
    assert json_in(tmp_path / "a.tar", "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    assert json_in(tmp_path / "a.tar", "index.json") == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**IMAGE.descriptor.to_json(), "annotations": annotations}],
    }
    assert json_in(tmp_path / "a.tar", "manifest.json") == [
        {
            "Config": f"blobs/sha256/{IMAGE.config.digest.encoded}",
            "RepoTags": ["app:1"],
            "Layers": [f"blobs/sha256/{layer.digest.encoded}" for layer in IMAGE.layers],
        }
    ]


def test_entries_are_sorted_and_all_alike(tmp_path: Path) -> None:
    """What varies between machines and days would vary the bytes."""
    pull(IMAGE.source("1", NAME), tmp_path / "a.tar", platform=AMD64)
    with tarfile.open(tmp_path / "a.tar") as tar:
        items = tar.getmembers()
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert {(item.uid, item.gid, item.uname, item.gname, item.mtime) for item in items} == {(0, 0, "", "", 0)}
    assert {(item.name, item.mode) for item in items if item.isdir()} == {("blobs", 0o755), ("blobs/sha256", 0o755)}
    assert {item.mode for item in items if not item.isdir()} == {0o644}


@pytest.mark.parametrize("jobs", [1, 8])
def test_same_images_give_the_same_bytes_into_files_and_streams(tmp_path: Path, jobs: int) -> None:
    def sources() -> list[Any]:
        return [IMAGE.source("1", NAME), OTHER.source("2", "ghcr.io/team/other:2")]

    stream = io.BytesIO()
    copy_to_archive(sources(), str(tmp_path / "a.tar"), platform=AMD64, jobs=jobs)
    copy_to_archive(sources(), stream, platform=AMD64, jobs=jobs)
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


def test_blobs_of_several_images_are_there_once(tmp_path: Path) -> None:
    more = build_image([[directory("etc"), BIG], [member("b", b"2")], [member("e", b"5")]])
    results = copy_to_archive(
        [IMAGE.source("1", NAME), more.source("2", "docker.io/library/app:2")], str(tmp_path / "a.tar"), platform=AMD64
    )
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = [item.name for item in tar if item.name.startswith("blobs/sha256/")]
    assert sorted(names) == sorted(f"blobs/sha256/{digest.encoded}" for digest in IMAGE.all_digests | more.all_digests)
    assert [item["RepoTags"] for item in json_in(tmp_path / "a.tar", "manifest.json")] == [["app:1"], ["app:2"]]
    assert [result.fetched_blobs for result in results] == [4, 2]


def test_image_with_two_names_is_one_image(tmp_path: Path) -> None:
    sources = [IMAGE.source("1", NAME), IMAGE.source("latest", "docker.io/library/app:latest")]
    copy_to_archive(sources, str(tmp_path / "a.tar"), platform=AMD64)
    assert [item["RepoTags"] for item in json_in(tmp_path / "a.tar", "manifest.json")] == [["app:1", "app:latest"]]
    assert len(json_in(tmp_path / "a.tar", "index.json")["manifests"]) == 2


@pytest.mark.parametrize(
    ("full", "shown"),
    [
        ("docker.io/library/alpine:3.20", "alpine:3.20"),
        ("docker.io/team/app:1", "team/app:1"),
        ("ghcr.io/team/app:1", "ghcr.io/team/app:1"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        (f"docker.io/library/alpine@{Digest.of(b'')}", None),
        ("not a name\n", None),
        (None, None),
    ],
)
def test_names_are_those_that_docker_shows(full: str | None, shown: str | None) -> None:
    """docker load refuses RepoTags that are no ``name:tag``; without any the image is ``<none>``."""
    assert repo_tag(ImageName("1", full)) == shown


def test_image_without_a_name_can_be_loaded_all_the_same(tmp_path: Path) -> None:
    pull(IMAGE.source("1", None), tmp_path / "a.tar", platform=AMD64)
    assert json_in(tmp_path / "a.tar", "manifest.json")[0]["RepoTags"] is None


def test_artifact_is_no_image_for_docker(tmp_path: Path) -> None:
    pull(build_artifact(b"chart").source(), tmp_path / "a.tar", platform=AMD64)
    assert "manifest.json" not in contents_of(tmp_path / "a.tar")
    assert len(json_in(tmp_path / "a.tar", "index.json")["manifests"]) == 1


def test_signature_is_no_image_for_docker(tmp_path: Path) -> None:
    """cosign's have an image's config with as many diff_ids as layers; but no layer is a tar."""
    signature = signature_of(IMAGE, ec.generate_private_key(ec.SECP256R1()))
    sources = [IMAGE.source("1", NAME), signature.source(tag_of(IMAGE), f"docker.io/library/app:{tag_of(IMAGE)}")]
    results = copy_to_archive(sources, str(tmp_path / "a.tar"), platform=AMD64)
    assert [result.is_image for result in results] == [True, False]
    assert [item["RepoTags"] for item in json_in(tmp_path / "a.tar", "manifest.json")] == [["app:1"]]
    assert len(json_in(tmp_path / "a.tar", "index.json")["manifests"]) == 2


def test_all_entries_have_the_time_that_is_given(tmp_path: Path) -> None:
    copy_to_archive([IMAGE.source()], str(tmp_path / "a.tar"), platform=AMD64, seconds=1_700_000_000)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {item.mtime for item in tar} == {1_700_000_000}


def test_blob_beyond_eight_gigabytes_has_its_place() -> None:
    """ustar ends at eleven octal digits; PAX goes on."""
    image = prepared(IMAGE)
    size = 10 * 1024**3
    blobs = [replace(blob, descriptor=replace(blob.descriptor, size=size)) for blob in image.blobs if not blob.content]
    plan = plan_archive([replace(image, blobs=tuple(blobs))])
    for entry in plan.blobs.values():
        with tarfile.open(fileobj=io.BytesIO(entry.header + bytes(1024))) as tar:
            item = tar.next()
        assert item is not None
        assert (item.size, len(entry.header) % 512) == (size, 0)
    assert plan.size > 3 * size


def test_same_digest_with_two_sizes_is_refused() -> None:
    image, other = prepared(IMAGE), prepared(IMAGE, "2")
    blobs = tuple(replace(blob, descriptor=replace(blob.descriptor, size=7)) for blob in other.blobs)
    with pytest.raises(InvalidImageError, match=r"as for the same digest before, got 7$"):
        plan_archive([image, replace(other, blobs=blobs)])


def test_bad_image_leaves_the_old_archive_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"old")
    bad = build_image([[BIG], [member("b", b"2")]])
    bad.blobs[bad.layers[1].digest] = b"x" * bad.layers[1].size
    with pytest.raises(DigestMismatchError):
        pull(bad.source(), tmp_path / "a.tar", platform=AMD64)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.tar": b"old"}


def test_stream_of_a_bad_image_is_no_archive() -> None:
    bad = build_image([[BIG], [member("b", b"2")]])
    bad.blobs[bad.layers[0].digest] = bytes(bad.layers[0].size)
    stream = io.BytesIO()
    with pytest.raises(DigestMismatchError) as caught:
        copy_to_archive([bad.source()], stream, platform=AMD64)
    assert str(caught.value).startswith(f"layer 1 of 2 ({bad.layers[0].digest}): digest mismatch: expected ")
    assert b"oci-layout" not in stream.getvalue()


def test_cut_transfer_goes_on_with_the_next_blob(registry: FakeRegistry, tmp_path: Path) -> None:
    """Blobs that arrived whole are not fetched again."""
    reference = IMAGE.serve(registry, "library/app", "1")
    registry.misbehave(IMAGE.layers[2].digest.encoded, Fault(status=400))
    with pytest.raises(Exception, match="400"):
        pull(reference, tmp_path / "a.tar", platform=AMD64, jobs=1)
    assert os.listdir(tmp_path) == ["a.tar.partial"]
    registry.behave()
    registry.requests.clear()
    result = pull(reference, tmp_path / "a.tar", platform=AMD64, jobs=1)
    assert [path for path in registry.paths() if IMAGE.layers[0].digest.encoded in path] == []
    assert (result.reused_blobs, os.listdir(tmp_path)) == (1, ["a.tar"])
    fresh = io.BytesIO()
    copy_to_archive([IMAGE.source("1", f"{registry.host}/library/app:1")], fresh, platform=AMD64)
    assert (tmp_path / "a.tar").read_bytes() == fresh.getvalue()


def test_partial_archive_of_something_else_is_written_anew(tmp_path: Path) -> None:
    size = plan_archive([prepared(IMAGE)]).size
    (tmp_path / "a.tar.partial").write_bytes(b"\xff" * size)
    pull(IMAGE.source("1", NAME), tmp_path / "a.tar", platform=AMD64)
    stream = io.BytesIO()
    copy_to_archive([IMAGE.source("1", NAME)], stream, platform=AMD64)
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


def test_nothing_is_left_where_nothing_came(tmp_path: Path) -> None:
    class Broken(type(IMAGE.source())):  # type: ignore[misc]
        def open_blob(self, descriptor: object, offset: int = 0) -> Any:
            raise TransferError("connection refused")

    source = Broken(IMAGE, ImageName("1", NAME))
    with pytest.raises(TransferError):
        pull(source, tmp_path / "a.tar", platform=AMD64)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "what"),
    [(lambda path: path.symlink_to("victim"), "a link"), (Path.mkdir, "a directory"), (os.mkfifo, "something else")],
)
def test_what_is_planted_in_place_of_the_partial_archive_is_not_followed(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    make(tmp_path / "a.tar.partial")
    with pytest.raises(UsageError) as caught:
        pull(IMAGE.source(), tmp_path / "a.tar", platform=AMD64)
    assert str(caught.value) == f"'{tmp_path}/a.tar.partial': expected a file or nothing, got {what}"
    assert caught.value.hint == f"{tmp_path}/a.tar is written there until it is complete"
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("options", [(), ("--decompress",), ("--legacy",)])
@pytest.mark.parametrize(
    ("place", "reason"),
    [("none/a.tar", "No such file or directory"), ("file/a.tar", "Not a directory"), ("full/a.tar", "No space left")],
)
def test_error_of_what_is_written_aside_tells_the_name_that_was_given(
    tmp_path: Path, place: str, reason: str, options: tuple[str, ...]
) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    (tmp_path / "file").touch()
    out = f"{tmp_path}/./{place}"
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=64k", "none"):
        ended = run_command("pull", f"{tmp_path}/layout", "--quiet", "--out", out, *options, home=tmp_path)
    assert ended.stderr.startswith(f"ociexport: error: {out}: {reason}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_partial_archive_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """In a directory for all, such as /tmp, its owner could change it after it was verified."""
    partial = tmp_path / "a.tar.partial"
    partial.write_bytes(b"")
    os.chown(partial, 12345, 12345)
    with pytest.raises(UsageError) as caught:
        pull(IMAGE.source(), tmp_path / "a.tar", platform=AMD64)
    assert str(caught.value) == f"'{partial}': expected a file of our own, got somebody else's"


def test_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(UsageError) as caught:
        pull(IMAGE.source(), tmp_path / "a.tar", platform=AMD64)
    assert str(caught.value) == f"'{tmp_path / 'a.tar'}': expected a file or nothing, got a directory"


# The command


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
    """Root would have put the archive in the place of /dev/stdout itself."""
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
    copy_to_archive([IMAGE.source("1", reference)], fresh, platform=AMD64)
    assert (tmp_path / "a").read_bytes() == b"what was there" + fresh.getvalue()
    assert os.readlink("/dev/stdout") == before


def test_streams_take_other_files_too(registry: FakeRegistry, tmp_path: Path) -> None:
    """What is written aside and renamed elsewhere: a list of digests, the tar of a tree."""
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
    """A tape does; and /dev/null, for who only wants to know whether an image is whole."""
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


def test_compressed_archive_is_not_taken_for_a_layout(tmp_path: Path) -> None:
    ended = run_command("pull", "alpine", "--out", tmp_path / "a.tar.gz", home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"ociexport: error: --out '{tmp_path / 'a.tar.gz'}': expected a layout or *.tar, got a compressed archive",
            f"hint: did you mean --out {tmp_path / 'a.tar'}? layers are compressed as they are",
        ],
    )


# Those who read it


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
    copy_to_archive(sources, str(archive), platform=AMD64)
    names = {"docker-archive": ["app:1", "ghcr.io/team/app:2"], "oci-archive": ["1", "2"]}[transport]
    for name, expected in zip(names, [image, IMAGE], strict=True):
        target = tmp_path / f"{name}".replace("/", "-")
        command = ["skopeo", "copy", f"{transport}:{archive}:{name}", f"dir:{target}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        config = json.loads((target / "manifest.json").read_bytes())["config"]["digest"]
        assert config == str(expected.config.digest)
