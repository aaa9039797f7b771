"""`pull --dry-run`, `--json` and `--digestfile`: what a pull would do, and its results for scripts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ociexport.spec.descriptor import Platform
from tests.support.command import command_environment, command_line
from tests.support.image_builder import AMD64, ARM64, build_image, build_index
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.system_parts import mounted

LAYERS = [[member("a", os.urandom(30_000))], [member("b", b"2" * 5000)]]
IMAGE = build_image(LAYERS)
CONFIG, FIRST, SECOND = IMAGE.config, *IMAGE.layers


def test_what_would_be_fetched_is_said_and_nothing_is_written(puller: Puller) -> None:
    pulled = puller(puller.serve(IMAGE), "--dry-run")
    total = sum(item.size for item in (CONFIG, FIRST, SECOND))
    *lines, last = pulled.out.splitlines()
    assert lines == [
        f"image REGISTRY/library/app:1: {IMAGE.digest}",
        "  from REGISTRY, anonymous: the registry asked for no credentials",
        f"  manifest {IMAGE.digest} for linux/amd64",
        f"  config {CONFIG.digest.short}: {CONFIG.size} B, to fetch",
        f"  layer 1/2 {FIRST.digest.short}: {FIRST.size / 1000:.1f} kB, to fetch",
        f"  layer 2/2 {SECOND.digest.short}: {SECOND.size} B, to fetch",
        f"to fetch: 3 blobs ({total / 1000:.1f} kB), 0 already there",
    ]
    assert last.startswith(f"to write: {total / 1000:.1f} kB into {puller.layout} (new), ")
    assert last.endswith(" free")
    assert pulled.code == 0
    puller.assert_nothing_left()
    # The config was read, since it shows whether this is an image; layers were not.
    assert not [path for path in puller.registry.paths("GET") if FIRST.digest.encoded in path]


def test_what_is_there_is_not_to_be_fetched(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    puller(reference)
    puller.blob(SECOND).unlink()
    puller.blob(FIRST).rename(puller.layout / "elsewhere")
    before = sorted(puller.layout.rglob("*"))
    said = json.loads(puller(reference, "--dry-run", "--json").out)
    assert [(blob["digest"], blob["thereBytes"]) for blob in said["images"][0]["blobs"]] == [
        (str(CONFIG.digest), CONFIG.size),
        (str(FIRST.digest), 0),
        (str(SECOND.digest), 0),
    ]
    assert sorted(puller.layout.rglob("*")) == before


def test_cut_transfer_would_go_on(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    puller(reference)
    raw = puller.blob(FIRST).read_bytes()
    puller.blob(FIRST).unlink()
    partial = puller.partial(FIRST)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(raw[:10_000])
    pulled = puller(reference, "--dry-run")
    line = f"  layer 1/2 {FIRST.digest.short}: {FIRST.size / 1000:.1f} kB, to resume at 10000 of {FIRST.size} bytes"
    assert line in pulled.out.splitlines()
    assert f"to fetch: 1 blob ({(FIRST.size - 10_000) / 1000:.1f} kB), 2 already there" in pulled.out


def test_cache_is_looked_into_and_left_alone(puller: Puller, tmp_path: Path) -> None:
    reference = puller.serve(IMAGE)
    cache = tmp_path / "cache"
    puller(reference, "--cache", cache)
    puller.layout.rename(tmp_path / "other")
    pulled = puller(reference, "--cache", cache, "--dry-run")
    assert "to fetch: 0 blobs (0 B), 3 already there" in pulled.out
    assert not puller.layout.exists()


def test_name_that_would_move_is_said(puller: Puller) -> None:
    puller(puller.serve(IMAGE))
    other = build_image(LAYERS[:1])
    pulled = puller(puller.serve(other), "--dry-run")
    assert f"  its name moves from {IMAGE.digest}" in pulled.out.splitlines()


def test_blob_of_two_images_is_counted_once(puller: Puller) -> None:
    other = build_image(LAYERS[:1])
    pulled = puller(puller.serve(IMAGE, "1"), puller.serve(other, "2"), "--dry-run")
    total = CONFIG.size + FIRST.size + SECOND.size + other.config.size
    assert f"to fetch: 4 blobs ({total / 1000:.1f} kB), 0 already there" in pulled.out


def test_credentials_and_their_place_are_said_without_the_secret(puller: Puller) -> None:
    puller.registry.auth, puller.registry.users = "basic", {"alice": "hunter2"}
    reference = puller.serve(IMAGE)
    authfile = puller.home / "auth.json"
    entry = {"username": "alice", "password": "hunter2"}
    authfile.write_text(json.dumps({"auths": {puller.registry.host: entry}}))
    pulled = puller(reference, "--dry-run", "--authfile", authfile)
    assert f"  from REGISTRY, asked as user alice (from {authfile}: entry 'REGISTRY')" in pulled.out.splitlines()
    assert "hunter2" not in pulled.out + "".join(pulled.lines)


def test_archive_is_planned_to_the_byte(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    archive = puller.home / "x.tar"
    said = json.loads(puller(reference, "--dry-run", "--json", out=archive).out)
    assert not archive.exists()
    puller(reference, out=archive)
    assert said["writeBytes"] == archive.stat().st_size


def test_all_platforms_are_planned(puller: Puller) -> None:
    images = [build_image(LAYERS, platform=platform) for platform in (AMD64, ARM64)]
    index = build_index(images)
    said = json.loads(puller(puller.serve(index), "--all", "--dry-run", "--json").out)
    (image,) = said["images"]
    assert image["digest"] == str(index.digest)
    assert {manifest["platform"]["architecture"] for manifest in image["manifests"]} == {"amd64", "arm64"}


def test_platform_that_is_not_there_is_found_out(puller: Puller) -> None:
    index = build_index([IMAGE, build_image(LAYERS, platform=Platform("linux", "s390x"))])
    assert puller(puller.serve(index), "--dry-run", "--platform", "linux/arm64").code == 10


@pytest.mark.system
def test_missing_room_is_found_out(puller: Puller, tmp_path: Path) -> None:
    reference = puller.serve(build_image([[member("big", os.urandom(3_000_000))]]))
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as disk:
        pulled = puller(reference, "--dry-run", out=disk / "layout")
        assert os.listdir(disk) == []
    assert (pulled.code, pulled.errors) == (
        9,
        [f"ociexport: error: {disk}/layout: expected room for 3.0 MB, got 1.0 MB free"],
    )


# Output for scripts


def test_json_says_what_was_pulled(puller: Puller) -> None:
    pulled = puller(puller.serve(IMAGE), "--json")
    assert json.loads(pulled.out) == {
        "jsonVersion": 1,
        "command": "pull",
        "images": [
            {
                "name": "REGISTRY/library/app:1",
                "reference": f"REGISTRY/library/app:1@{IMAGE.digest}",
                "digest": str(IMAGE.digest),
                "manifests": [
                    {
                        "digest": str(IMAGE.digest),
                        "configDigest": str(CONFIG.digest),
                        "isImage": True,
                        "platform": {"architecture": "amd64", "os": "linux"},
                    }
                ],
                "fetchedBlobs": 3,
                "fetchedBytes": CONFIG.size + FIRST.size + SECOND.size,
                "reusedBlobs": 0,
                "reusedBytes": 0,
                "companions": [],
                "deep": False,
            }
        ],
        "failures": [],
    }


def test_json_has_the_failures_beside_what_came(puller: Puller) -> None:
    missing = f"{puller.registry.host}/library/app:none"
    pulled = puller(missing, puller.serve(IMAGE), "--json")
    said = json.loads(pulled.out)
    assert (pulled.code, len(said["images"])) == (3, 1)
    (failure,) = said["failures"]
    assert (failure["image"], failure["exitCode"]) == ("REGISTRY/library/app:none", 3)
    assert f"ociexport: error: {failure['error']}" == pulled.errors[0]


def test_digests_are_written_to_a_file(puller: Puller) -> None:
    other = build_image(LAYERS[:1])
    file = puller.home / "digests"
    puller(puller.serve(IMAGE, "1"), puller.serve(other, "2"), "--digestfile", file)
    assert file.read_text() == f"{IMAGE.digest}\n{other.digest}\n"


def test_digest_file_is_left_alone_by_a_failure(puller: Puller) -> None:
    file = puller.home / "digests"
    file.write_text("old")
    assert puller(f"{puller.registry.host}/library/app:none", "--digestfile", file).code == 3
    assert file.read_text() == "old"


def test_digest_file_that_can_not_be_written_is_found_out_first(puller: Puller) -> None:
    pulled = puller(puller.serve(IMAGE), "--digestfile", puller.home / "none" / "digests")
    assert (pulled.code, puller.registry.requests) == (3, [])


def test_archive_on_standard_output_has_the_data_on_standard_error(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    arguments = command_line("pull", reference, "--json", "-q", "--platform=linux/amd64", "--out", "-")
    ended = subprocess.run(arguments, env=command_environment(puller.home), capture_output=True, check=True, timeout=60)
    assert json.loads(ended.stderr)["images"][0]["digest"] == str(IMAGE.digest)
