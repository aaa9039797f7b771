"""The index of a layout is read once or twice for any number of its images, by name or by digest.

Source: issue 18, "10,000 images": each would read the whole index again, which takes the square of the time.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ociexport.transfer.sources.names import parse_source_name
from ociexport.transfer.sources.open import SourceOpener
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

IMAGES = {f"quay.io/a:{number}": build_image([[member(str(number), b"")]]) for number in range(4)}
TWICE = build_image([[member("twice", b"")]])


@pytest.mark.parametrize("by", ["name", "digest"])
def test_the_index_is_not_needed_from_the_third_image_on(tmp_path: Path, by: str) -> None:
    layout = tmp_path / "layout"
    write_layout(layout, IMAGES)
    with closing(SourceOpener()) as opener:
        for position, (name, image) in enumerate(IMAGES.items()):
            typed = name if by == "name" else f"@{image.digest}"
            with closing(opener.open(parse_source_name(f"{layout}:{typed}"))) as source:
                assert source.fetch_manifest().digest == image.digest
            if position == 1:
                (layout / "index.json").unlink()
        with pytest.raises(FileNotFoundError):
            opener.open(parse_source_name(f"{layout}:other"))


def test_images_with_one_digest_keep_their_names(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {**IMAGES, "quay.io/b:1": TWICE, "quay.io/c:1": TWICE})
    with closing(SourceOpener()) as opener:
        for name in ("quay.io/a:1", "quay.io/b:1", "quay.io/c:1"):
            with closing(opener.open(parse_source_name(f"{tmp_path}/layout:{name}"))) as source:
                assert source.image_name.full == name
