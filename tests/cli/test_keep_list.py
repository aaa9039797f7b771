"""`prune --keep` takes every list that ``--list`` takes, lock files too, and names and patterns beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.spec.descriptor import Platform
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member

HUB = "docker.io/library/"


def image_of(name: str, platform: Platform = AMD64) -> BuiltImage:
    return build_image([[member(name)]], platform=platform)


TAGS = ["app:1", "app:2", "app:3", "app:3-rc1", "db:9", "web:1"]
IMAGES = {HUB + name: image_of(name) for name in TAGS}
INDEX = build_index([image_of("x"), image_of("y", ARM64)])
DIGEST = IMAGES[f"{HUB}app:2"].digest
KUBERNETES = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {
        "containers": [{"name": "a", "image": "app:1"}],
        "initContainers": [{"name": "b", "image": f"app@{DIGEST}"}],
        "ephemeralContainers": [{"name": "c", "image": "db:9"}],
    },
}
CYCLONEDX = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "components": [
        {"type": "container", "purl": f"pkg:oci/app@{DIGEST}?repository_url=docker.io/library/app&tag=2"},
        {"type": "container", "purl": "pkg:docker/web@1"},
    ],
}
LISTS: list[tuple[str, str, list[str]]] = [
    ("lines", "app:1\ndb:*  # all\n", ["app:1", "db:9"]),
    ("lines with tags", "app newest=2\nweb:1  platform=linux/amd64\n", ["app:2", "app:3", "web:1"]),
    ("lines with versions", 'app  semver=">=1 <2" tags=re:^1\n', ["app:1"]),
    ("lines with all tags", "app tags=all\n", ["app:1", "app:2", "app:3", "app:3-rc1"]),
    (
        "lines of a pull from elsewhere",
        f"./layout:{HUB}app:1\nhttps://files.example/l:{HUB}web:1\ns3://bucket/l:@{DIGEST}\n",
        ["app:1", "app:2", "web:1"],
    ),
    ("lines with a digest", f"app:9@{DIGEST}\n", ["app:2"]),
    ("JSON names", '["app:1", "web:1"]', ["app:1", "web:1"]),
    ("YAML names", "- app:1\n- web:1\n", ["app:1", "web:1"]),
    (
        "compose",
        "services:\n  a:\n    image: app:${VERSION:-2}\n  d:\n    image: db:9\n    profiles: [debug]\n",
        ["app:2"],
    ),
    ("Kubernetes", json.dumps(KUBERNETES), ["app:1", "app:2", "db:9"]),
    ("CycloneDX", json.dumps(CYCLONEDX), ["app:2", "web:1"]),
    (
        "skopeo sync",
        "docker.io:\n  images:\n    library/app: ['1', '2']\n    library/web: []\n",
        ["app:1", "app:2", "web:1"],
    ),
    (
        "hauler",
        "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec:\n  images:\n    - name: db:9\n",
        ["db:9"],
    ),
    (
        "an unknown kind",
        "apiVersion: example.org/v1\nkind: Thing\nspec:\n  a:\n    image: docker.io/library/db:9\n",
        ["db:9"],
    ),
]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", IMAGES)
    return tmp_path / "layout"


def kept_by(text: str, layout: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """Return the names that a list keeps, and what is said beside the plan."""
    (layout.parent / "list").write_text(text)
    assert main(["prune", str(layout), "--keep", str(layout.parent / "list"), "--json", *more]) == 0
    plan = json.loads(capsys.readouterr().out)
    return [one["name"].removeprefix(HUB) for one in plan["keptNames"]]


@pytest.mark.parametrize(("text", "kept"), [case[1:] for case in LISTS], ids=[case[0] for case in LISTS])
def test_every_list_that_pull_takes(
    layout: Path, capsys: pytest.CaptureFixture[str], text: str, kept: list[str]
) -> None:
    assert kept_by(text, layout, capsys) == kept


def test_profiles_of_a_compose_file(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compose = next(text for name, text, _ in LISTS if name == "compose")
    assert kept_by(compose, layout, capsys, "--profile", "debug") == ["app:2", "db:9"]


def test_a_compose_file_finds_others_beside_it(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (layout.parent / "other.yaml").write_text("services:\n  a:\n    image: web:1\n")
    (layout.parent / ".env").write_text("VERSION=3\n")
    text = "include: [other.yaml]\nservices:\n  a:\n    image: app:$VERSION\n"
    assert kept_by(text, layout, capsys) == ["app:3", "web:1"]


def test_a_lock_file_keeps_what_was_locked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 18: lock, pull, and a week later prune. A pull of one platform lists another digest than the registry."""
    write_layout(tmp_path / "from", {**IMAGES, f"{HUB}multi:1": INDEX})
    (tmp_path / "names").write_text(f"{tmp_path}/from:{HUB}app:1\n{tmp_path}/from:{HUB}multi:1\n")
    assert main(["lock", "--list", f"{tmp_path}/names", "--all"]) == 0
    whole = capsys.readouterr().out
    layout = tmp_path / "layout"
    assert main(["pull", f"{tmp_path}/from", "-q", "--platform", "linux/amd64", "--out", str(layout)]) == 0
    capsys.readouterr()
    assert kept_by(whole, layout, capsys) == ["app:1", "multi:1"]


@pytest.mark.parametrize("name", [f"multi:1@{INDEX.digest}", f"multi@{INDEX.digest}"])
def test_a_digest_that_is_not_listed_keeps_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A pull of one platform by a digest lists the manifest: a list with the index's digest must not remove it."""
    one = image_of("x")
    full = f"{HUB}multi:1" if ":1@" in name else f"{HUB}multi@{one.digest}"
    write_layout(tmp_path / "layout", {full: one, f"{HUB}app:1": IMAGES[f"{HUB}app:1"]})
    for text in (name, f'["{name}"]'):
        assert kept_by(text, tmp_path / "layout", capsys) == [full.removeprefix(HUB)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "PLACE: expected the images to keep, got none; nothing was removed"),
        ("# nothing\n", "PLACE: expected the images to keep, one on a line, got none; nothing was removed"),
        ("app:1 app:2\n", "PLACE: line 1: expected one image, got 'app:2' after it"),
        ("app:1\napp newest=x\n", "PLACE:2: newest: expected a number above 0, got 'x'"),
        (
            "nothing:1\n",
            "LAYOUT: expected at least one image to keep, got none of 6 images; nothing was removed",
        ),
    ],
)
def test_a_list_that_can_not_be_meant_removes_nothing(
    layout: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    place = layout.parent / "list"
    place.write_text(text)
    before = sorted(layout.rglob("*"))
    assert main(["prune", str(layout), "--keep", str(place), "--yes"]) == 2
    told = capsys.readouterr().err.splitlines()[0].replace(str(place), "PLACE").replace(str(layout), "LAYOUT")
    assert told == f"ociexport: error: {message}"
    assert sorted(layout.rglob("*")) == before


def test_what_is_not_understood_and_what_is_not_there_is_said(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (layout.parent / "list").write_text("services:\n  a:\n    image: app:1\n    imagee: x\n  b:\n    image: gone:1\n")
    assert main(["prune", str(layout), "--keep", str(layout.parent / "list")]) == 0
    told = capsys.readouterr().err
    assert "imagee" in told
    assert "'docker.io/library/gone:1': no image has this name" in told
