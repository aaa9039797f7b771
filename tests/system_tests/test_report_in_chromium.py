"""`ociexport report --html` in a real browser, offline: on a phone, on a wide screen and on paper.

``python -m tests.system_tests.test_report_in_chromium docs/guide/report.png`` makes the screenshot in the documents;
pngquant then makes it smaller.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    AMD64,
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
from tests.support.system_parts import require

EPOCH = {"SOURCE_DATE_EPOCH": "1735603200"}
BASE, PYTHON = bytes(range(256)) * 30_000, bytes(range(255, -1, -1)) * 52_000
_MEASURE = """<script>document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth, shown: innerWidth,
  heads: getComputedStyle(document.querySelector("thead")).position})</script>"""


def image(day: int, *layers: bytes, arm: bool = False) -> BuiltImage:
    created = f"2024-12-{day:02}T08:00:00Z"
    members = [[member(f"file-{number}", layer)] for number, layer in enumerate(layers)]
    return build_image(
        members,
        compression="plain",
        edit_config=lambda config: config.update(created=created),
        platform=ARM64 if arm else AMD64,
    )


def write_example(directory: Path) -> tuple[Path, Path]:
    """Write a layout as a team might carry it, and the one of the week before; return their paths."""
    debian = image(2, BASE)
    app = image(27, BASE, PYTHON, b"app" * 900_000)
    both = build_index([app, image(27, BASE[::-1], PYTHON[::-1], b"ppa" * 900_000, arm=True), build_attestation(app)])
    python = image(9, BASE, PYTHON)
    new, old = DamagedLayout(directory / "bundle"), directory / "last-week"
    write_layout(
        new.path,
        {
            "docker.io/library/debian:12": debian,
            "docker.io/library/python:3.13": python,
            "registry.example/team/app:1.4": both,
            "registry.example/team/app:latest": both,
            "registry.example/charts/app:1.4": build_artifact(b"chart" * 5_000),
        },
    )
    for artifact_type in ("application/vnd.dev.cosign.artifact.sig.v1+json", "application/spdx+json"):
        content = artifact_type.encode() * 400
        manifest = json.loads(build_artifact(content, artifact_type=artifact_type).raw)
        subject = {"mediaType": mediatypes.OCI_INDEX, "digest": str(both.digest), "size": len(both.raw)}
        for blob in (b"{}", content):
            new.blob(Digest.of(blob)).write_bytes(blob)
        new.add(to_json({**manifest, "subject": subject}), mediatypes.OCI_MANIFEST, annotations={})
    write_layout(
        old,
        {
            "docker.io/library/debian:12": debian,
            "docker.io/library/python:3.13": image(1, BASE, b"python" * 2_000_000),
            "docker.io/library/alpine:3.20": image(3, b"alpine" * 500_000),
        },
    )
    return new.path, old


def write_page(directory: Path) -> Path:
    new, old = write_example(directory)
    ended = run_command("report", new, "--html", "--since", old, home=directory, variables=EPOCH)
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout.replace(f"{directory}/", "./")
    (directory / "report.html").write_text(shown)
    return directory / "report.html"


def browse(home: Path, page: Path, *words: str, width: int, height: int = 900) -> str:
    """Open a page in Chromium without a network; return what it prints."""
    ended = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={home}/profile",
            f"--window-size={width},{height}",
            *words,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def size_of_png(path: Path) -> tuple[int, int]:
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", raw[16:24])
    return width, height


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("chromium")
    return write_page(tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [500, 1200])
def test_page_is_drawn(page: Path, tmp_path: Path, width: int) -> None:
    browse(tmp_path, page, f"--screenshot={tmp_path}/page.png", width=width)
    assert size_of_png(tmp_path / "page.png") == (width, 900)
    # An empty page of this size takes a few kilobytes.
    assert (tmp_path / "page.png").stat().st_size > 25_000


@pytest.mark.parametrize("width", [320, 390, 800, 1030, 1200])
def test_page_is_as_wide_as_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    """Nobody scrolls sideways to read it; below 64 rem, each row of the table is a card.

    The rules are those of the page. The policy is taken off, since it forbids the script that measures.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    (tmp_path / "inner.html").write_text(text.replace("</body>", f"{_MEASURE}</body>"))
    frame = tmp_path / "frame.html"
    # A browser's window has a least width, a frame has none.
    frame.write_text(
        f'<!DOCTYPE html><iframe src="inner.html" width="{width}" height="800" style="border:0"></iframe>'
        "<script>onload = () => { document.title = frames[0].document.title }</script>"
    )
    printed = browse(tmp_path, frame, "--dump-dom", "--allow-file-access-from-files", width=1400)
    found = re.search(r"<title>(.*?)</title>", printed)
    assert found is not None
    measured = json.loads(found[1])
    assert measured["shown"] == width
    assert measured["wide"] <= width
    assert measured["heads"] == ("absolute" if width <= 1024 else "static")


def test_page_is_dark_where_the_screen_is(page: Path, tmp_path: Path) -> None:
    for name, words in (("light", ()), ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        browse(tmp_path, page, f"--screenshot={tmp_path}/{name}.png", *words, width=800)
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()


def test_page_is_printed(page: Path, tmp_path: Path) -> None:
    browse(tmp_path, page, f"--print-to-pdf={tmp_path}/page.pdf", width=1200)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


def test_no_script_in_a_name_runs(tmp_path: Path) -> None:
    """The title of the page would change."""
    require("chromium")
    attack = "document.title='stolen'"
    names = [f"<script>{attack}</script>", f'"><img src=x onerror="{attack}">', f"<svg/onload={attack}>"]
    layout = DamagedLayout(tmp_path / "layout")
    write_layout(layout.path, {f"image-{number}": image(number + 1, b"x") for number, _ in enumerate(names)})

    def rename(index: dict[str, list[dict[str, object]]]) -> None:
        for entry, name in zip(index["manifests"], names, strict=True):
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}

    layout.edit_index(rename)
    text = run_command("report", layout.path, "--html", home=tmp_path, variables=EPOCH).stdout
    # Without the policy too, which would stop them.
    (tmp_path / "bare.html").write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text))
    printed = browse(tmp_path, tmp_path / "bare.html", "--dump-dom", width=800)
    assert "<title>Contents of " in printed
    assert "stolen'&lt;/script&gt;" in printed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        picture = Path(sys.argv[1]).resolve()
        browse(Path(made), write_page(Path(made)), f"--screenshot={picture}", width=1100, height=900)
