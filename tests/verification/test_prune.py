"""`ociexport prune`: images that are not kept go, with what only they need, and nothing else."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport import verify
from ociexport.errors import InvalidImageError, NotFoundError, UsageError
from ociexport.images.companions import referrers_tag
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.verification.keep import KeepNamed, KeepNewest, parse_keep_list
from ociexport.verification.prune import PruneResult, prune
from tests.support.command import command_environment
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    ARM64,
    BuiltImage,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
    to_json,
    write_layout,
)
from tests.support.memory_source import member


def image_of(day: int, *layers: str) -> BuiltImage:
    """Return an image that was created on that day of 2024's January; no layers: one of its own."""
    tars = [[member(name)] for name in layers or (f"day-{day}",)]
    return build_image(tars, edit_config=lambda config: config.update(created=f"2024-01-{day:02}T00:00:00Z"))


ONE, TWO, THREE = (image_of(day, "shared", f"own-{day}") for day in (1, 2, 3))
HUB = "docker.io/library/"


def blobs(layout: DamagedLayout) -> set[str]:
    return {path.name for path in (layout.path / "blobs").glob("*/*")}


def encoded(*images: BuiltImage) -> set[str]:
    return {digest.encoded for image in images for digest in image.all_digests}


def listed(layout: DamagedLayout) -> list[str]:
    """Return the names in ``index.json``; a digest for an entry without one."""
    return [
        next(iter(entry.get("annotations", {}).values()), entry["digest"])
        for entry in json.loads((layout.path / "index.json").read_bytes())["manifests"]
    ]


def keep(layout: DamagedLayout, *names: str) -> PruneResult:
    return prune(layout.path, KeepNamed(names), is_confirmed=True)


def keep_newest(layout: DamagedLayout, count: int) -> PruneResult:
    return prune(layout.path, KeepNewest(count), is_confirmed=True)


def refer_to(layout: DamagedLayout, subject: Digest, tag: str, **members: object) -> Digest:
    """Add a signature of ``subject`` to the layout; return its digest."""
    raw = json.loads(build_artifact(tag.encode()).raw)
    for content in (b"{}", tag.encode()):
        layout.blob(Digest.of(content)).write_bytes(content)
    about = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(subject), "size": 1}
    return layout.add(to_json({**raw, "subject": about}), mediatypes.OCI_MANIFEST, tag=tag, **members)


def test_what_is_not_kept_goes_but_for_what_kept_images_share(layout: DamagedLayout) -> None:
    layout.write(**{f"{HUB}app:1": ONE, f"{HUB}app:2": TWO})
    result = keep(layout, "app:2")
    assert [(one.name, one.digest) for one in result.dropped] == [(f"{HUB}app:1", ONE.digest)]
    gone = ONE.all_digests - TWO.all_digests
    assert {Path(file.path).name for file in result.garbage.dropped} == {digest.encoded for digest in gone}
    assert (blobs(layout), listed(layout)) == (encoded(TWO), [f"{HUB}app:2"])
    assert verify(layout.path).findings == ()


def test_plan_writes_nothing_and_tells_what_would_be_done(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    before = {path: path.read_bytes() for path in layout.path.rglob("*") if path.is_file()}
    plan = prune(layout.path, KeepNamed(["one"]), is_confirmed=False)
    assert {path: path.read_bytes() for path in layout.path.rglob("*") if path.is_file()} == before
    assert prune(layout.path, KeepNamed(["one"]), is_confirmed=True) == plan
    assert plan.garbage.freed == sum(len(before[layout.blob(digest)]) for digest in TWO.all_digests - ONE.all_digests)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["app"], [f"{HUB}app:latest"]),
        (["docker.io/library/app:latest"], [f"{HUB}app:latest"]),
        (["docker://app:1"], [f"{HUB}app:1"]),
        (["app:*"], [f"{HUB}app:latest", f"{HUB}app:1"]),
        (["quay.example/*"], ["quay.example/team/app:1"]),
        (["*"], [f"{HUB}app:latest", f"{HUB}app:1", "quay.example/team/app:1", "edge"]),
        (["edge"], ["edge"]),
        (["1"], [f"{HUB}app:1", "quay.example/team/app:1"]),
        ([f"@{TWO.digest}"], [f"{HUB}app:1"]),
        ([f"other/name:9@{TWO.digest}"], [f"{HUB}app:1"]),
        (["# all of the hub", "app:1  platform=linux/amd64  # for the lab", "", "edge"], [f"{HUB}app:1", "edge"]),
        (["app:[0-9]", "app:1"], [f"{HUB}app:1"]),
    ],
)
def test_names_and_patterns_of_a_list(layout: DamagedLayout, lines: list[str], kept: list[str]) -> None:
    """The list that pull reads, and ``*``."""
    layout.write(
        **{f"{HUB}app:latest": ONE, f"{HUB}app:1": TWO, "quay.example/team/app:1": THREE, "edge": image_of(4, "edge")}
    )
    prune(layout.path, parse_keep_list("\n".join(lines), "list"), is_confirmed=True)
    assert listed(layout) == kept
    assert verify(layout.path).findings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app:1 app:2", "list: line 1: expected one image, got 'app:2' after it"),
        ("# none\n\n", "list: expected the images to keep, one on a line, got none; nothing was removed"),
        ("", "list: expected the images to keep, one on a line, got none; nothing was removed"),
    ],
)
def test_list_that_can_not_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_keep_list(text, "list")
    assert str(caught.value) == message


def test_name_without_an_image_is_noted_and_a_list_without_any_is_refused(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    assert keep(layout, "one", "tow").notes == ("'tow': no image has this name",)
    before = blobs(layout)
    with pytest.raises(UsageError) as caught:
        keep(layout, "other")
    assert str(caught.value) == (
        f"{layout.path}: expected at least one image to keep, got none of 1 image; nothing was removed"
    )
    assert (blobs(layout), listed(layout)) == (before, ["one"])


def test_all_that_is_about_a_kept_image_is_kept(layout: DamagedLayout) -> None:
    """By subject, by cosign's tags, by the referrers tag, and about what is about it; all about others goes."""
    index = build_index([ONE, build_image([[member("arm")]], platform=ARM64), build_attestation(ONE)])
    layout.write(app=index, old=TWO)
    hexadecimal = index.digest.encoded
    by_subject = refer_to(layout, ONE.digest, "signature-of-a-platform")
    about_that = refer_to(layout, by_subject, "about-the-signature", annotations={})
    for suffix in (".sig", ".att", ".sbom"):
        layout.add(build_artifact(suffix.encode()).raw, mediatypes.OCI_MANIFEST, tag=f"sha256-{hexadecimal}{suffix}")
        layout.add(
            build_artifact(f"{suffix} of old".encode()).raw,
            mediatypes.OCI_MANIFEST,
            tag=f"sha256-{TWO.digest.encoded}{suffix}",
        )
    child = refer_to(layout, index.digest, "listed-by-the-referrers-tag")
    layout.edit_index(lambda document: document["manifests"].pop())
    entry = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(child), "size": layout.blob(child).stat().st_size}
    referrers = to_json({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]})
    layout.add(referrers, mediatypes.OCI_INDEX, tag=referrers_tag(index.digest))
    of_old = refer_to(layout, TWO.digest, "signature-of-old")
    keep(layout, "app")
    tags = [f"sha256-{hexadecimal}{suffix}" for suffix in (".sig", ".att", ".sbom")]
    assert listed(layout) == [
        "app",
        "signature-of-a-platform",
        str(about_that),
        *tags,
        referrers_tag(index.digest),
    ]
    assert {*encoded(index), child.encoded, by_subject.encoded, about_that.encoded} <= blobs(layout)
    assert not blobs(layout) & {of_old.encoded, *(encoded(TWO) - encoded(index))}
    assert keep(layout, "app").garbage.dropped == ()


def test_signatures_by_name_go_with_their_image(layout: DamagedLayout) -> None:
    """`cosign save` and hauler list signatures under the image's name, without its digest."""
    layout.write(**{f"{HUB}app:1": ONE, f"{HUB}app:2": TWO})
    for name in ("1", "2"):
        annotations = {"io.containerd.image.name": f"{HUB}app:{name}", "kind": "dev.cosignproject.cosign/sigs"}
        layout.add(build_artifact(name.encode()).raw, mediatypes.OCI_MANIFEST, tag=name, annotations=annotations)
    keep(layout, f"@{TWO.digest}")
    assert listed(layout) == [f"{HUB}app:2"] * 2


def test_newest_of_each_repository_by_the_time_of_creation(layout: DamagedLayout) -> None:
    """The order in ``index.json`` says nothing; names of one image count once; an index is as new as its newest."""
    index = build_index([image_of(1, "arm-1"), image_of(20, "amd-20")])
    layout.write(
        **{
            f"{HUB}app:3": THREE,
            f"{HUB}app:1": ONE,
            f"{HUB}app:latest": THREE,
            f"{HUB}app:2": TWO,
            f"{HUB}other:1": ONE,
            "quay.example/app:4": image_of(4),
            "quay.example/app:5": index,
            "first": image_of(6),
            "second": image_of(5),
        }
    )
    result = keep_newest(layout, 1)
    assert listed(layout) == [f"{HUB}app:3", f"{HUB}app:latest", f"{HUB}other:1", "quay.example/app:5", "first"]
    assert result.notes == ()
    assert verify(layout.path).findings == ()
    assert keep_newest(layout, 1).dropped == ()


def test_of_two_images_of_one_time_the_later_listed_is_newer(layout: DamagedLayout) -> None:
    """Reproducible builds all have the same time."""
    layout.write(a=image_of(1, "a"), b=image_of(1, "b"), c=image_of(1, "c"))
    keep_newest(layout, 2)
    assert listed(layout) == ["b", "c"]


@pytest.mark.parametrize("created", [None, "yesterday", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:00", ""])
def test_image_without_a_time_is_kept_and_noted(layout: DamagedLayout, created: str | None) -> None:
    undated = build_image([[member("x")]], edit_config=lambda config: config.update(created=created))
    layout.write(undated=undated, one=ONE, two=TWO)
    assert keep_newest(layout, 1).notes == ("'undated': kept, since it does not tell when it was created",)
    assert listed(layout) == ["undated", "two"]


def test_newest_removes_what_is_about_older_images_only(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    refer_to(layout, ONE.digest, "of-one")
    refer_to(layout, TWO.digest, "of-two")
    refer_to(layout, THREE.digest, "of-an-image-elsewhere")
    keep_newest(layout, 1)
    assert listed(layout) == ["two", "of-two", "of-an-image-elsewhere"]


def test_platforms_listed_under_one_name_are_one_image(layout: DamagedLayout) -> None:
    """skopeo and buildah write one entry for each platform."""
    layout.write(a=ONE, b=build_image([[member("arm")]], platform=ARM64), c=TWO)

    def rename(index: dict[str, list[dict[str, object]]]) -> None:
        for entry, tag in zip(index["manifests"], ("new", "new", "old"), strict=True):
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}

    layout.edit_index(rename)
    keep_newest(layout, 1)
    assert listed(layout) == ["new", "new"]


@pytest.mark.parametrize("how", ["cut", "other", "looped"])
def test_damaged_document_of_a_kept_image_stops_all(layout: DamagedLayout, how: str) -> None:
    layout.write(one=ONE, two=TWO)
    layout.spoil(TWO.digest, how)
    before = blobs(layout)
    with pytest.raises(InvalidImageError, match="nothing was removed"):
        keep(layout, "two")
    assert (blobs(layout), listed(layout)) == (before, ["one", "two"])
    keep(layout, "one")
    assert (blobs(layout), listed(layout)) == (encoded(ONE), ["one"])


def test_damaged_document_without_a_name_may_be_a_signature_and_stops_all(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    signature = refer_to(layout, ONE.digest, "signature", annotations={})
    layout.spoil(signature, "other")
    with pytest.raises(InvalidImageError, match="nothing was removed"):
        keep(layout, "one")
    assert len(listed(layout)) == 3


def test_other_members_of_the_index_stay(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    layout.edit_index(lambda index: index.update(annotations={"x": "y"}, own=[1]))
    keep(layout, "one")
    index = json.loads((layout.path / "index.json").read_bytes())
    assert (index["annotations"], index["own"], len(index["manifests"])) == ({"x": "y"}, [1], 1)


def test_what_nothing_lists_goes_too_and_an_empty_layout_is_no_error(layout: DamagedLayout) -> None:
    layout.write(one=ONE)
    layout.blob(Digest.of(b"left")).write_bytes(b"left")
    assert keep(layout, "one").garbage.size == 4
    layout.edit_index(lambda index: index["manifests"].clear())
    assert keep(layout, "one").dropped == ()


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        prune(tmp_path, KeepNewest(1), is_confirmed=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_layout_that_somebody_writes_to_is_left_alone(layout: DamagedLayout, is_confirmed: bool) -> None:
    layout.write(one=ONE, two=TWO)
    (layout.path / ".ociexport").mkdir()
    with (layout.path / ".ociexport" / "users").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(UsageError, match="expected a layout that is not in use"):
            prune(layout.path, KeepNamed(["one"]), is_confirmed=is_confirmed)
    assert listed(layout) == ["one", "two"]


IMAGES = {
    **{f"{HUB}app:{day}": image_of(day, *"abc"[: day % 4], f"own-{day}") for day in range(1, 5)},
    "quay.example/all:1": build_index([image_of(1, "a", "own-1"), build_attestation(image_of(1, "a", "own-1"))]),
}


@settings(max_examples=40, deadline=None)
@given(
    there=st.lists(st.sampled_from(sorted(IMAGES)), min_size=1, unique=True),
    wanted=st.lists(st.sampled_from(sorted(IMAGES)), min_size=1, unique=True),
)
def test_exactly_what_kept_images_reach_is_left(there: Sequence[str], wanted: Sequence[str]) -> None:
    """Nothing reachable is lost, and nothing else stays, whatever shares what."""
    kept = [name for name in there if name in wanted]
    with tempfile.TemporaryDirectory() as path:
        layout = DamagedLayout(Path(path))
        write_layout(path, {name: IMAGES[name] for name in there})
        before = blobs(layout)
        if not kept:
            with pytest.raises(UsageError):
                keep(layout, *wanted)
            assert blobs(layout) == before
            return
        keep(layout, *wanted)
        assert (listed(layout), blobs(layout)) == (kept, encoded(*(IMAGES[name] for name in kept)))
        assert verify(path).findings == ()


# Runs the command, and kills its own process at the Nth of these system calls.
KILLED_AT = """
import os, signal, sys
from ociexport.cli.main import main
left = [int(sys.argv.pop(1))]
def counting(call):
    def called(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return called
for name in ("unlink", "remove", "rename", "replace", "rmdir", "mkdir", "fsync", "link"):
    setattr(os, name, counting(getattr(os, name)))
sys.exit(main(sys.argv[1:]))
"""


def test_killed_at_any_moment_leaves_a_valid_layout_and_the_next_run_completes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    write_layout(made, {"one": ONE, "two": TWO, "three": THREE})
    (tmp_path / "list").write_text("two\n")
    states = set()
    for calls in range(100):
        layout = DamagedLayout(tmp_path / f"layout-{calls}")
        shutil.copytree(made, layout.path)
        arguments = ["prune", str(layout.path), "--keep", str(tmp_path / "list"), "--yes"]
        ended = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(calls), *arguments],
            env=command_environment(tmp_path),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        assert verify(layout.path).is_right
        assert "two" in listed(layout)
        assert encoded(TWO) <= blobs(layout)
        states.add((len(listed(layout)), len(blobs(layout))))
        if ended.returncode == 0:
            break
        keep(layout, "two")
        assert (listed(layout), blobs(layout)) == (["two"], encoded(TWO))
        assert not (layout.path / ".ociexport").exists()
    assert ended.returncode == 0
    # Before the names went, and after each blob.
    assert {names for names, _ in states} == {1, 3}
    assert len(states) == len(encoded(ONE, THREE) - encoded(TWO)) + 2
