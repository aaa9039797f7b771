"""archive.writer: a layout and a docker archive in one file, reproducible, and visible only when it is complete."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.errors import DigestMismatchError, InvalidImageError, TransferError, UsageError
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.source import ImageName
from ociexport.spec.digest import Digest
from ociexport.storage.archive.plan import plan_archive, repo_tag
from ociexport.system.progress.protocol import SILENT
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, BuiltImage, build_artifact, build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.signing import signature_of, tag_of
from tests.support.system_parts import mounted

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
    """The bytes do not depend on the machine or the date."""
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
    copy_to_archive(sources(), str(tmp_path / "a.tar"), PullOptions(AMD64, jobs=jobs))
    copy_to_archive(sources(), stream, PullOptions(AMD64, jobs=jobs))
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


def test_blobs_of_several_images_are_there_once(tmp_path: Path) -> None:
    more = build_image([[directory("etc"), BIG], [member("b", b"2")], [member("e", b"5")]])
    results = copy_to_archive(
        [IMAGE.source("1", NAME), more.source("2", "docker.io/library/app:2")],
        str(tmp_path / "a.tar"),
        PullOptions(AMD64),
    )
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = [item.name for item in tar if item.name.startswith("blobs/sha256/")]
    assert sorted(names) == sorted(f"blobs/sha256/{digest.encoded}" for digest in IMAGE.all_digests | more.all_digests)
    assert [item["RepoTags"] for item in json_in(tmp_path / "a.tar", "manifest.json")] == [["app:1"], ["app:2"]]
    assert [result.fetched_blobs for result in results] == [4, 2]


def test_image_with_two_names_is_one_image(tmp_path: Path) -> None:
    sources = [IMAGE.source("1", NAME), IMAGE.source("latest", "docker.io/library/app:latest")]
    copy_to_archive(sources, str(tmp_path / "a.tar"), PullOptions(AMD64))
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
    """docker load refuses a RepoTag that is not ``name:tag``; an image without RepoTags is shown as ``<none>``."""
    assert repo_tag(ImageName("1", full)) == shown


def test_image_without_a_name_can_be_loaded_all_the_same(tmp_path: Path) -> None:
    pull(IMAGE.source("1", None), tmp_path / "a.tar", platform=AMD64)
    assert json_in(tmp_path / "a.tar", "manifest.json")[0]["RepoTags"] is None


def test_artifact_is_no_image_for_docker(tmp_path: Path) -> None:
    pull(build_artifact(b"chart").source(), tmp_path / "a.tar", platform=AMD64)
    assert "manifest.json" not in contents_of(tmp_path / "a.tar")
    assert len(json_in(tmp_path / "a.tar", "index.json")["manifests"]) == 1


def test_signature_is_no_image_for_docker(tmp_path: Path) -> None:
    """cosign's artifacts have an image config with as many diff_ids as layers, but their layers are not tars."""
    signature = signature_of(IMAGE, ec.generate_private_key(ec.SECP256R1()))
    sources = [IMAGE.source("1", NAME), signature.source(tag_of(IMAGE), f"docker.io/library/app:{tag_of(IMAGE)}")]
    results = copy_to_archive(sources, str(tmp_path / "a.tar"), PullOptions(AMD64))
    assert [result.is_image for result in results] == [True, False]
    assert [item["RepoTags"] for item in json_in(tmp_path / "a.tar", "manifest.json")] == [["app:1"]]
    assert len(json_in(tmp_path / "a.tar", "index.json")["manifests"]) == 2


def test_all_entries_have_the_time_that_is_given(tmp_path: Path) -> None:
    copy_to_archive([IMAGE.source()], str(tmp_path / "a.tar"), PullOptions(AMD64), seconds=1_700_000_000)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {item.mtime for item in tar} == {1_700_000_000}


def test_blob_beyond_eight_gigabytes_has_its_place() -> None:
    """A size in ustar has at most eleven octal digits; a larger one needs PAX."""
    image = prepared(IMAGE)
    size = 10 * 1024**3
    blobs = [blob._replace(descriptor=replace(blob.descriptor, size=size)) for blob in image.blobs if not blob.content]
    plan = plan_archive([image._replace(blobs=tuple(blobs))])
    for entry in plan.blobs.values():
        with tarfile.open(fileobj=io.BytesIO(entry.header + bytes(1024))) as tar:
            item = tar.next()
        assert item is not None
        assert (item.size, len(entry.header) % 512) == (size, 0)
    assert plan.size > 3 * size


def test_same_digest_with_two_sizes_is_refused() -> None:
    image, other = prepared(IMAGE), prepared(IMAGE, "2")
    blobs = tuple(blob._replace(descriptor=replace(blob.descriptor, size=7)) for blob in other.blobs)
    with pytest.raises(InvalidImageError, match=r"as for the same digest before, got 7$"):
        plan_archive([image, other._replace(blobs=blobs)])


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
        copy_to_archive([bad.source()], stream, PullOptions(AMD64))
    assert str(caught.value).startswith(f"layer 1 of 2 ({bad.layers[0].digest}): digest mismatch: expected ")
    assert b"oci-layout" not in stream.getvalue()


def test_name_as_long_as_a_name_may_be_is_resumed_too(registry: FakeRegistry, tmp_path: Path) -> None:
    """Two long names with the same beginning have different partial names."""
    reference = IMAGE.serve(registry, "library/app", "1")
    registry.misbehave(IMAGE.layers[2].digest.encoded, Fault(status=400))
    names = ["ü" * 120 + "1" * 11 + ".tar", "ü" * 120 + "2" * 11 + ".tar"]
    for name in names:
        with pytest.raises(Exception, match="400"):
            pull(reference, tmp_path / name, platform=AMD64, jobs=1)
    assert len(os.listdir(tmp_path)) == 2
    registry.behave()
    assert [pull(reference, tmp_path / name, platform=AMD64, jobs=1).reused_blobs for name in names] == [1, 1]
    assert sorted(os.listdir(tmp_path)) == names


def test_cut_transfer_goes_on_with_the_next_blob(registry: FakeRegistry, tmp_path: Path) -> None:
    """Complete blobs are not fetched again."""
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
    copy_to_archive([IMAGE.source("1", f"{registry.host}/library/app:1")], fresh, PullOptions(AMD64))
    assert (tmp_path / "a.tar").read_bytes() == fresh.getvalue()


def test_partial_archive_of_something_else_is_written_anew(tmp_path: Path) -> None:
    size = plan_archive([prepared(IMAGE)]).size
    (tmp_path / "a.tar.partial").write_bytes(b"\xff" * size)
    pull(IMAGE.source("1", NAME), tmp_path / "a.tar", platform=AMD64)
    stream = io.BytesIO()
    copy_to_archive([IMAGE.source("1", NAME)], stream, PullOptions(AMD64))
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
    """In a world-writable directory such as /tmp, its owner could change it after it was verified."""
    partial = tmp_path / "a.tar.partial"
    partial.write_bytes(b"")
    os.chown(partial, 12345, 12345)
    with pytest.raises(UsageError) as caught:
        pull(IMAGE.source(), tmp_path / "a.tar", platform=AMD64)
    assert str(caught.value) == f"'{partial}': expected a file of this user, got another user's"


def test_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(UsageError) as caught:
        pull(IMAGE.source(), tmp_path / "a.tar", platform=AMD64)
    assert str(caught.value) == f"'{tmp_path / 'a.tar'}': expected a file or nothing, got a directory"
