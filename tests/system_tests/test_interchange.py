"""Each cell of docs/guide/interchange.md, run with the real tool; ``python -m tests.system_tests.test_interchange``
rewrites the tables."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from ociexport.images.choose import PlatformChoice
from ociexport.images.resolve import resolve_manifest
from ociexport.rootfs.unpack import unpack
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.open import open_source
from ociexport.verification.verify import verify
from tests.support.image_builder import AMD64
from tests.support.interchange import (
    CONTENT,
    IMAGE,
    IMAGE_ID,
    MANIFEST,
    NAMES,
    OUTPUTS,
    READERS,
    WRITERS,
    Written,
    write_output,
)

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "guide" / "interchange.md"
_KEPT = {
    MANIFEST: "the manifest, byte for byte",
    IMAGE_ID: "the config, and so docker's image ID",
    CONTENT: "the layers' content",
}
_CELLS = [(reader, output) for reader, (cells, _) in READERS.items() for output in cells]


def readers_table() -> str:
    """Return the table of tools that read what we write."""
    rows = [
        f"| {reader} | {' | '.join('yes' if output in cells else '' for output in OUTPUTS)} |"
        for reader, (cells, _) in READERS.items()
    ]
    return "\n".join([f"| | {' | '.join(OUTPUTS)} |", f"|---|{'---|' * len(OUTPUTS)}", *rows])


def writers_table() -> str:
    """Return the table of what we read from other tools, and of what stays unchanged."""
    rows = [f"| {writer} | {_KEPT[keeps]} |" for writer, (keeps, _) in WRITERS.items()]
    return "\n".join(["| written by | what is kept |", "|---|---|", *rows])


def with_tables(text: str) -> str:
    """Return the document with new tables."""
    for name, table in (("readers", readers_table()), ("writers", writers_table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def test_tables_say_what_was_seen() -> None:
    text = DOCUMENT.read_text()
    assert text == with_tables(text), "python -m tests.system_tests.test_interchange writes them"


@pytest.mark.system
@pytest.mark.parametrize(("reader", "output"), _CELLS)
def test_what_we_write_is_read(tmp_path: Path, reader: str, output: str) -> None:
    place = write_output(output, tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    cells, names = READERS[reader]
    assert cells[output](place, work) == {
        name: str(image.config.digest) for name, image in zip(names, NAMES.values(), strict=True)
    }


@pytest.mark.system
@pytest.mark.parametrize("writer", WRITERS)
def test_what_they_write_is_read(tmp_path: Path, writer: str) -> None:
    keeps, write = WRITERS[writer]
    written = write(tmp_path)
    assert written[0].keeps == keeps
    for number, one in enumerate(written):
        place = tmp_path / str(number)
        place.mkdir()
        assert_read(one, place)


def assert_read(written: Written, place: Path) -> None:
    choice = PlatformChoice() if len(written.image.documents) > 1 else PlatformChoice((AMD64,))
    result = pull(written.source, place / "layout", platform=choice)
    assert verify(place / "layout").findings == ()
    if written.keeps == MANIFEST:
        assert result.digest == written.image.digest
    if written.keeps in (MANIFEST, IMAGE_ID) and choice.platforms:
        assert result.config_digest == IMAGE.config.digest or written.image is not IMAGE
        assert result.config_digest == written.image.config.digest
    ((_, name),) = ImageLayout(place / "layout").read_images()
    assert name.full == written.name
    with closing(open_source(str(place / "layout"))) as source:
        manifest = resolve_manifest(source, AMD64).manifest
    config = json.loads(Path(ImageLayout(place / "layout").blob_path(manifest.config.digest)).read_bytes())
    diff_ids = config["rootfs"]["diff_ids"]
    own = list(map(str, IMAGE.diff_ids if len(written.image.documents) > 1 else written.image.diff_ids))
    assert diff_ids[: len(own)] == own
    unpack(written.source, place / "rootfs", platform=AMD64)
    assert (place / "rootfs" / "etc" / "b").read_bytes() == b"1"
    if len(diff_ids) > len(own):
        assert (place / "rootfs" / "etc" / "new").read_bytes() == b"put there by umoci"


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
