"""Forms of lists that few files have: newer fields, other encodings, unmade templates. Each is read, or named.

Source: issue 18, "A field that is not understood is named, never dropped in silence".
"""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import UsageError
from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.parse import parse_list


def parsed(text: str | bytes, file: str = "list") -> ImageList:
    return parse_list(text.encode() if isinstance(text, str) else text, file, environment={})


def lines(found: ImageList) -> list[str]:
    """Return the sure images as lines of a plain list, and the maybes behind a question mark."""
    return [*map(to_line, found.sure), *(f"? {to_line(entry)}" for entry in found.maybes)]


REGSYNC = "sync: [{source: r.example/a, target: x, type: repository, %s}]\n"
ZARF = "kind: ZarfPackageConfig\napiVersion: zarf.dev/v1beta1\ncomponents:\n- {name: a, %s}\n"
SERVICE = "services:\n  a: {%s}\n"


@pytest.mark.parametrize(
    ("text", "images", "warnings"),
    [
        (
            REGSYNC % 'tagSets: [{allow: ["1"]}, {semverRange: [">=2"], deny: ["3.*"]}]',
            ["r.example/a tags=re:^(?:1)$", "r.example/a tags=!re:^(?:3.*)$ semver=>=2"],
            [],
        ),
        (
            REGSYNC % 'tags: {allow: ["1"]}, tagSets: [{deny: ["2"], weird: 1}]',
            ["r.example/a tags=re:^(?:1)$", "r.example/a tags=!re:^(?:2)$"],
            ["list:1: sync[0].tagSets[0].weird: not understood, ignored"],
        ),
        (REGSYNC % "tagSets: []", ["r.example/a tags=all"], []),
        (
            "sync: [{source: a, target: x}]\n",
            [],
            ["list:1: sync[0].source: left out: only a source of type image or repository is read, this is of no type"],
        ),
        (ZARF % "images: [{name: a:1}, {name: b:1, source: registry}]", ["a:1", "b:1"], []),
        (
            ZARF % "images: [{name: a:1, source: daemon}, {nam: c}]",
            [],
            [
                "list:4: components[0].images[0]: left out: zarf takes it from no registry",
                "list:4: components[0].images[1]: expected an image, got a mapping, left out",
            ],
        ),
        (
            ZARF % "target: {architecture: arm64}, images: [{name: a:1}], repositories: [x]",
            ["a:1 platform=linux/arm64"],
            ["list:4: components[0].repositories: ignored: what it leads to may name more images"],
        ),
        (
            "kind: ZarfComponentConfig\napiVersion: zarf.dev/v1beta1\ncomponent: {images: [{name: a:1}]}\n",
            ["a:1"],
            [],
        ),
        (SERVICE % "provider: {type: model, options: {model: ai/small}}", ["? ai/small"], []),
        (
            SERVICE % "provider: {type: awesomecloud, options: {type: mysql}}",
            [],
            ["list:2: services.a.provider: left out: another program runs the service, which names no image"],
        ),
        (SERVICE % "image: [x]", [], ["list:2: services.a.image: expected an image, got a list, left out"]),
        (
            SERVICE % "image: '$NONE'",
            [],
            [
                "list:2: services.a.image: left out: it is empty once its variables are replaced",
                "list:2: services.a.image: variable NONE is not set and has no default, it counts as empty",
            ],
        ),
    ],
)
def test_seldom_fields(text: str, images: list[str], warnings: list[str]) -> None:
    found = parsed(text)
    assert lines(found) == images
    assert list(found.warnings) == warnings


def test_a_service_that_extends_one_without_an_image_is_named(tmp_path: Path) -> None:
    text = "services: {a: {extends: b}, b: {command: x}}\n"
    found = parse_list(text.encode(), "compose", directory=str(tmp_path), environment={})
    assert [line for line in found.warnings if "services.a" in line] == [
        "compose:1: services.a: expected an image or a build, there is neither"
    ]


@pytest.mark.parametrize("key", ["platform=linux/amd64", "semver=1", "newest=2"])
def test_an_option_that_is_given_twice_is_named(key: str) -> None:
    """The second would take the place of the first in silence."""
    with pytest.raises(UsageError, match=f"^list:2: expected {key.partition('=')[0]}= once, got it twice$"):
        parsed(f"a:1\nb {key} {key}\n")


@pytest.mark.parametrize("line", ["a: {{ .Values.b }}\n", "a: b\n{{- if .Values.c }}\nc: d\n{{- end }}\n"])
def test_a_template_that_is_no_yaml_yet_has_a_hint(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(f"apiVersion: v1\nkind: Pod\n{line}")
    assert caught.value.hint == "helm template makes YAML of it"


LINES = "# images\r\nalpine:3  # a\r\n\r\nquay.io/b/c:1 platform=linux/arm64\r\n"
ENCODINGS = {
    "UTF-8": b"",
    "UTF-8 with a mark": codecs.BOM_UTF8,
    "UTF-16-LE": codecs.BOM_UTF16_LE,
    "UTF-16-BE": codecs.BOM_UTF16_BE,
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("text", [LINES, "services:\r\n  a: {image: 'alpine:3'}\r\n", '["alpine:3"]'])
def test_files_that_other_systems_write(tmp_path: Path, name: str, text: str) -> None:
    """PowerShell writes UTF-16 for ``docker images … > images.txt``."""
    raw = ENCODINGS[name] + text.encode(name.partition(" ")[0])
    assert lines(parsed(raw))[0] == "alpine:3"
    (tmp_path / "list").write_bytes(raw)
    assert main(["images", str(tmp_path / "list"), "-q"]) == 0


@pytest.mark.parametrize("raw", [codecs.BOM_UTF16_LE + b"a", "a:1".encode("utf-16-le"), "a:1".encode("utf-32")])
def test_other_encodings_are_refused(raw: bytes) -> None:
    with pytest.raises(UsageError, match=r"^list(:\d)?: expected a list "):
        parsed(raw)
