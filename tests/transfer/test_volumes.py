"""`pull --volume-size`: thin archives of at most that size, the same bytes each time; what is finished is kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ociexport.errors import DigestMismatchError, UsageError
from ociexport.spec.digest import Digest
from ociexport.storage.archive.reader import open_archive_image
from ociexport.storage.bundle_volume import is_volume_name, volume_name
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, build_image, write_layout
from tests.support.updates import NAME, V1, V2, V3, layer, write_update, write_whole
from tests.support.volumes import bundle_of, files_in, joined, pull_volumes, volumes_of, write_volumes

SIZE = 40_000
BIG = build_image([layer("big", 300_000), layer("small-1", 500), layer("small-2", 700), layer("middle", 30_000)])


@pytest.mark.parametrize("image", [V1, BIG])
def test_each_volume_has_at_most_the_size_and_all_of_them_have_all_blobs(tmp_path: Path, image: object) -> None:
    built = V1 if image is V1 else BIG
    volumes = write_volumes(tmp_path / "u.tar", built, "1", SIZE)
    assert [path.name for path in volumes] == [
        volume_name("u.tar", n, len(volumes)) for n in range(1, len(volumes) + 1)
    ]
    assert max(path.stat().st_size for path in volumes) <= SIZE
    blobs = joined(volumes)
    assert blobs.keys() == {str(digest) for digest in built.all_digests}
    assert all(str(Digest.of(content)) == name for name, content in blobs.items())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40_000), min_size=0, max_size=6), st.integers(0, 40_000))
def test_any_images_and_any_size_that_is_not_refused(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], more: int
) -> None:
    """The least size that the error names works, and so does every larger one."""
    place = tmp_path_factory.mktemp("volumes")
    image = build_image([layer(f"{number}-{count}", count) for number, count in enumerate(counts)])
    with pytest.raises(UsageError, match="expected at least") as refused:
        write_volumes(place / "u.tar", image, "1", 10)
    found = re.search(r"at least (\d+) bytes", str(refused.value))
    assert found is not None
    least = int(found[1])
    with pytest.raises(UsageError, match=f"expected at least {least} bytes, got {least - 1}"):
        write_volumes(place / "u.tar", image, "1", least - 1)
    assert list(place.iterdir()) == []
    for size in (least, least + more):
        out = place / f"v{size}.tar"
        volumes = write_volumes(out, image, "1", size)
        assert max(path.stat().st_size for path in volumes) <= size
        assert all(str(Digest.of(content)) == name for name, content in joined(volumes).items())
        assert joined(volumes).keys() == {str(digest) for digest in image.all_digests}


def test_a_blob_that_fits_is_whole_unless_much_would_stay_empty(tmp_path: Path) -> None:
    volumes = write_volumes(tmp_path / "u.tar", BIG, "1", 100_000)
    placed = {blob["digest"]: blob for volume in volumes for blob in bundle_of(volume)["volume"]["blobs"]}
    assert [placed[str(one.digest)]["first"] == placed[str(one.digest)]["last"] for one in BIG.layers] == [
        False,
        True,
        True,
        True,
    ]


def test_each_volume_is_an_archive_with_all_documents(tmp_path: Path) -> None:
    for volume in write_volumes(tmp_path / "u.tar", V1, "1", SIZE):
        source = open_archive_image(str(volume))
        assert source.fetch_manifest().digest == V1.digest
        source.close()


def test_an_update_contains_only_what_is_new(tmp_path: Path) -> None:
    write_whole(tmp_path / "v1", V1)
    volumes = write_volumes(tmp_path / "u.tar", V2, "2", 20_000, tmp_path / "v1")
    assert len(volumes) > 1
    for volume in volumes:
        assert [one["digest"] for one in bundle_of(volume)["expected"]] == [str(one.digest) for one in V2.layers[:2]]
    assert joined(volumes).keys() == {str(one) for one in (V2.digest, V2.config.digest, V2.layers[2].digest)}


def test_one_volume_is_the_update_itself_with_its_number(tmp_path: Path) -> None:
    """docker's list has the images that are complete in a volume, or with what the far side has."""
    write_whole(tmp_path / "v1", V1)
    (volume,) = write_volumes(tmp_path / "u.tar", V2, "2", 1_000_000, tmp_path / "v1")
    update = write_update(tmp_path / "whole.tar", V2, "2", tmp_path / "v1")
    one, other = files_in(volume), files_in(update)
    assert volume.name == "u.1-of-1.tar"
    assert {**one, "bundle.json": b""} == {**other, "bundle.json": b""}


def test_docker_is_told_only_of_images_that_a_volume_completes(tmp_path: Path) -> None:
    images = [(build_image([layer("one", 20_000)]), "one"), (build_image([layer("two", 90_000)]), "two")]
    pull_volumes(tmp_path / "u.tar", images, 60_000)
    told = [files_in(volume).get("manifest.json") for volume in volumes_of(tmp_path / "u.tar")]
    tags = [[tag for one in json.loads(raw or b"[]") for tag in one["RepoTags"]] for raw in told]
    assert tags[0] == ["app:one"]
    assert "app:two" not in {tag for some in tags for tag in some}
    assert told[-1] is None


def test_nothing_new_is_one_volume_of_documents(tmp_path: Path) -> None:
    write_whole(tmp_path / "v1", V1)
    (volume,) = write_volumes(tmp_path / "u.tar", V1, "1", SIZE, tmp_path / "v1")
    assert joined([volume]).keys() == {str(V1.digest), str(V1.config.digest)}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_volumes(tmp_path / name / "u.tar", BIG, "1", SIZE)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }


def test_sha256sum_accepts_the_sums(tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(b"0" * 64 + b"  u.1-of-9.tar\n" + b"1" * 64 + b"  other.tar\n")
    out = tmp_path / "u.tar"
    write_volumes(out, V1, "1", SIZE)
    lines = sums.read_text().splitlines()
    assert lines[0] == f"{'1' * 64}  other.tar"  # of another set: it stays; that of an earlier set of ours does not
    sums.write_text("\n".join(lines[1:]) + "\n")
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == [f"{path.name}: OK" for path in volumes_of(out)]


@pytest.mark.parametrize("name", ["u\\1.tar", "u\n1.tar", "ü 1.tar"])
def test_sha256sum_accepts_the_sums_of_odd_names(tmp_path: Path, name: str) -> None:
    pull_volumes(tmp_path / name, [(V1, "1")], SIZE)
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=True)
    before = (tmp_path / "SHA256SUMS").read_bytes()
    pull_volumes(tmp_path / name, [(V1, "1")], SIZE)
    assert (tmp_path / "SHA256SUMS").read_bytes() == before


def test_finished_volumes_are_kept_and_the_others_written(tmp_path: Path) -> None:
    out = tmp_path / "u.tar"
    volumes = write_volumes(out, BIG, "1", SIZE)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in volumes:
        os.utime(path, (1, 1))
    os.unlink(volumes[1])
    damaged = bytearray(before[volumes[3]])
    damaged[20_000] ^= 1
    volumes[3].write_bytes(damaged)
    (result,) = pull_volumes(out, [(BIG, "1")], SIZE)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [path.stat().st_mtime == 1 for path in volumes[:5]] == [True, False, True, False, True]
    assert 0 < result.fetched_bytes < sum(one.size for one in BIG.layers) / 2
    (again,) = pull_volumes(out, [(BIG, "1")], SIZE)
    assert (again.fetched_blobs, again.reused_blobs) == (0, 5)


def test_volumes_of_another_set_are_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "u.tar"
    write_volumes(out, V1, "1", SIZE)
    (tmp_path / "other").mkdir()
    expected = write_volumes(tmp_path / "other" / "u.tar", V1, "other", SIZE)
    assert [path.read_bytes() for path in write_volumes(out, V1, "other", SIZE)] == [
        path.read_bytes() for path in expected
    ]


def test_a_wrong_blob_leaves_no_volume_with_its_ranges(tmp_path: Path) -> None:
    whole = write_whole(tmp_path / "whole", BIG)
    place = ImageLayout(whole).blob_path(BIG.layers[0].digest)
    content = bytearray(Path(place).read_bytes())
    content[100] ^= 1
    Path(place).write_bytes(content)
    ended = command(tmp_path, "pull", "./whole", "-o", "u.tar", "--volume-size", "40000")
    assert ended.returncode == 7, ended.stderr
    assert "digest mismatch" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == []


def test_a_wrong_blob_is_not_kept_from_an_earlier_run_either(tmp_path: Path) -> None:
    """The finished volumes agree with their own digests of ranges, and together with no blob."""
    out = tmp_path / "u.tar"
    first, *_ = write_volumes(out, BIG, "1", SIZE)
    for path in volumes_of(out)[1:]:
        path.unlink()
    _replace_range(first)
    with pytest.raises(DigestMismatchError, match=f"layer 1 of 4 .*expected {BIG.layers[0].digest}"):
        write_volumes(out, BIG, "1", SIZE)
    assert volumes_of(out) == []
    assert joined(write_volumes(out, BIG, "1", SIZE)).keys() == {str(digest) for digest in BIG.all_digests}


def _replace_range(volume: Path) -> None:
    """Put other bytes into the range of a volume, and their digest into its ``bundle.json``."""
    (one,) = bundle_of(volume)["volume"]["ranges"]
    content = files_in(volume)[f"ranges/{one['blob'].replace(':', '/')}.0"]
    other = bytes(len(content))
    raw = volume.read_bytes().replace(content, other).replace(one["digest"].encode(), str(Digest.of(other)).encode())
    volume.write_bytes(raw)


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, home=place, cwd=place, variables={"DOCKER_DEFAULT_PLATFORM": str(AMD64)})


def test_the_command_says_what_it_wrote_and_a_dry_run_what_it_would_write(tmp_path: Path) -> None:
    write_whole(tmp_path / "whole", V1)
    words = ("pull", "./whole", "-o", "u.tar", "--volume-size", "40000", "--json")
    planned = command(tmp_path, *words, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert volumes_of(tmp_path / "u.tar") == []
    ended = command(tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    written = json.loads(ended.stdout)["volumes"]
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert written == [
        {"path": path.name, "size": path.stat().st_size, "sha256": sums[path.name]}
        for path in volumes_of(tmp_path / "u.tar")
    ]
    assert json.loads(planned.stdout)["volumes"] == [
        {name: value for name, value in one.items() if name != "sha256"} for one in written
    ]
    assert json.loads(planned.stdout)["writeBytes"] == sum(one["size"] for one in written)
    assert "volume 2 of 5 (37.9 kB): written" in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("u.tar: 5 volumes (179.7 kB), and SHA256SUMS")


@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        ("dir", [], "--volume-size: expected the name of an archive for --out, got a layout"),
        ("-", [], "--volume-size: expected the name of an archive for --out, got a stream"),
        ("u.tar.gz", [], "volume-size: expected the name of a plain archive, such as update.tar, got 'u.tar.gz'"),
        ("u.tar", ["--decompress"], "--volume-size: expected no --decompress, got it"),
        ("u.tar", ["--legacy"], "--volume-size: expected no --legacy, got it"),
    ],
)
def test_what_can_not_be_in_volumes_is_refused(tmp_path: Path, out: str, words: list[str], message: str) -> None:
    write_whole(tmp_path / "whole", V1)
    ended = command(tmp_path, "pull", "./whole", "-o", out, "--volume-size", "1M", *words)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == f"ociexport: error: {message}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_all_images_go_into_one_set(tmp_path: Path) -> None:
    write_layout(tmp_path / "all", {f"{NAME}:1": V1, f"{NAME}:2": V2, f"{NAME}:3": V3})
    ended = command(tmp_path, "pull", "./all", "--all-images", "-o", "u.tar", "--volume-size", "50k")
    assert ended.returncode == 0, ended.stderr
    assert joined(volumes_of(tmp_path / "u.tar")).keys() == {
        str(digest) for digest in V1.all_digests | V2.all_digests | V3.all_digests
    }


def test_names_sort_by_number() -> None:
    names = [volume_name("d/u.tar", number, 120) for number in range(1, 121)]
    assert (names[0], names[-1]) == ("d/u.001-of-120.tar", "d/u.120-of-120.tar")
    assert sorted(names) == names
    assert volume_name("plain", 1, 2) == "plain.1-of-2"
    assert [is_volume_name(name, "u.tar") for name in ("u.1-of-2.tar", "u.1-of-2", "v.1-of-2.tar", "u.tar")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_registry_is_asked_once_for_a_blob_that_several_volumes_share(tmp_path: Path, registry: FakeRegistry) -> None:
    """Some registries ignore a Range, and would send the blob from its beginning for each volume."""
    reference = BIG.serve(registry, "library/app", "1")
    words = ("pull", reference, "-o", "u.tar", "--volume-size", "100000")
    ended = command(tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    assert joined(volumes_of(tmp_path / "u.tar")).keys() == {str(digest) for digest in BIG.all_digests}
    asked = [path.rpartition("/")[2] for path in registry.paths() if "/blobs/" in path]
    assert sorted(asked) == sorted({*asked})
    # What is finished is not asked for again, and the rest from where it begins.
    volumes = volumes_of(tmp_path / "u.tar")
    before = [path.read_bytes() for path in volumes]
    volumes[2].unlink()
    registry.requests.clear()
    assert command(tmp_path, *words).returncode == 0
    assert [path.read_bytes() for path in volumes] == before
    (request,) = [one for one in registry.requests if BIG.layers[0].digest.encoded in one.path]
    (one, *_) = bundle_of(volumes[2])["volume"]["ranges"]
    assert request.headers["range"].startswith(f"bytes={one['offset']}-")


def test_a_connection_that_breaks_is_continued_within_a_volume(tmp_path: Path, registry: FakeRegistry) -> None:
    reference = BIG.serve(registry, "library/app", "1")
    registry.misbehave(BIG.layers[0].digest.encoded, Fault(reset_after=150_000), times=1)
    ended = command(tmp_path, "pull", reference, "-o", "u.tar", "--volume-size", "100000", "--retry-delay", "0")
    assert ended.returncode == 0, ended.stderr
    assert joined(volumes_of(tmp_path / "u.tar")).keys() == {str(digest) for digest in BIG.all_digests}


@pytest.mark.parametrize("change", [lambda body: body + b"!", lambda body: body[:-1]])
def test_a_blob_of_another_size_leaves_no_volume_with_its_ranges(
    tmp_path: Path, registry: FakeRegistry, change: Callable[[bytes], bytes]
) -> None:
    reference = BIG.serve(registry, "library/app", "1")
    registry.misbehave(BIG.layers[0].digest.encoded, Fault(change=change))
    ended = command(tmp_path, "pull", reference, "-o", "u.tar", "--volume-size", "100000", "--retry-times", "0")
    assert ended.returncode in (5, 7), ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "error" in line]) == 1
    if ended.returncode == 7:
        assert volumes_of(tmp_path / "u.tar") == []


def test_something_else_with_the_name_of_a_volume_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "whole", V1)
    (tmp_path / "u.3-of-5.tar").mkdir()
    ended = command(tmp_path, "pull", "./whole", "-o", "u.tar", "--volume-size", "40000")
    assert ended.returncode == 2
    assert "u.3-of-5.tar': expected a file or nothing, got a directory" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u.3-of-5.tar", "whole"]
