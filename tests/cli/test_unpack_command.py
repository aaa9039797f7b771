"""`ociexport unpack`, `rm` and `treehash` from a script; bad input gives one line and a code, and leaves no files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import ociexport
from ociexport.spec.digest import Digest
from tests.support.image_builder import AMD64, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.system_parts import OCIEXPORT, require, run
from tests.support.unpack_process import LAYERS, unpack


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"one": build_image(LAYERS)})
    return tmp_path / "layout"


def test_digest_is_printed_and_the_rest_is_said_elsewhere(layout: Path, tmp_path: Path) -> None:
    image = build_image(LAYERS)
    result = unpack(layout, tmp_path / "rootfs")
    assert (result.returncode, result.stdout) == (0, f"{image.digest}\n")
    assert f"ociexport: {layout}:one: platform linux/amd64, 2 layers" in result.stderr.splitlines()
    assert unpack("--quiet", layout, tmp_path / "other").stderr == ""


def assert_refused(
    result: subprocess.CompletedProcess[str], code: int, message: str, *, hint: str | None = None
) -> None:
    """The error is one line and at most a hint; only warnings precede it."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("ociexport: ") or ": error: " in line]
    expected = [f"ociexport: error: {message}"] + ([f"hint: {hint}"] if hint else [])
    assert (lines, result.returncode, result.stdout) == (expected, code, "")


def test_bad_usage_is_told(layout: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").touch()
    assert_refused(
        unpack(layout, used),
        2,
        f"'{used}': expected no file or an empty directory, got one with 1 entry",
        hint="choose another directory, empty this one, or have it replaced with --replace",
    )
    assert os.listdir(used) == ["mine"]
    assert_refused(
        unpack("--no-such-option", layout, tmp_path / "x"),
        2,
        "unpack: unknown option '--no-such-option'",
        hint="see ociexport unpack --help",
    )
    assert_refused(
        unpack("--max-size=0", layout, tmp_path / "x"),
        2,
        "--max-size: expected a number above 0, got '0'",
        hint="see ociexport unpack --help",
    )
    assert_refused(
        unpack("--uid-map=0", layout, tmp_path / "x"),
        2,
        "id map '0': expected container:host[:size], all numbers",
        hint="for example --uid-map 0:100000:65536",
    )


def test_missing_layouts_and_images_are_told(layout: Path, tmp_path: Path) -> None:
    assert_refused(
        unpack(tmp_path / "absent", tmp_path / "x"),
        3,
        f"'{tmp_path}/absent': expected an OCI layout, there is no such directory",
    )
    assert_refused(unpack(f"{layout}:two", tmp_path / "x"), 3, f"{layout}: expected image 'two', there are: one")
    assert not (tmp_path / "x").exists()


def test_image_that_is_wrong_leaves_nothing(tmp_path: Path) -> None:
    good = build_image(LAYERS)
    tar = tar_of([member("a", os.urandom(5000))])
    wrong_diff_id = build_image(
        LAYERS, edit_config=lambda config: config["rootfs"]["diff_ids"].__setitem__(1, f"sha256:{'a' * 64}")
    )
    too_few = build_image(LAYERS, edit_config=lambda config: config["rootfs"]["diff_ids"].pop())
    truncated = build_image([tar])
    cut = truncated.blobs[truncated.layers[0].digest][:-20]
    cut_digest = Digest.of(cut)
    truncated = build_image(
        [tar],
        edit_manifest=lambda manifest: manifest["layers"][0].update(digest=str(cut_digest), size=len(cut)),
    )
    truncated.blobs[cut_digest] = cut
    traversal = build_image(
        LAYERS, edit_manifest=lambda manifest: manifest["layers"][0].update(digest="sha256:../../x")
    )
    index = build_index(
        [build_image(LAYERS, platform=AMD64)],
        edit_index=lambda index: index["manifests"][0]["platform"].update(architecture="s390x"),
    )
    artifact = build_artifact(b"chart")
    altered = build_image(LAYERS)
    altered.blobs[altered.layers[1].digest] = altered.blobs[altered.layers[1].digest][::-1]
    cases = {
        "diff-id": (
            wrong_diff_id,
            7,
            f"layer 2 of 2 ({good.layers[1].digest}): diff_id mismatch: "
            f"expected sha256:{'a' * 64}, got {good.diff_ids[1]}",
        ),
        "count": (
            too_few,
            8,
            f"manifest {too_few.digest}: config {too_few.config.digest}: "
            "expected as many diff_ids as layers, got 2 layers but 1 diff_id",
        ),
        "truncated": (
            truncated,
            8,
            f"layer 1 of 1 ({cut_digest}): gzip data: expected a complete stream, got one that ends too soon",
        ),
        "traversal": (
            traversal,
            8,
            f"manifest {traversal.digest}: layers[0]: digest: "
            "expected 64 lower-case hexadecimal digits after 'sha256:', got '../../x'",
        ),
        "artifact": (
            artifact,
            8,
            f"manifest {artifact.digest}: expected an image, got an artifact of type 'application/vnd.example.chart'",
        ),
        "altered": (
            altered,
            7,
            f"layer 2 of 2 ({altered.layers[1].digest}): blob: digest mismatch: expected {altered.layers[1].digest}, "
            f"got {Digest.of(altered.blobs[altered.layers[1].digest])}",
        ),
    }
    for name, (image, code, message) in cases.items():
        write_layout(tmp_path / name, {"1": image})
        (tmp_path / "target").mkdir()
        proof = f"ociexport verify --deep {tmp_path / name} lists its problems"
        hint = None if name == "artifact" else proof
        assert_refused(unpack(tmp_path / name, tmp_path / "target" / "rootfs"), code, message, hint=hint)
        assert os.listdir(tmp_path / "target") == []
        (tmp_path / "target").rmdir()
    write_layout(tmp_path / "index", {"1": index})
    assert_refused(
        unpack(tmp_path / "index", tmp_path / "rootfs"),
        10,
        f"manifest {index.digest}: no image for platform linux/amd64, there are: linux/s390x",
        hint="for example --platform linux/s390x",
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--max-size=1000", "expected at most 1000 uncompressed bytes"),
        ("--max-files=1", "expected at most 1 entry"),
        ("--max-depth=2", "entry '{name}': path: expected at most 2 directories, got 3"),
        ("--max-path=300", "entry '{name}': path: expected at most 300 bytes, got 404"),
        ("--max-header=400", "tar: extended header: expected at most 400 bytes, got 439"),
        (
            "--max-metadata=400",
            "entry '{name}': expected at most 400 bytes of attributes and long names in all layers",
        ),
    ],
)
def test_what_is_beyond_a_limit_is_refused_and_the_limit_can_be_raised(tmp_path: Path, flag: str, message: str) -> None:
    name = "/".join([*["d" * 100] * 3, "f" * 101])
    image = build_image([[member(name, b"1", xattrs={"user.x": b"1"}), member("b")]])
    write_layout(tmp_path / "layout", {"1": image})
    (tmp_path / "target").mkdir()
    rootfs = tmp_path / "target" / "rootfs"
    shown = f"{name[:200]}…"
    assert_refused(
        unpack(flag, tmp_path / "layout", rootfs),
        8,
        f"layer 1 of 1 ({image.layers[0].digest}): {message.format(name=shown)}",
        hint=f"if you trust the image, raise {flag.partition('=')[0]}",
    )
    assert os.listdir(tmp_path / "target") == []
    assert unpack(f"{flag}0000", tmp_path / "layout", rootfs).returncode == 0


def test_missing_blob_is_not_found(layout: Path, tmp_path: Path) -> None:
    digest = build_image(LAYERS).layers[1].digest
    (layout / "blobs" / "sha256" / digest.encoded).unlink()
    assert_refused(unpack(layout, tmp_path / "rootfs"), 3, f"{layout}: blob {digest}: not in the layout")
    assert not (tmp_path / "rootfs").exists()


def test_full_disk_is_told_and_cleaned(tmp_path: Path) -> None:
    require("mount", root=True)
    write_layout(tmp_path / "layout", {"1": build_image([[member("d/big", bytes(3_000_000))]])})
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk)
    try:
        result = unpack(tmp_path / "layout", disk / "rootfs")
        assert result.returncode == 9
        *_, error, hint = result.stderr.splitlines()
        assert (error, hint) == (
            f"ociexport: error: {disk}/rootfs/d/big: No space left on device",
            f"hint: check the free space: df -h {disk}",
        )
        assert os.listdir(disk) == []
    finally:
        run("umount", disk)


def test_image_that_can_not_fit_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    require("mount", root=True)
    image = build_image([[member("big", os.urandom(3_000_000))]])
    write_layout(tmp_path / "layout", {"1": image})
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", disk)
    try:
        assert_refused(
            unpack(tmp_path / "layout", disk / "rootfs"),
            9,
            f"{disk}/rootfs: expected room for at least 3.0 MB, got 2.1 MB free (--no-preflight skips this check)",
            hint=f"check the free space: df -h {disk}",
        )
        assert "No space left on device" in unpack("--no-preflight", tmp_path / "layout", disk / "rootfs").stderr
        assert os.listdir(disk) == []
    finally:
        run("umount", disk)


def test_what_the_file_system_lacks_is_said(layout: Path, tmp_path: Path) -> None:
    """ramfs has no extended attributes."""
    require("mount", root=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "ramfs", "ramfs", disk)
    try:
        result = unpack("--quiet", layout, disk / "rootfs")
        assert result.stderr == (
            f"ociexport: warning: {disk}/rootfs: extended attributes can't be set here: "
            "file capabilities and ACLs are lost\n"
        )
    finally:
        run("umount", disk)


def test_receipt_tells_what_was_proven(layout: Path, tmp_path: Path) -> None:
    image = build_image(LAYERS)
    receipt = tmp_path / "receipt.json"
    run(
        *OCIEXPORT,
        *("unpack", "-q", "--platform=linux/amd64", "--receipt", str(receipt)),
        *(str(layout), str(tmp_path / "rootfs")),
        SOURCE_DATE_EPOCH="1700000000",
    )
    told = json.loads(receipt.read_bytes())
    assert set(told.pop("tree")) == {"stamp", "made", "losses"}
    assert told == {
        "receiptVersion": 1,
        "tool": {"name": "ociexport", "version": ociexport.__version__},
        "created": "2023-11-14T22:13:20Z",
        "source": f"{layout}:one",
        "rootfs": str(tmp_path / "rootfs"),
        "platform": {"architecture": "amd64", "os": "linux"},
        "indexes": [],
        "manifest": str(image.digest),
        "config": str(image.config.digest),
        "layers": [
            {
                "mediaType": layer.media_type,
                "digest": str(layer.digest),
                "size": layer.size,
                "diffId": str(diff_id),
            }
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
        ],
        "servedBy": {},
        "entries": 5,
        "tarBytes": sum(len(tar_of(layer)) for layer in LAYERS),
        "losses": [],
    }


def test_mount_point_becomes_the_rootfs(layout: Path, tmp_path: Path) -> None:
    """A separate file system, as for a microVM: its root can't be renamed, and contains lost+found."""
    require("mount", root=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", disk)
    try:
        (disk / "lost+found").mkdir()
        assert unpack(layout, disk).returncode == 0
        assert sorted(os.listdir(disk)) == ["d", "l", "lost+found"]
        assert oct(os.stat(disk / "d").st_mode & 0o777) == "0o555"
    finally:
        run("umount", disk)


def test_replace_swaps_the_old_for_the_new(layout: Path, tmp_path: Path) -> None:
    rootfs = tmp_path / "place" / "rootfs"
    (rootfs / "old").mkdir(parents=True)
    (rootfs / "old" / "file").write_text("old")
    assert unpack("--replace", layout, rootfs).returncode == 0
    assert sorted(os.listdir(rootfs)) == ["d", "l"]
    assert os.listdir(rootfs.parent) == ["rootfs"]
    assert unpack("--replace", layout, tmp_path / "place" / "new").returncode == 0
    assert sorted(os.listdir(rootfs.parent)) == ["new", "rootfs"]


def test_failed_replace_leaves_the_old(tmp_path: Path) -> None:
    rootfs = tmp_path / "place" / "rootfs"
    (rootfs / "old").mkdir(parents=True)
    broken = build_image(LAYERS, edit_config=lambda config: config["rootfs"]["diff_ids"].reverse())
    write_layout(tmp_path / "layout", {"1": broken})
    assert unpack("--replace", tmp_path / "layout", rootfs).returncode == 7
    assert (os.listdir(rootfs), os.listdir(rootfs.parent)) == (["old"], ["rootfs"])


@pytest.mark.slow
def test_kill_leaves_it_absent_or_complete(tmp_path: Path) -> None:
    """At any moment; and the next run removes what the killed one left."""
    files = [member(f"d{number % 50}/f{number}", b"x" * 2000) for number in range(6000)]
    write_layout(tmp_path / "layout", {"1": build_image([files])})
    place = tmp_path / "place"
    place.mkdir()
    begin = time.monotonic()
    assert unpack(tmp_path / "layout", place / "whole").returncode == 0
    seconds = time.monotonic() - begin
    expected = len(list((place / "whole").rglob("*")))
    run("rm", "-rf", place / "whole")
    generator = random.Random(1)
    leftovers = 0
    for _ in range(8):
        process = subprocess.Popen(
            [*OCIEXPORT, "unpack", "-q", str(tmp_path / "layout"), str(place / "rootfs")],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(generator.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        leftovers += any(name.startswith("rootfs.partial-") for name in os.listdir(place))
        if (place / "rootfs").exists():
            assert len(list((place / "rootfs").rglob("*"))) == expected
    assert leftovers
    assert unpack("--replace", tmp_path / "layout", place / "rootfs").returncode == 0
    assert os.listdir(place) == ["rootfs"]
    assert len(list((place / "rootfs").rglob("*"))) == expected


def test_sigint_sigterm_and_sighup_end_soon_and_clean(tmp_path: Path) -> None:
    files = [member(f"d{number % 50}/f{number}", b"x" * 2000) for number in range(20_000)]
    write_layout(tmp_path / "layout", {"1": build_image([files])})
    place = tmp_path / "place"
    place.mkdir()

    def interrupt(number: signal.Signals) -> tuple[int, str]:
        process = subprocess.Popen(
            [*OCIEXPORT, "unpack", "-q", "--replace", str(tmp_path / "layout"), str(place / "rootfs")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not os.listdir(place):
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(20), process.communicate()[1]

    for number, code, word in (
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ):
        # On a busy machine the signal may arrive after the work is done.
        while (ended := interrupt(number))[0] == 0:
            shutil.rmtree(place / "rootfs")
        assert ended == (code, f"ociexport: error: {word}\n")
        assert os.listdir(place) == []
