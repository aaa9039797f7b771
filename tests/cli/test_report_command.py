"""`ociexport report`: the same facts as lines, JSON, a table and a page; hostile texts harm no reader of them."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ociexport.cli.main import main
from tests.support.command import run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    ARM64,
    BuiltImage,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import member

# 2024-12-31T00:00:00Z, 56 days after the images of `image_builder` were created.
EPOCH = {"SOURCE_DATE_EPOCH": "1735603200"}
ONE = build_image([[member("base")], [member("one")]])
TWO = build_image([[member("base")], [member("two")]])
INDEX = build_index([ONE, build_image([[member("arm")]], platform=ARM64), build_attestation(ONE)])
APP, OTHER = "docker.io/library/app:1", "docker.io/library/other:1"
TAG_ANNOTATION = "org.opencontainers.image.ref.name"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</style></title><b>&amp;",
    "\x1b[31mred\x07\nline\r\x00",
    "\u202egnp.exe\u2066",
    "=HYPERLINK(1)",
    "+1+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "  =1",
    '"=1',
    "a,b;c\n=1",
    "\uff1d1",
    "|cmd",
    "x;=1+1",
    "y\t=1+1",
    'z";=1',
    'z;"=1"',
    "z; '=1",
    "%0d",
    "\ud800lone",
    "javascript:alert(1)",
]


@pytest.fixture
def layout(tmp_path: Path) -> DamagedLayout:
    return DamagedLayout(tmp_path / "layout")


def report(home: Path, *arguments: str | Path) -> str:
    ended = run_command("report", *arguments, home=home, variables=EPOCH)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def hostile_layout(layout: DamagedLayout) -> None:
    """Write one image for each hostile name, which also stands in its annotations and its config."""

    def image(name: str) -> BuiltImage:
        return build_image(
            [[member("file")]],
            edit_config=lambda config: config.update(created=name, author=name, config={"Labels": {name: name}}),
            edit_manifest=lambda manifest: manifest.update(annotations={name: name}, artifactType=name),
        )

    images = {f"hostile-{number}": image(name) for number, name in enumerate(HOSTILE)}
    write_layout(layout.path, images)

    def rename(index: dict[str, list[dict[str, object]]]) -> None:
        for entry, name in zip(index["manifests"], HOSTILE, strict=True):
            entry["annotations"] = {TAG_ANNOTATION: name, name: name}
            entry["platform"] = {"os": name, "architecture": name}

    layout.edit_index(rename)


class Page(HTMLParser):
    """Collects the elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_lines(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: INDEX, OTHER: TWO})
    printed = report(tmp_path, layout.path)
    assert printed == report(tmp_path, layout.path, "--text")
    lines = printed.splitlines()
    assert lines[:3] == [
        f"contents:     {layout.path}",
        "images:       2, with 3 platforms",
        f"blobs:        14, {sum(path.stat().st_size for path in layout.path.glob('blobs/*/*')) / 1000:.1f} kB",
    ]
    start = lines.index(APP)
    assert lines[start + 1 : start + 3] == [
        f"  digest:       {INDEX.digest}",
        "  created:      2024-11-05, 55 days old",
    ]
    assert lines[start + 4 : start + 6] == [
        f"  platform:     linux/amd64  {ONE.digest}",
        f"  platform:     linux/arm64  {json.loads(INDEX.raw)['manifests'][1]['digest']}",
    ]
    assert lines[start + 6] == "  about it:     1 provenance statement"


def test_json(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: ONE, OTHER: TWO})
    told = json.loads(report(tmp_path, layout.path, "--json"))
    sizes = {path.name: path.stat().st_size for path in layout.path.glob("blobs/*/*")}
    shared = ONE.layers[0].size
    assert {key: told[key] for key in ("jsonVersion", "command", "name", "reportTime", "since", "problems")} == {
        "jsonVersion": 1,
        "command": "report",
        "name": str(layout.path),
        "reportTime": "2024-12-31T00:00:00Z",
        "since": None,
        "problems": [],
    }
    assert told["totals"] == {
        "images": 2,
        "platforms": 2,
        "blobs": 7,
        "bytes": sum(sizes.values()),
        "uniqueBytes": sum(sizes.values()) - shared,
        "sharedBytes": shared,
        "unreferencedBlobs": 0,
        "unreferencedBytes": 0,
        "unfinishedBlobs": 0,
        "unfinishedBytes": 0,
        "expectedBlobs": 0,
        "expectedBytes": 0,
    }
    size = sum(sizes[digest.encoded] for digest in ONE.all_digests)
    assert told["images"][0] == {
        "names": [APP],
        "kind": "image",
        "digest": str(ONE.digest),
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "created": "2024-11-05T22:03:34Z",
        "ageDays": 55,
        "bytes": size,
        "uniqueBytes": size - shared,
        "sharedBytes": shared,
        "blobs": 4,
        "platforms": [
            {
                "platform": "linux/amd64",
                "digest": str(ONE.digest),
                "config": str(ONE.config.digest),
                "created": "2024-11-05T22:03:34Z",
                "layers": 2,
                "artifactType": None,
                "stored": True,
            }
        ],
        "absentManifests": 0,
        "missing": [],
        "expected": [],
        "signatures": 0,
        "sboms": 0,
        "about": [],
        "change": None,
    }


def test_table(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: INDEX, OTHER: TWO})
    rows = list(csv.DictReader(io.StringIO(report(tmp_path, layout.path, "--csv"))))
    told = json.loads(report(tmp_path, layout.path, "--json"))
    assert [(row["name"], row["digest"], row["platforms"], row["provenance"]) for row in rows] == [
        (APP, str(INDEX.digest), "linux/amd64 linux/arm64", "1"),
        (OTHER, str(TWO.digest), "linux/amd64", "0"),
    ]
    assert [int(row["unique_bytes"]) for row in rows] == [image["uniqueBytes"] for image in told["images"]]
    assert {row["age_days"] for row in rows} == {"55"}


def test_what_changed_since_in_each_form(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: TWO, OTHER: TWO})
    old = tmp_path / "old"
    write_layout(old, {APP: ONE, "gone": ONE})
    told = json.loads(report(tmp_path, layout.path, "--since", old, "--json"))
    new_bytes = sum(path.stat().st_size for path in layout.path.glob("blobs/*/*")) - ONE.layers[0].size
    assert {key: value for key, value in told["since"].items() if key != "changes"} == {
        "name": str(old),
        "added": 1,
        "changed": 1,
        "removed": 1,
        "unchanged": 0,
        "newBytes": new_bytes,
        "goneBytes": sum(path.stat().st_size for path in old.glob("blobs/*/*")) - ONE.layers[0].size,
    }
    assert told["since"]["changes"][0] == {
        "name": APP,
        "change": "changed",
        "old": [str(ONE.digest)],
        "new": [str(TWO.digest)],
        "platforms": {"linux/amd64": "changed"},
        "otherAbout": False,
        "newBytes": new_bytes,
    }
    size = f"{new_bytes / 1000:.1f} kB"
    lines = report(tmp_path, layout.path, "--since", old).splitlines()
    assert f"  {APP}: changed (linux/amd64 changed), {size} new" in lines
    assert f"  {OTHER}: added, {size} new" in lines
    assert "  gone: removed" in lines
    texts = Page(report(tmp_path, layout.path, "--since", old, "--html")).texts
    assert f"changed (linux/amd64 changed), {size} new" in texts
    assert f"Changed since {old}" in texts
    assert report(tmp_path, layout.path, "--since", old, "--csv").splitlines()[1].endswith(",added")


@pytest.mark.parametrize("form", ["--html", "--json", "--csv", "--text"])
def test_same_content_gives_the_same_bytes(layout: DamagedLayout, tmp_path: Path, form: str) -> None:
    layout.write(**{APP: INDEX, OTHER: TWO, "chart": build_artifact(b"chart")})
    variables = {**EPOCH, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    first = run_command("report", layout.path, form, home=tmp_path, variables=variables)
    variables = {**EPOCH, "PYTHONHASHSEED": "8", "TZ": "America/New_York"}
    assert run_command("report", layout.path, form, home=tmp_path, variables=variables).stdout == first.stdout


def test_page_needs_nothing_from_elsewhere(layout: DamagedLayout, tmp_path: Path) -> None:
    """No script, no other file, no address of another machine; rules for phones, paper and dark screens."""
    layout.write(**{APP: INDEX, OTHER: TWO})
    text = report(tmp_path, layout.path, "--html", "--since", layout.path)
    page = Page(text)
    assert text.isascii()
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "svg", "video"}
    assert not {name for _, name, _ in page.attributes} & {"src", "srcset", "action", "data", "background", "ping"}
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    assert re.search(r"https?:|url\(|@import|//", text) is None
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    for rule in ("@media print", "@media screen and (max-width", "@media (prefers-color-scheme: dark)"):
        assert rule in text
    assert {APP, OTHER, str(INDEX.digest), str(TWO.digest)} <= set(page.texts)


def test_hostile_texts_are_texts_on_the_page(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: ONE})
    plain = Page(report(tmp_path, layout.path, "--html"))
    hostile_layout(layout)
    text = report(tmp_path, layout.path, "--html", "--since", layout.path)
    page = Page(text)
    assert page.tags - {"br", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"} <= plain.tags
    assert not {name for _, name, _ in page.attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in page.texts
    assert text.isascii()
    assert not set(text) - {"\n"} - set(map(chr, range(32, 127)))
    assert "&#8238;" not in text  # the override of direction is shown as an escape
    assert r"\u202egnp.exe\u2066" in page.texts


def test_no_cell_of_the_table_is_a_formula(layout: DamagedLayout, tmp_path: Path) -> None:
    """OWASP, "CSV Injection": no cell begins with what a spreadsheet computes, and no name begins a row."""
    hostile_layout(layout)
    text = report(tmp_path, layout.path, "--csv")
    rows = text.splitlines()
    assert len(rows) == len(HOSTILE) + 1
    starts = tuple("=+-@|%\uff1d\t\r\n ")
    for separator in ",;":  # spreadsheets of some languages separate cells by others than commas
        found = [cell for row in csv.reader(io.StringIO(text), delimiter=separator) for cell in row]
        assert not [cell for cell in found if cell.startswith(starts)]
    table = list(csv.reader(io.StringIO(text)))
    assert "'=HYPERLINK(1)" in [row[0] for row in table]
    assert {len(row) for row in table} == {17}


@pytest.mark.parametrize("form", ["--text", "--csv", "--html"])
def test_no_control_character_is_printed(layout: DamagedLayout, tmp_path: Path, form: str) -> None:
    hostile_layout(layout)
    assert all(character.isprintable() or character == "\n" for character in report(tmp_path, layout.path, form))


def test_json_of_hostile_texts_is_json(layout: DamagedLayout, tmp_path: Path) -> None:
    hostile_layout(layout)
    told = json.loads(report(tmp_path, layout.path, "--json"))
    assert [image["names"][0] for image in told["images"]][:2] == HOSTILE[:2]


def test_archive_on_standard_input_is_read_like_any_other(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: ONE})
    assert run_command("pull", layout.path, "--out", tmp_path / "images.tar", home=tmp_path).returncode == 0
    told = json.loads(report(tmp_path, tmp_path / "images.tar", "--json"))
    assert (told["images"][0]["names"], told["totals"]["blobs"]) == ([APP], 4)


def test_a_path_needs_no_dot(layout: DamagedLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`merge`, `prune` and `gc` take it so too: a report is never one on an image in a registry."""
    layout.write(**{APP: ONE})
    monkeypatch.chdir(tmp_path)
    assert main(["pull", "-q", "./layout", "--out", "images.tar"]) == 0
    for words in (["layout", "--since", "images.tar"], ["images.tar", "--since", "layout"]):
        assert main(["report", *words]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["./none"], 3, "./none: expected an OCI layout, got no oci-layout file in it"),
        (["debian:12"], 2, "'debian:12': expected a whole layout or archive, got an image"),
        (["./layout", "--since", "./none.tar"], 3, "'./none.tar': expected an archive, there is no such file"),
        (["./layout", "--html", "--csv"], 2, "--csv: not allowed with argument --html"),
    ],
)
def test_mistakes_are_one_line(
    layout: DamagedLayout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    layout.write(**{APP: ONE})
    monkeypatch.chdir(tmp_path)
    ended = run_command("report", *arguments, home=tmp_path, variables={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (code, f"ociexport: error: {message}")


def test_form_on_the_command_line_counts_before_the_configured_one(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(**{APP: ONE})
    variables = {**EPOCH, "OCIEXPORT_HTML": "1"}
    assert run_command("report", layout.path, home=tmp_path, variables=variables).stdout.startswith("<!DOCTYPE html>")
    ended = run_command("report", layout.path, "--csv", home=tmp_path, variables=variables)
    assert ended.stdout.startswith("name,other_names,")
