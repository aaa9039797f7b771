"""pull with deep: each layer's tar is compared with its diff_id while the layer arrives.

image-spec config.md, "Layer DiffID": a diff_id is the digest of the uncompressed tar. A layer's own digest is right
here unless a test says otherwise, so only inflating shows what is wrong.
"""

from __future__ import annotations

import base64
import io
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import DiffIdMismatchError, InvalidImageError, LimitExceededError
from ociexport.images import diff_id_checks
from ociexport.images.choose import PlatformChoice
from ociexport.images.diff_id_checks import Patience, VerifiedDiffIds
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.compression import read_tar_chunks
from ociexport.transfer.copy import copy_image
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from ociexport.transfer.pull_many import pull_many
from ociexport.transfer.sources.open import open_source
from tests.support.broken_layers import BROKEN, FIRST, PAGE, SOUND, TARS, diff_ids_of, image_of, zipped
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
)
from tests.support.memory_source import member, tar_of
from tests.support.recording_progress import RecordingProgress

MIB = 1 << 20


def open_out(out: Path) -> Any:
    return io.BytesIO() if out.name == "stream" else out


def pull_deep(image: Any, out: Path, **settings: Any) -> Any:
    """Pull into a layout, an archive (``*.tar``) or a stream, all with ``deep``."""
    if out.name != "stream":
        return pull(image, out, platform=settings.pop("platform", AMD64), deep=True, **settings)
    options = PullOptions(settings.pop("platform", AMD64), deep=True, **settings)
    return copy_to_archive([image], io.BytesIO(), options)[0]


@pytest.fixture(params=["layout", "a.tar", "stream"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


@pytest.mark.parametrize("kind", BROKEN)
def test_layer_that_is_not_the_tar_of_its_diff_id_is_refused(out: Path, kind: str) -> None:
    stored, expected = BROKEN[kind]
    image = image_of([FIRST, stored])
    with pytest.raises(DiffIdMismatchError) as caught:
        pull_deep(image.source(), out)
    second = image.layers[1].digest
    said = f"layer 2 of 2 ({second}): diff_id mismatch: expected {Digest.of(TARS[1])}, {expected.format(got=second)}"
    assert str(caught.value).startswith(said)
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_without_deep_it_is_copied_as_it_was_published(out: Path, kind: str) -> None:
    image = image_of([FIRST, BROKEN[kind][0]])
    options = PullOptions(AMD64)
    if out.name == "layout":
        result = copy_image(image.source(), ImageLayout(out), options)
    else:
        (result,) = copy_to_archive([image.source()], open_out(out) if out.name == "stream" else str(out), options)
    assert (result.digest, result.is_deep) == (image.digest, False)


@pytest.mark.parametrize(
    "image",
    [
        SOUND,
        build_image(TARS, media_types="docker", compression=["plain", "zstd"]),
        build_image(TARS, media_types="legacy"),
        build_image(TARS, edit_config=diff_ids_of(TARS, "sha512")),
        build_image([]),
        build_image([TARS[0], TARS[0]]),
        image_of([FIRST + zipped(b""), TARS[1]]),
        build_artifact(b"no tar at all"),
    ],
    ids=["oci", "docker", "legacy", "sha512", "no layers", "twice", "odd but right", "artifact"],
)
def test_sound_image_passes(out: Path, image: BuiltImage) -> None:
    result = pull_deep(image.source(), out)
    assert (result.digest, result.is_deep) == (image.digest, True)


def test_diff_id_of_another_algorithm_is_compared_too(out: Path) -> None:
    expected, got = (Digest.of(tar, "sha512") for tar in TARS)
    # The other layer is right: both are fetched at the same time, and either could fail first.
    with pytest.raises(DiffIdMismatchError, match=f"layer 2 of 2 .*: expected {expected}, got {got}"):
        pull_deep(build_image(TARS, edit_config=diff_ids_of([TARS[0], TARS[0]], "sha512")).source(), out)


def test_another_images_config_is_refused(out: Path) -> None:
    """As many layers as diff_ids, so only the tars tell."""
    image = build_image(TARS, edit_config=diff_ids_of(TARS[::-1]))
    with pytest.raises(DiffIdMismatchError, match=r"layer [12] of 2 \(sha256:\w{64}\): diff_id mismatch: expected"):
        pull_deep(image.source(), out)
    assert os.listdir(out.parent) == []


def test_config_for_fewer_layers_is_refused(out: Path) -> None:
    with pytest.raises(InvalidImageError, match="got 2 layers but 1 diff_id"):
        pull_deep(build_image(TARS, edit_config=diff_ids_of(TARS[:1])).source(), out)
    assert os.listdir(out.parent) == []


def test_layer_with_two_diff_ids_is_refused_before_it_is_fetched(out: Path) -> None:
    image = build_image([TARS[1], TARS[1]], edit_config=diff_ids_of(TARS))
    source = image.source()
    with pytest.raises(DiffIdMismatchError) as caught:
        pull_deep(source, out)
    assert str(caught.value) == (
        f"manifest {image.digest}: layer 2 of 2 ({image.layers[1].digest}): diff_id: "
        f"expected {Digest.of(TARS[0])}, as for the same layer before, got {Digest.of(TARS[1])}"
    )
    assert source.opened == [image.config.digest]


def test_bomb_is_stopped(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.system.compression.RATIO_FROM_BYTES", MIB)
    image = build_image([bytes(30_000_000)], compression="zstd")
    with pytest.raises(LimitExceededError, match=r"layer 1 of 1 \(.*\): expected at most 250 times the") as caught:
        pull_deep(image.source(), out)
    assert caught.value.hint == "--no-deep copies the layer without inflating it"
    assert os.listdir(out.parent) == []


def test_all_platforms_are_proven_and_artifacts_are_passed_over(out: Path) -> None:
    other = build_image([[member("c", b"3" * 9000)]], platform=ARM64)
    index = build_index([SOUND, build_attestation(SOUND), other, build_artifact(b"chart")])
    assert pull_deep(index.source(), out, platform=PlatformChoice()).is_deep


def test_wrong_layer_of_one_platform_is_named_with_it(out: Path) -> None:
    other = image_of([PAGE], [TARS[1]], platform=ARM64)
    with pytest.raises(DiffIdMismatchError) as caught:
        pull_deep(build_index([SOUND, other]).source(), out, platform=PlatformChoice())
    assert str(caught.value).startswith(f"linux/arm64: layer 1 of 1 ({other.layers[0].digest}): diff_id mismatch: ")
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("is_right", [True, False])
def test_layer_within_the_manifest_is_proven(out: Path, is_right: bool) -> None:
    """descriptor.md, "data": the bytes stand in the descriptor, so they are not fetched."""
    stored = zipped(TARS[1]) if is_right else PAGE

    def embed(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["data"] = base64.b64encode(stored).decode()

    image = build_image([stored], compression="plain", edit_config=diff_ids_of(TARS[1:]), edit_manifest=embed)
    if is_right:
        assert pull_deep(image.source(), out).is_deep
        return
    with pytest.raises(DiffIdMismatchError, match=r"^layer 1 of 1 \(sha256"):
        pull_deep(image.source(), out)
    assert os.listdir(out.parent) == []


# Which pulls are deep.


@pytest.mark.parametrize(
    ("name", "is_remote", "settings", "expected"),
    [
        ("layout", True, {}, False),
        ("layout", False, {}, False),
        ("a.tar", True, {}, True),
        ("a.tar", False, {}, False),
        ("a.tar", True, {"deep": False}, False),
        ("a.tar", False, {"deep": True}, True),
        ("layout", True, {"deep": True}, True),
        ("layout", False, {"decompress": True}, True),
        ("a.tar", False, {"decompress": True}, True),
        ("a.tar", False, {"legacy": True}, True),
    ],
)
def test_archive_from_a_registry_is_deep_unless_told_otherwise(
    registry: FakeRegistry, tmp_path: Path, name: str, is_remote: bool, settings: Any, expected: bool
) -> None:
    source: Any = SOUND.serve(registry, "library/app", "1") if is_remote else SOUND.source()
    assert pull(source, tmp_path / name, platform=AMD64, **settings).is_deep is expected
    broken = image_of([FIRST, PAGE])
    if "legacy" in settings or "decompress" in settings:
        return  # these refuse it in any case
    source = broken.serve(registry, "library/app", "2") if is_remote else broken.source("2")
    if not expected:
        assert pull(source, tmp_path / f"b{name}", platform=AMD64, **settings).digest == broken.digest
        return
    with pytest.raises(DiffIdMismatchError):
        pull(source, tmp_path / f"b{name}", platform=AMD64, **settings)
    assert os.listdir(tmp_path) == [name]


def test_encrypted_layer_is_refused_only_if_deep_was_asked_for(registry: FakeRegistry, tmp_path: Path) -> None:
    """An archive of a registry's image is deep by default, and carries encrypted images all the same."""

    def encrypt(manifest: dict[str, Any]) -> None:
        manifest["layers"][1]["mediaType"] += "+encrypted"

    image = image_of([FIRST, bytes(range(256)) * 9], edit_manifest=encrypt)
    source: Any = image.serve(registry, "library/app", "1")
    assert pull(source, tmp_path / "a.tar", platform=AMD64).is_deep
    with pytest.raises(DiffIdMismatchError):
        pull(source, tmp_path / "b.tar", platform=AMD64, deep=True)


@pytest.mark.parametrize("settings", [{"decompress": True}, {"legacy": True}])
def test_compressed_layer_under_its_own_diff_id_is_refused(tmp_path: Path, settings: Any) -> None:
    """Its digest is its diff_id, so it seems to be a plain tar; unpacking would inflate it."""
    image = build_image([FIRST], compression="plain")
    with pytest.raises(DiffIdMismatchError, match=rf"expected {image.layers[0].digest}, got {Digest.of(TARS[0])}"):
        pull(image.source(), tmp_path / "a.tar", platform=AMD64, **settings)
    assert os.listdir(tmp_path) == []


# Several images.


def test_layer_of_two_images_is_inflated_once(tmp_path: Path) -> None:
    """The second image is copied without a thread that inflates."""
    verified: VerifiedDiffIds = set()
    options = PullOptions(AMD64, deep=True)
    seen: list[str] = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        seen.append(thread.name)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", count)
        for tag in ("1", "2"):
            copy_image(SOUND.source(tag), ImageLayout(tmp_path / "layout"), options, verified=verified)
    assert seen.count("inflate") == len(SOUND.layers)
    assert verified == {(layer.digest, Digest.of(tar)) for layer, tar in zip(SOUND.layers, TARS, strict=True)}


def test_second_image_with_another_diff_id_for_the_layer_is_refused(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    verified: VerifiedDiffIds = set()
    options = PullOptions(AMD64, deep=True)
    first = build_image(TARS)
    second = build_image(TARS, edit_config=diff_ids_of([TARS[0], TARS[0]]))
    copy_image(first.source("1"), layout, options, verified=verified)
    with pytest.raises(DiffIdMismatchError, match=r"^layer 2 of 2 "):
        copy_image(second.source("2"), layout, options, verified=verified)
    assert [name.tag for _, name in layout.read_images()] == ["1"]


def test_list_of_images_is_proven(registry: FakeRegistry, tmp_path: Path) -> None:
    good, bad = SOUND.serve(registry, "library/good", "1"), image_of([FIRST, PAGE]).serve(registry, "library/bad", "1")
    outcomes = {
        outcome.image: outcome for outcome in pull_many([good, bad], tmp_path / "layout", platform=AMD64, deep=True)
    }
    assert outcomes[good].error is None
    assert isinstance(outcomes[bad].error, DiffIdMismatchError)


def test_one_archive_proves_the_images_of_registries_only(registry: FakeRegistry, tmp_path: Path) -> None:
    from ociexport.transfer.sources.open import open_source  # noqa: PLC0415 - as users import it

    remote = open_source(SOUND.serve(registry, "library/app", "1"))
    try:
        results = copy_to_archive(
            [remote, image_of([FIRST, PAGE]).source("2", "docker.io/library/local:2")],
            str(tmp_path / "a.tar"),
            PullOptions(AMD64),
        )
    finally:
        remote.close()
    # The layer that both share is proven for the first.
    assert [result.is_deep for result in results] == [True, False]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    pull(SOUND.source(), tmp_path / "layout", platform=AMD64, deep=True)
    for kind in BROKEN:
        with pytest.raises(DiffIdMismatchError):
            pull(image_of([FIRST, BROKEN[kind][0]]).source(), tmp_path / "layout", platform=AMD64, deep=True)
    assert threading.active_count() == before


# Archives of a registry's images, for which the check may cost next to nothing.


@pytest.mark.parametrize("name", ["a.tar", "stream"])
def test_default_check_is_given_up_when_layers_wait_for_it(
    registry: FakeRegistry, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tar_of([member("big", random.Random(5).randbytes(12 * MIB))])
    wrong = build_image([tar], edit_config=diff_ids_of([TARS[0]]))
    source: Any = wrong.serve(registry, "library/app", "1")

    def read_slowly(*arguments: Any, **options: Any) -> Iterator[bytes]:
        for chunk in read_tar_chunks(*arguments, **options):
            time.sleep(0.02)
            yield chunk

    monkeypatch.setattr(diff_id_checks, "read_tar_chunks", read_slowly)
    progress = RecordingProgress()
    with closing(open_source(source)) as opened:
        (result,) = copy_to_archive([opened], out_of(tmp_path / name), PullOptions(AMD64), progress)
    assert (result.digest, result.is_deep) == (wrong.digest, False)
    assert [line for line in progress.lines if "diff_ids" in line] == [
        "layers arrive faster than they can be inflated, so not all were compared with their diff_ids; "
        "--deep compares them"
    ]
    with closing(open_source(source)) as opened, pytest.raises(DiffIdMismatchError):
        copy_to_archive([opened], out_of(tmp_path / f"b{name}"), PullOptions(AMD64, deep=True))


def out_of(path: Path) -> Any:
    return io.BytesIO() if path.name.endswith("stream") else str(path)


def test_patience_lasts_as_long_as_little_of_the_time_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("ociexport.images.diff_id_checks.time.monotonic", lambda: now)
    patience = Patience()
    over: list[bool] = []

    def wait(seconds: float, pause_seconds: float) -> None:
        nonlocal now
        with patience.waiting():
            now += seconds
        over.append(patience.is_over)
        now += pause_seconds

    for _ in range(50):
        wait(0.01, 0.5)
    wait(2.0, 1000.0)
    wait(0.0, 0.0)
    assert over == [False] * 50 + [True, True]
