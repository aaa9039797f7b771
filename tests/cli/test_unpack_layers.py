"""ociexport unpack --layers-dir: what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from ociexport.cli.main import main
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.system_parts import require, run


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_layout(tmp_path / "layout", {"1": build_image([[member("a", b"1")], [member(".wh.a"), member("b", b"2")]])})
    return tmp_path


def test_commands_are_printed_after_the_digest(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", "./layout:1", "--layers-dir", "./layers", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["unpack", "./layout:1", "--layers-dir", "./layers"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    commands = printed["commands"]
    assert lines[:4] == [printed["manifestDigest"], commands["mount"], commands["bwrap"], commands["nspawn"]]
    lowest, highest = (layer["path"] for layer in printed["layers"])
    assert [layer["new"] for layer in printed["layers"]] == [True, True]
    assert lines[4:] == [f"# ROOTFS.mstack/layer@0 -> {lowest}", f"# ROOTFS.mstack/layer@1 -> {highest}"]
    words = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={highest}:{lowest}", "/mnt"]
    assert shlex.split(lines[1])[-7:] == words
    assert f"--overlay-src {lowest} --overlay-src {highest} --tmp-overlay /" in lines[2]
    assert f"--overlay={lowest}:{highest}::/" in lines[3]
    assert "0 of 2 layers new" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./tree"], "--layers-dir: expected no ROOTFS beside it, got both"),
        (["--to-tar", "-"], "--layers-dir: expected no --to-tar beside it, got both"),
        (["--receipt", "r"], "--receipt: expected ROOTFS beside it, got --layers-dir"),
        (["--replace"], "--replace: expected ROOTFS beside it, got a directory of layers"),
        (["--include", "x"], "--include and --exclude: expected ROOTFS beside it, got a directory of layers"),
        (["--uid-map", "0:1"], "--uid-map: expected ROOTFS beside it, got a directory of layers"),
    ],
)
def test_what_has_no_meaning_for_layers_is_refused(
    words: list[str], message: str, layout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", "./layout:1", *words, "--layers-dir", "./layers"]) == 2
    assert capsys.readouterr().err.startswith(f"ociexport: error: {message}\n")
    assert not (layout / "layers").exists()


@pytest.mark.system
def test_nspawn_runs_in_the_tree(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("systemd-nspawn", "busybox", root=True)
    shell = Path("/bin/busybox").read_bytes()
    base = [directory(name) for name in ("proc", "sys", "dev", "run", "tmp", "etc", "usr", "var", "root", "opaque")]
    base += [member("bin/sh", shell, mode=0o755), member("opaque/hidden"), member("gone")]
    upper = [member(".wh.gone"), directory("opaque"), member("opaque/.wh..wh..opq"), member("opaque/shown")]
    write_layout(layout / "layout", {"2": build_image([base, upper])})
    assert main(["unpack", "./layout:2", "--layers-dir", "./layers", "--json"]) == 0
    words = shlex.split(json.loads(capsys.readouterr().out)["commands"]["nspawn"])
    assert words[-1] == "sh"
    shown = run(
        words[0], "--quiet", "--register=no", "--keep-unit", *words[1:-1], "/bin/sh", "-c", "echo /opaque/* /go*"
    )
    assert shown.split() == ["/opaque/shown", "/go*"]
    assert os.listdir(layout / "layers" / "nspawn") == ["usr"]


def test_list_is_unpacked_into_directories(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build_image([[member("a", b"1")]])
    write_layout(layout / "layout", {"1": image, "2": image, "3": build_image([[member("b")]])})
    (layout / "list").write_text("x.example/app:1\nx.example/app:2\nx.example/app:3\nx.example/app:4\n")
    write_layout(layout / "layout", {f"x.example/app:{tag}": image for tag in "12"})
    words = ["unpack", "./layout", "--list", "list", "--into", "trees", "--executor", "processes:1"]
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert out == f"{image.digest}\n" * 2
    assert "2 of 4 images failed; failed.txt lists them" in err
    first, second = sorted((layout / "trees").iterdir())
    assert (first.name, second.name, os.readlink(second)) == ("x.example+app+1", "x.example+app+2", first.name)
    assert main([*words[:4], "--layers-dir", "layers", "--json"]) == 3
    printed = capsys.readouterr().out
    assert printed.count('"layersDir"') == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./layout:1", "--into", "x"], "--into: expected --list beside it, got none"),
        (["./layout:1", "--executor", "processes"], "--executor: expected --list beside it, got none"),
        (["--list", "list", "trees", "--executor", "processes"], "--executor: expected --into beside it, got none"),
        (
            ["--list", "list", "--into", "x", "--layers-dir", "y"],
            "--into: expected no directory of layers beside it, got one",
        ),
        (["--list", "list", "--into", "x", "--to-tar", "y"], "--to-tar: expected one image beside it, got a list"),
    ],
)
def test_options_of_lists_that_do_not_fit_are_refused(
    words: list[str], message: str, layout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (layout / "list").write_text("x.example/app:1\n")
    assert main(["unpack", *words]) == 2
    assert capsys.readouterr().err.startswith(f"ociexport: error: {message}\n")


def test_list_becomes_disk_images_each_made_once(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build_image([[member("a", b"1")]])
    write_layout(layout / "layout", {f"x.example/app:{tag}": image for tag in "12"})
    (layout / "list").write_text("x.example/app:1\nx.example/app:2\n")
    words = ["unpack", "./layout", "--list", "list", "--into", "images", "--format", "erofs"]
    for _ in range(2):
        assert main(words) == 0
    first, second = sorted((layout / "images").iterdir())
    assert (first.name, os.readlink(second)) == ("x.example+app+1.erofs", first.name)
    assert first.stat().st_size % 4096 == 0
    assert main(["unpack", "./layout:x.example/app:1", "--layers-dir", "l", "--format", "erofs"]) == 2
    assert "--format: expected ROOTFS beside it, got a directory of layers and erofs" in capsys.readouterr().err
