"""Compose files: variables, ``.env``, profiles, include and extends.

Source: issue 18; compose-spec 12-interpolation.md, 14-include.md, 15-profiles.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.interpolation import interpolate, parse_env_file
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.parse import parse_list

VARIABLES = {"SET": "value", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a $SET ${SET}b", "a value valueb"),
        ("$$SET $${SET}", "$SET ${SET}"),
        ("${SET:-d} ${EMPTY:-d} ${NONE:-d}", "value d d"),
        ("${SET-d}|${EMPTY-d}|${NONE-d}", "value||d"),
        ("${SET:+r}|${EMPTY:+r}|${NONE:+r}", "r||"),
        ("${SET+r}|${EMPTY+r}|${NONE+r}", "r|r|"),
        ("${SET:?e} ${SET?e}|${EMPTY?e}", "value value|"),
        ("${NONE:-${EMPTY:-${SET}}}:1", "value:1"),
        ("${NONE:-a:b-c}", "a:b-c"),
        ("${NONE}|$NONE", "|"),
    ],
)
def test_variables(text: str, value: str) -> None:
    """compose-spec 12-interpolation.md."""
    assert interpolate(text, VARIABLES, {}) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE:?no one}", "variable NONE is required: 'no one'"),
        ("${EMPTY:?}", "variable EMPTY is required: 'it is not set'"),
        ("${NONE?}", "variable NONE is required: 'it is not set'"),
        ("${SET", "variables: expected '}' at the end, got '${SET'"),
        ("${1}", "variables: expected a name in '${…}', got '1'"),
        ("$ x", "variables: expected a name after '$', got '$ x'"),
        ("${SET/a/b}", "variables: expected one of :- :? :+ - ? + after SET, got '/a/b'"),
        ("${A:-" * 30 + "}" * 30, "variables: expected defaults at most 20 deep in each other, got deeper ones"),
    ],
)
def test_wrong_variables(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        interpolate(text, VARIABLES, {})
    assert str(caught.value) == message


def test_env_file() -> None:
    """docs.docker.com, "Syntax for environment files"."""
    text = """
# comment
A=1 # comment
export B="two $A\\n\\$x" # comment
C='$A # no comment'
D=${A}-${OUTER}
E:3
F=a#b
OUTER
"""
    assert parse_env_file(text, {"OUTER": "o"}, ".env") == {
        "A": "1", "B": "two 1\n$x", "C": "$A # no comment", "D": "1-o", "E": "3", "F": "a#b", "OUTER": "o",
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"^\.env:2: expected a closing quote, got the end of the line$"):
        parse_env_file("A=1\nB='x", {}, ".env")


def compose(directory: Path, text: str, *profiles: str, **environment: str) -> ImageList:
    (directory / "compose.yaml").write_text(text)
    return parse_list(
        text.encode(), str(directory / "compose.yaml"), directory=str(directory), profiles=profiles,
        environment=environment,
    )  # fmt: skip


def lines(found: ImageList) -> list[str]:
    return [*map(to_line, found.sure), *(f"? {to_line(entry)}" for entry in found.maybes)]


def test_env_file_gives_way_to_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=from-file\nB=from-file\n")
    text = "services:\n a: {image: 'a:$A'}\n b: {image: 'b:$B'}\n"
    assert lines(compose(tmp_path, text, A="from-environment")) == ["a:from-environment", "b:from-file"]


SERVICES = """services:
  web: {image: "web:1", platform: linux/arm64}
  built: {image: "built:1", build: .}
  source: {build: {context: ., additional_contexts: {base: "docker-image://base:1"}}}
  debug: {image: "debug:1", profiles: [debug, all]}
  test: {image: "test:1", profiles: [test]}
  data: {image: "d:1", volumes: ["a:/b", {type: image, source: "vol:1", target: /v}]}
  nothing: {command: x, imagee: y}
models: {llm: {model: ai/small}}
surprise: {}
x-own: {image: ignored}
"""


def test_services(tmp_path: Path) -> None:
    found = compose(tmp_path, SERVICES, COMPOSE_PROFILES="test")
    assert lines(found) == [
        "web:1 platform=linux/arm64", "test:1", "d:1", "vol:1", "? built:1", "? base:1", "? ai/small",
    ]  # fmt: skip
    assert [line.removeprefix(f"{tmp_path}/") for line in found.warnings] == [
        "compose.yaml:10: surprise: not understood, ignored",
        "compose.yaml:4: services.source.build: left out: the service is built from source and names no image",
        "compose.yaml:5: services.debug: left out: none of its profiles ('debug', 'all') is active, --profile makes "
        "one active",
        "compose.yaml:8: services.nothing.imagee: not understood, ignored",
        "compose.yaml:8: services.nothing: expected an image or a build, there is neither",
    ]
    assert "debug:1" in lines(compose(tmp_path, SERVICES, "debug"))
    assert {"debug:1", "test:1"} <= set(lines(compose(tmp_path, SERVICES, "*")))


def test_include_and_extends(tmp_path: Path) -> None:
    sub = tmp_path / "sub"
    sub.mkdir()
    (sub / ".env").write_text("TAG=sub\nOUTER=sub\n")
    (sub / "a.yaml").write_text("services: {a: {image: 'a:$TAG'}, o: {image: 'o:$OUTER'}}\n")
    (sub / "b.yaml").write_text("services: {b: {image: 'b:${OTHER:-0}'}}\n")
    (tmp_path / "other.env").write_text("OTHER=7\n")
    (tmp_path / ".env").write_text("OUTER=top\n")
    (tmp_path / "base.yaml").write_text("services: {base: {extends: {service: root}}, root: {image: 'root:1'}}\n")
    found = compose(
        tmp_path,
        "include:\n- sub/a.yaml\n- {path: [sub/b.yaml], env_file: other.env}\n- oci://r.example/x\n"
        "services:\n  one: {extends: {file: base.yaml, service: base}}\n  two: {extends: {service: one}, command: x}\n",
    )
    assert lines(found) == ["a:sub", "o:top", "b:7", "root:1"]
    assert [line.removeprefix(f"{tmp_path}/") for line in found.warnings] == [
        "compose.yaml:4: include[2]: oci://r.example/x is left out: only files are read"
    ]


def test_variables_are_replaced_once(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TAG=1$$2\n")
    found = compose(tmp_path, "services: {a: {image: 'a:$TAG'}, b: {image: 'b:$$TAG'}}\n")
    assert lines(found) == []
    assert [line.partition("got ")[2] for line in found.warnings] == ["'1$2'", "'$TAG'"]


def test_profiles_of_the_env_file_are_active(tmp_path: Path) -> None:
    """docs.docker.com, "Set or change pre-defined environment variables": the process's own takes precedence."""
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=debug\n")
    assert "debug:1" in lines(compose(tmp_path, SERVICES))
    assert "debug:1" not in lines(compose(tmp_path, SERVICES, COMPOSE_PROFILES=""))


def test_an_extended_service_gives_its_platform(tmp_path: Path) -> None:
    found = compose(tmp_path, "services: {a: {image: 'a:1', platform: linux/arm64}, b: {extends: a, image: 'b:1'}}\n")
    assert lines(found) == ["a:1 platform=linux/arm64", "b:1 platform=linux/arm64"]


def test_the_tags_of_compose(tmp_path: Path) -> None:
    """compose-spec 13-merge.md: what has !reset counts as not given."""
    text = "services:\n  a: {image: !reset null, build: !reset {context: .}}\n  b: {image: !override 'b:1'}\n"
    found = compose(tmp_path, f"{text}  c: {{image: 'c:1', profiles: !reset []}}\n")
    assert lines(found) == ["b:1", "c:1"]
    assert [line.removeprefix(f"{tmp_path}/") for line in found.warnings] == [
        "compose.yaml:2: services.a: expected an image or a build, there is neither"
    ]


def test_a_file_that_overrides_is_named(tmp_path: Path) -> None:
    """docker compose reads it too, if no file is named to it."""
    (tmp_path / "compose.override.yml").write_text("services: {a: {image: 'a:2'}}\n")
    found = compose(tmp_path, "services: {a: {image: 'a:1'}}\n")
    assert lines(found) == ["a:1"]
    assert [line.removeprefix(f"{tmp_path}/") for line in found.warnings] == [
        "compose.yaml:1: compose.override.yml beside it is not read, docker compose config makes one file of both"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: [compose.yaml]\n",
         "compose.yaml:1: include[0]: expected another file, got 'compose.yaml', which leads to itself"),
        ("include: [none.yaml]\n", "compose.yaml:1: include[0]: can't read 'none.yaml': No such file or directory"),
        ("services: {a: {extends: a}}\n", "compose.yaml:1: services.a.extends: expected another service to extend, got 'a'"),  # noqa: E501
        ("services: {a: {extends: b}}\n", "compose.yaml:1: services.a.extends: expected another service to extend, got 'b'"),  # noqa: E501
        ("services: {a: {image: 'x:${T:?set T}'}}\n", "compose.yaml:1: services.a.image: variable T is required: 'set T'"),  # noqa: E501
    ],
)  # fmt: skip
def test_wrong_compose_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(tmp_path, text)
    assert str(caught.value).replace(f"{tmp_path}/", "") == message


def test_a_list_that_is_no_file_leads_to_no_files() -> None:
    found = parse_list(b"include: [a.yaml]\nservices: {a: {image: a}}\n", "standard input", environment={})
    assert lines(found) == ["a"]
    assert list(found.warnings) == [
        "standard input:1: include[0]: a.yaml is left out: the list is no file, so it can't lead to files"
    ]
