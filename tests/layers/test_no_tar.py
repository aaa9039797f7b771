"""Every command that reads layers names a layer that is no tar, and a window beyond --max-memory, in one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ociexport.errors import DigestMismatchError
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, BuiltImage, Json, build_image, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.schema1_images import build_schema1
from tests.support.zstd_frames import frame_of

TAR, OTHER = tar_of([member("a", b"1")]), tar_of([member("b", b"2")])
PAGE = b"<!DOCTYPE html>\n<html><title>Log in</title>" + b"<p>" * 300

# Each command, with LAYOUT for the image's layout; their directory has a directory named tree.
COMMANDS: dict[str, Sequence[str]] = {
    "unpack": ("unpack", "LAYOUT", "rootfs"),
    "unpack to a tar": ("unpack", "LAYOUT", "--to-tar", "flat.tar"),
    "unpack of a bundle": ("unpack", "LAYOUT", "bundle", "--bundle"),
    "ls": ("ls", "LAYOUT"),
    "cat": ("cat", "LAYOUT", "a"),
    "which-layer": ("which-layer", "LAYOUT", "a"),
    "diff": ("diff", "tree", "LAYOUT"),
    "verify": ("verify", "--deep", "LAYOUT"),
    "pull into a layout": ("pull", "LAYOUT", "--out", "other", "--decompress"),
    "pull into an archive": ("pull", "LAYOUT", "--out", "a.tar", "--decompress"),
}


def image_of(stored: bytes) -> BuiltImage:
    """Return an image whose second layer is stored as ``stored``, and has the diff_id of a tar."""

    def edit(config: Json) -> None:
        config["rootfs"]["diff_ids"][1] = str(Digest.of(OTHER))

    return build_image([TAR, stored], compression=["gzip", "plain"], edit_config=edit)


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command on an image in a layout, and returns its code and its words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    (tmp_path / "tree").mkdir()

    def run(image: BuiltImage, words: Sequence[str], *more: str) -> tuple[int, str]:
        write_layout(tmp_path / "layout", {"1": image})
        done = run_command(*(w.replace("LAYOUT", "./layout") for w in words), *more, "-q", home=tmp_path)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("stored", "name"),
    [(PAGE, "an HTML page"), (gzip.compress(PAGE), "an HTML page within gzip data")],
    ids=["plain", "gzip"],
)
def test_every_reader_names_it(
    ended: Callable[..., tuple[int, str]], tmp_path: Path, command: str, stored: bytes, name: str
) -> None:
    image = image_of(stored)
    code, said = ended(image, COMMANDS[command])
    assert f"layer 2 of 2 ({image.layers[1].digest}): expected a tar, got {name}\n" in said
    assert code == (7 if command == "verify" else 8)
    assert {path.name for path in tmp_path.iterdir()} == {"layout", "tree"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_reader_takes_the_memory_it_is_given(ended: Callable[..., tuple[int, str]], command: str) -> None:
    image = image_of(frame_of(28, OTHER))
    code, said = ended(image, COMMANDS[command], "--max-memory", "200M")
    assert (
        f"layer 2 of 2 ({image.layers[1].digest}): zstd data: window: "
        "expected at most 209715200 bytes of memory (--max-memory), got 268435456\n"
    ) in said
    assert ("hint: if you trust the image, raise --max-memory\n" in said) == (command != "verify")
    assert code == (7 if command == "verify" else 8)
    code, said = ended(image, COMMANDS[command], "--max-memory", "256MiB")
    assert (code, "error" in said) == (1 if command == "diff" else 0, False), said


@pytest.mark.parametrize("size", ["1x", "-1", "1.5X", "G", "0K"])
def test_size_that_is_none_is_a_usage_error(ended: Callable[..., tuple[int, str]], size: str) -> None:
    code, said = ended(image_of(TAR), COMMANDS["unpack"], f"--max-memory={size}")
    assert (code, said.splitlines()[0]) == (
        2,
        f"ociexport: error: --max-memory: expected a number above 0, such as 512M or 2G, got '{size}'",
    )


def test_layer_of_schema_1_is_named_when_it_is_converted(registry: FakeRegistry, tmp_path: Path) -> None:
    """Its diff_id is computed, so it proves nothing."""
    wrong = build_schema1([[member("a")]], edit=lambda document: _with_layer(document, PAGE))
    wrong.blobs[Digest.of(PAGE)] = PAGE
    done = run_command("pull", wrong.serve(registry, "library/old", "1"), "--out", tmp_path / "l", home=tmp_path)
    assert (done.returncode, "expected a tar, got an HTML page" in done.stderr) == (8, True), done.stderr


def _with_layer(document: Json, content: bytes) -> None:
    document["fsLayers"] = [{"blobSum": str(Digest.of(content))}]


def test_wrong_bytes_come_first() -> None:
    """A page in place of the layer has another digest, which says more."""
    image = image_of(TAR)
    image.blobs[image.layers[1].digest] = PAGE[: len(TAR)].ljust(len(TAR))
    with pytest.raises(DigestMismatchError, match="HTML document"):
        unpack(image.source(), "never-made", platform=AMD64)
