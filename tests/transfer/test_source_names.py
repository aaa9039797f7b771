"""sources.names: what users type for a source."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.cli.main import main
from ociexport.errors import NotFoundError, UsageError
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    parse_source_name,
    path_meant_by,
    source_text,
)
from ociexport.transfer.sources.open import open_source
from tests.support.fake_registry import FakeRegistry


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("layout", "with:colon", "with@at"):
        ImageLayout(name).make_ready()
    (tmp_path / "plain").mkdir()
    (tmp_path / "skopeo").mkdir()
    (tmp_path / "skopeo" / "manifest.json").write_text("{}")
    (tmp_path / "skopeo" / "version").write_text("Directory Transport Version: 1.1\n")
    for name in ("images.tar", "saved", "with:colon.tar", "alpine.tgz"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "alpine",
        "alpine:3.20",
        "docker.io/library/alpine",
        "localhost:5000/a/b:c",
        "plain",
        "plain:1",
        "[::1]:5/a",
        "layout",
        "layout:1.0",
        "images.tar",
        "images.tar:1",
        "alpine.tgz",
        "skopeo",
    ],
)
def test_references_are_references(text: str) -> None:
    assert parse_source_name(text) == RegistryName(ImageReference.parse(text))
    assert parse_source_name(f"docker://{text}") == RegistryName(ImageReference.parse(text))


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "path", "image"),
    [
        ("./layout", "./layout", None),
        ("./layout:1.0", "./layout", "1.0"),
        ("./layout:latest", "./layout", "latest"),
        ("oci:layout", "layout", None),
        ("oci:layout:docker.io/library/a:1", "layout", "docker.io/library/a:1"),
        ("oci:layout:@2", "layout", "@2"),
        ("ocidir://layout:tag", "layout", "tag"),
        ("./layout@" + DIGEST, "./layout", "@" + DIGEST),
        (f"./layout:@{DIGEST}", "./layout", "@" + DIGEST),
        ("./with:colon", "./with:colon", None),
        ("./with:colon:tag", "./with:colon", "tag"),
        ("./with@at:tag", "./with@at", "tag"),
        ("./absent:tag", "./absent", "tag"),
        ("oci:absent", "absent", None),
        (".", ".", None),
        ("/", "/", None),
        ("../x", "../x", None),
    ],
)
def test_layouts_and_their_images_are_told_apart(text: str, path: str, image: str | None) -> None:
    assert parse_source_name(text) == LayoutName(path, image)


@pytest.mark.parametrize(
    ("text", "path", "image"),
    [
        ("./images.tar", "./images.tar", None),
        ("./images.tar:1.0", "./images.tar", "1.0"),
        ("./images.tar:docker.io/library/a:1", "./images.tar", "docker.io/library/a:1"),
        ("./images.tar:@1", "./images.tar", "@1"),
        ("./with:colon.tar:1", "./with:colon.tar", "1"),
        ("./alpine.tgz", "./alpine.tgz", None),
        ("./saved:1", "./saved", "1"),
        ("./absent.tar:1", "./absent.tar", "1"),
        ("docker-archive:saved:a:1", "saved", "a:1"),
        ("docker-archive:saved:@0", "saved", "@0"),
        ("oci-archive:absent.tar:1", "absent.tar", "1"),
        ("-", "-", None),
        ("oci-archive:-:1", "-", "1"),
    ],
)
def test_archives_and_their_images_are_told_apart(text: str, path: str, image: str | None) -> None:
    assert parse_source_name(text) == ArchiveName(path, image)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("layout", "./layout"),
        ("layout:1.0", "./layout:1.0"),
        ("images.tar:a:1", "./images.tar:a:1"),
        ("skopeo", "./skopeo"),
        ("plain", None),
        ("plain:1", None),
        ("absent:1", None),
        ("./layout", None),
        ("oci:layout", None),
        ("docker://layout", None),
        ("-", None),
    ],
)
def test_path_that_a_reference_hides_is_told(here: Path, text: str, path: str | None) -> None:
    assert path_meant_by(text) == path


@pytest.mark.parametrize("text", ["layout", "layout:1.0", "images.tar"])
def test_word_never_reads_what_lies_in_the_working_directory(
    here: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A directory "debian" was once unpacked in place of debian:12."""
    monkeypatch.setenv("HOME", str(here))
    words = ["unpack", text, "rootfs", "--mirror", f"http://{registry.host}", "--retry-times", "0"]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert main(words) in (3, 4, 5)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"ociexport: warning: {text} is an image in a registry; the one here is ./{text}"
    assert last == f"hint: a path begins with ./: ./{text}"
    assert any("manifests" in path for path in registry.paths("GET"))
    assert not (here / "rootfs").exists()


def test_path_as_such_is_a_path(here: Path) -> None:
    assert source_text(Path("layout")) == "./layout"
    assert source_text(here / "layout") == f"{here}/layout"
    assert source_text("layout") == "layout"


def test_file_with_the_name_of_an_image_does_not_stand_in_its_way() -> None:
    assert parse_source_name("saved:1") == RegistryName(ImageReference.parse("saved:1"))


def test_absolute_paths_are_paths(here: Path) -> None:
    assert parse_source_name(f"{here}/layout:a/b:c") == LayoutName(f"{here}/layout", "a/b:c")


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("docker-daemon", "docker save x:1 | ociexport … -"),
        ("containers-storage", "podman save x:1 | ociexport … -"),
        ("ostree", "skopeo copy ostree:x:1 oci:DIR"),
    ],
)
def test_transports_that_are_not_there_are_named(prefix: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source_name(f"{prefix}:x:1")
    assert str(caught.value) == f"source '{prefix}:x:1': {prefix} is not supported"
    assert caught.value.hint == hint


@pytest.mark.parametrize("text", ["dir:d", "dir:./d:1", "dir:/x@y"])
def test_directories_of_skopeo_have_no_names_in_them(text: str) -> None:
    assert parse_source_name(text) == DirectoryName(text.removeprefix("dir:"))


def test_path_without_a_path_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source_name("oci::tag")
    assert str(caught.value) == "source ':tag': expected a path, got none"
    with pytest.raises(UsageError) as caught:
        parse_source_name("dir:")
    assert str(caught.value) == "source 'dir:': expected a path, got none"


def test_missing_layout_is_not_found() -> None:
    with pytest.raises(NotFoundError) as caught:
        open_source("./absent:1")
    assert str(caught.value) == "'./absent': expected an OCI layout, there is no such directory"


@given(st.text(max_size=40))
def test_any_text_is_a_source_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_source_name(text) == parse_source_name(text)
