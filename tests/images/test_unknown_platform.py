"""unknown/unknown is no platform: no message, listing or hint offers it as one that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.cli.main import main
from ociexport.errors import NoMatchingPlatformError
from ociexport.spec.descriptor import Platform
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member

UNKNOWN: tuple[dict[str, str], ...] = (
    {"os": "unknown", "architecture": "unknown"},
    {"os": "", "architecture": ""},
    {},
    {"os": "linux"},
    {"os": "linux", "architecture": "unknown"},
)
IMAGE = build_image([[member("a", b"1")]], platform=AMD64)
OTHER = build_image([[member("b", b"2")]], platform=Platform("unknown", "unknown"))


def _index(platform: dict[str, str], *images: BuiltImage) -> BuiltImage:
    """Return an index whose last entry has ``platform`` and no annotation, as some tools write attestations."""

    def edit(index: dict[str, Any]) -> None:
        index["manifests"][-1]["platform"] = platform

    return build_index([*images, OTHER], edit_index=edit)


@pytest.mark.parametrize("platform", UNKNOWN)
def test_error_does_not_list_it(platform: dict[str, str]) -> None:
    index = _index(platform, IMAGE)
    with pytest.raises(NoMatchingPlatformError) as caught:
        ociexport.inspect(index.source(), platform=ARM64)
    assert str(caught.value) == f"manifest {index.digest}: no image for platform linux/arm64, there are: linux/amd64"
    assert caught.value.hint == "for example --platform linux/amd64"


@pytest.mark.parametrize("platform", UNKNOWN)
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_inspect_does_not_list_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], platform: dict[str, str]
) -> None:
    layout = tmp_path / "layout"
    write_layout(layout, {"1": _index(platform, IMAGE)})
    assert main(["inspect", f"{layout}:1", "--platform", "linux/amd64", *words]) == 0
    assert "unknown" not in capsys.readouterr().out


@pytest.mark.parametrize("word", ["pull", "unpack", "inspect"])
def test_config_that_declares_it_declares_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    layout = tmp_path / "layout"
    write_layout(layout, {"1": OTHER})
    words = {"pull": ["-o", str(tmp_path / "copy")], "unpack": [str(tmp_path / "root")], "inspect": []}[word]
    assert main([word, f"{layout}:1", *words]) == 0
    written = capsys.readouterr()
    assert "unknown" not in written.out + written.err
