"""`report` of thin layouts, archives and volumes, and of ``bundle.json`` alone.

What is not inside is said, and the sums are what the files are.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import InvalidImageError, NotFoundError, UnsupportedMediaTypeError
from ociexport.verification.changes import Change, compare, read_snapshot
from ociexport.verification.left_out import Place
from ociexport.verification.report import Report, make_report
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import AMD64, ARM64, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.verification.test_report import add_about

HUB = "docker.io/library/"
BASE = [member("base", bytes(range(256)) * 40)]
OLD, NEW = build_image([BASE, [member("v", b"1")]]), build_image([BASE, [member("v", b"2")]])
ARM = build_image([BASE, [member("v", b"arm")]], platform=ARM64)
INDEX = build_index([build_image([BASE, [member("v", b"amd")]], platform=AMD64), ARM])
TWO = build_image([[member("two")]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with what the far side has, what is here, and updates of each kind."""
    place = tmp_path_factory.mktemp("updates")
    write_layout(place / "far", {f"{HUB}app:1": OLD, f"{HUB}gone:1": TWO})
    write_layout(place / "here", {f"{HUB}app:1": NEW, f"{HUB}multi:1": INDEX, f"{HUB}two:1": TWO})
    pull = ["pull", f"{place}/here", "-q", "--all", "--since", f"{place}/far"]
    assert main([*pull, "--out", f"{place}/thin"]) == 0
    assert main([*pull, "--out", f"{place}/thin.tar", "--for", "registry"]) == 0
    assert main([*pull, "--out", f"{place}/delta.tar", "--for", "registry", "--delta"]) == 0
    shutil.copy(place / "thin" / "bundle.json", place / "told.json")
    return place


def blobs_in(path: Path) -> dict[str, int]:
    """Return the files in ``blobs/``, and their sizes."""
    if path.is_dir():
        return {file.name: file.stat().st_size for file in path.glob("blobs/*/*")}
    with tarfile.open(path) as tar:
        return {Path(one.name).name: one.size for one in tar if one.isfile() and one.name.startswith("blobs/")}


def verify_sums(report: Report, files: dict[str, int]) -> None:
    assert {digest.encoded: size for digest, size in report.stored.items()} == files
    assert report.size == report.unique + report.shared + report.unreferenced == sum(files.values())
    assert sum(image.unique for image in report.images) == report.unique
    assert report.unreferenced_blobs == 0


@pytest.mark.parametrize("name", ["thin", "thin.tar", "told.json"])
def test_what_the_far_side_has_is_not_missing(place: Path, name: str) -> None:
    report = make_report(str(place / name))
    base = OLD.layers[0]
    assert {digest: (one.size, one.place) for digest, one in report.expected.items()} == {
        one.digest: (one.size, Place.FAR_SIDE) for one in (base, TWO.layers[0])
    }
    assert [(image.names, list(image.expected), dict(image.missing)) for image in report.images] == [
        ((f"{HUB}app:1",), [base.digest], {}),
        ((f"{HUB}multi:1",), [base.digest], {}),
        ((f"{HUB}two:1",), [TWO.layers[0].digest], {}),
    ]
    assert report.findings == ()
    assert report.is_told == (name == "told.json")
    verify_sums(report, blobs_in(place / ("thin" if name == "told.json" else name)))


def test_a_layer_that_is_made_on_the_far_side(place: Path) -> None:
    """Its recipe belongs to the images that need the layer."""
    report = make_report(str(place / "delta.tar"))
    verify_sums(report, blobs_in(place / "delta.tar"))
    assert report.findings == ()
    assert all(not image.missing for image in report.images)
    bundle = place / "delta.json"
    with tarfile.open(place / "delta.tar") as tar:
        raw = tar.extractfile("bundle.json")
        assert raw is not None
        bundle.write_bytes(raw.read())
    told = make_report(str(bundle))
    verify_sums(told, blobs_in(place / "delta.tar"))
    assert told.expected == report.expected


def test_a_volume_says_what_the_others_have(tmp_path: Path) -> None:
    layers = [[member(f"f{number}", bytes([number]) * 300_000)] for number in range(4)]
    write_layout(tmp_path / "far", {f"{HUB}other:1": TWO})
    image = build_image(layers, compression="plain")
    write_layout(tmp_path / "here", {f"{HUB}app:1": image})
    pull = ["pull", f"{tmp_path}/here", "-q", "--since", f"{tmp_path}/far", "--volume-size", "700kB"]
    assert main([*pull, "--out", f"{tmp_path}/u.tar"]) == 0
    volumes = sorted(tmp_path.glob("u.*.tar"))
    assert len(volumes) > 1
    inside = 0
    for volume in volumes:
        report = make_report(str(volume))
        (reported,) = report.images
        assert {one.place for one in reported.expected.values()} == {Place.VOLUME}
        assert (dict(reported.missing), report.findings) == ({}, ())
        assert report.size == sum(blobs_in(volume).values())
        assert {*reported.blobs, *reported.expected} == image.all_digests
        inside += sum(layer.digest in reported.blobs for layer in image.layers)
    assert inside <= 4


KINDS = ["here", "thin", "thin.tar", "told.json"]


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_updates_of_one_moment_are_the_same(place: Path, old: str, new: str) -> None:
    """Whatever each of them holds: nothing changed, and nothing is new or gone."""
    changes = compare(make_report(str(place / new)), read_snapshot(str(place / old)))
    assert [one.name for one in changes.names if one.change is not Change.UNCHANGED] == []
    assert (changes.new_bytes, changes.gone_bytes) == (0, 0) or new == "here"


@pytest.mark.parametrize("new", KINDS)
def test_what_changed_since_the_far_side_was_made(place: Path, new: str) -> None:
    changes = compare(make_report(str(place / new)), read_snapshot(str(place / "far")))
    assert {one.name: one.change for one in changes.names} == {
        f"{HUB}app:1": Change.CHANGED,
        f"{HUB}multi:1": Change.ADDED,
        f"{HUB}two:1": Change.ADDED,
        f"{HUB}gone:1": Change.REMOVED,
    }
    app = changes.names[0]
    assert dict(app.platforms) == {"linux/amd64": Change.CHANGED}
    fresh = {file: size for file, size in blobs_in(place / "here").items() if file not in blobs_in(place / "far")}
    assert changes.new_bytes == sum(fresh.values())
    left = {file: size for file, size in blobs_in(place / "far").items() if file not in blobs_in(place / "here")}
    assert changes.gone_bytes == sum(left.values())


def test_the_bundle_of_last_week_is_compared_with_this_weeks(tmp_path: Path) -> None:
    """Only bundle.json was kept of last week's; what it expects counts as there, and so is not new."""
    write_layout(tmp_path / "0", {f"{HUB}app:1": OLD})
    write_layout(tmp_path / "1", {f"{HUB}app:1": NEW})
    write_layout(tmp_path / "2", {f"{HUB}app:1": NEW, f"{HUB}two:1": TWO})
    assert main(["pull", f"{tmp_path}/1", "-q", "--since", f"{tmp_path}/0", "--out", f"{tmp_path}/w1"]) == 0
    assert main(["pull", f"{tmp_path}/2", "-q", "--since", f"{tmp_path}/1", "--out", f"{tmp_path}/w2"]) == 0
    last = tmp_path / "last.json"
    last.write_bytes((tmp_path / "w1" / "bundle.json").read_bytes())
    for new in ("2", "w2", "w2/bundle.json"):
        changes = compare(make_report(f"{tmp_path}/{new}"), read_snapshot(str(last)))
        assert {one.name: one.change for one in changes.names} == {
            f"{HUB}app:1": Change.UNCHANGED,
            f"{HUB}two:1": Change.ADDED,
        }
        assert changes.new_bytes == len(TWO.raw) + sum(map(len, TWO.blobs.values()))
        assert changes.gone_bytes == 0


def test_signatures_in_a_bundle_are_no_removed_images(tmp_path: Path) -> None:
    layout = DamagedLayout(tmp_path / "here").write(**{f"{HUB}app:1": NEW})
    add_about(layout, NEW.digest, "signature")
    write_layout(tmp_path / "far", {f"{HUB}app:1": OLD})
    pull = ["pull", f"{tmp_path}/here:{HUB}app:1", "-q", "--referrers", "--since", f"{tmp_path}/far"]
    assert main([*pull, "--out", f"{tmp_path}/thin"]) == 0
    thin = make_report(f"{tmp_path}/thin")
    assert [len(image.about) for image in thin.images] == [1]
    for new, old in (("thin", "thin/bundle.json"), ("thin/bundle.json", "thin"), ("thin/bundle.json",) * 2):
        report = make_report(f"{tmp_path}/{new}")
        changes = compare(report, read_snapshot(f"{tmp_path}/{old}"))
        assert {one.name: one.change for one in changes.names} == {f"{HUB}app:1": Change.UNCHANGED}
        assert {changes.of(image) for image in report.images} == {Change.UNCHANGED}


@pytest.mark.parametrize("form", ["--text", "--json", "--csv", "--html"])
@pytest.mark.parametrize("name", ["thin", "thin.tar", "told.json"])
def test_each_form_says_what_is_not_inside(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    assert main(["report", str(place / name), "--since", str(place / "told.json"), form]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    base = OLD.layers[0]
    if form == "--text":
        assert f"  not inside:   1 blob, {base.size} B on the far side" in out.splitlines()
        assert "problems:" not in out
    elif form == "--json":
        told = json.loads(out)
        assert told["images"][0]["missing"] == []
        assert told["images"][0]["expected"] == [{"digest": str(base.digest), "size": base.size, "where": "far-side"}]
        assert (told["totals"]["expectedBlobs"], told["fromBundleJson"]) == (2, name == "told.json")
    elif form == "--csv":
        (row, *_) = csv.DictReader(io.StringIO(out))
        assert (row["missing_blobs"], row["expected_blobs"], row["change"]) == ("0", "1", "unchanged")
    else:
        assert "on the far side" in out


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ('{"bundleVersion": 2}', UnsupportedMediaTypeError, "expected a bundle of version 1, got version 2"),
        ("{}", InvalidImageError, "bundleVersion"),
        ("{", InvalidImageError, "JSON"),
    ],
)
def test_another_document_is_refused(tmp_path: Path, content: str, kind: type[Exception], message: str) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(kind, match=message):
        make_report(str(tmp_path / "b.json"))


def test_a_missing_document_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"expected a bundle\.json, there is no such file"):
        make_report(f"{tmp_path}/last.json")
