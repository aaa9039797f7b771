"""`unpack --list`: the directory is an argument or that of --into, and both do the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.cli.main import main
from ociexport.rootfs.treehash import hash_tree
from tests.support.command import clear_foreign_variables
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_image, write_layout
from tests.support.memory_source import member
from tests.support.signing import pem_of, signature_of, tag_of

ONE = build_image([[member("one")]], platform=AMD64)
TWO = build_image([[member("two")]], platform=AMD64)
FORMS = {"argument": [], "--into": ["--into"]}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clear_foreign_variables(monkeypatch, tmp_path)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        ONE.serve(registry, "a", "1")
        ONE.serve(registry, "a", "same")
        TWO.serve(registry, "b", "1")
        Path("list").write_text("".join(f"{registry.host}/{name}\n" for name in ("a:1", "a:none", "a:same", "b:1")))
        yield registry


def failed() -> list[str]:
    """Return the images that are in the list of failures, without their host."""
    lines = Path("failed.txt").read_text().splitlines()
    return [line.partition("/")[2] for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("form", FORMS)
def test_each_image_has_a_directory_and_a_name_of_the_same_image_is_a_link(
    form: str, registry: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", "--list", "list", *FORMS[form], "trees", "--rootless", "--json"]) == 3
    out, err = capsys.readouterr()
    host = registry.host.replace(":", "+")
    first, same, other = (Path("trees", f"{host}+{name}") for name in ("a+1", "a+same", "b+1"))
    assert sorted(Path("trees").iterdir()) == [first, same, other]
    assert os.readlink(same) == first.name
    assert [path.name for path in other.iterdir()] == ["two"]
    printed = [json.loads("{" + text) for text in f"\n{out}".split("\n{")[1:]]
    assert [one["manifestDigest"] for one in printed] == [str(image.digest) for image in (ONE, ONE, TWO)]
    assert [one["rootfs"] for one in printed] == [str(path.absolute()) for path in (first, same, other)]
    assert printed[1]["sameAs"] == str(first.absolute())
    assert len([line for line in err.splitlines() if "a:none" in line]) == 1
    assert [line for line in Path("failed.txt").read_text().splitlines() if line[0] != "#"] == [
        f"{registry.host}/a:none"
    ]


@pytest.mark.parametrize("form", FORMS)
def test_each_manifest_is_requested_once(form: str, registry: FakeRegistry) -> None:
    """Registries limit how many manifests a user may fetch."""
    Path("list").write_text(f"{registry.host}/a:1\n{registry.host}/b:1\n")
    assert main(["unpack", "--list", "list", *FORMS[form], "trees", "--rootless", "-q"]) == 0
    asked = [request.path for request in registry.requests if "/manifests/" in request.path]
    assert sorted(asked) == ["/v2/a/manifests/1", "/v2/b/manifests/1"]


@pytest.mark.parametrize("form", FORMS)
def test_images_of_a_layout_are_taken_by_name(form: str) -> None:
    write_layout("layout", {"x.example/a:1": ONE, "x.example/b:1": TWO})
    Path("list").write_text("x.example/a:1\nx.example/b:1\n")
    assert main(["unpack", "./layout", "--list", "list", *FORMS[form], "trees", "--rootless"]) == 0
    assert main(["unpack", "./layout:x.example/b:1", "alone", "--rootless"]) == 0
    assert hash_tree("trees/x.example+b+1", mtimes=True) == hash_tree("alone", mtimes=True)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_whose_directory_another_has_is_one_failure(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not end the list."""
    write_layout("one", {"1": ONE})
    write_layout("two", {"1": TWO, "2": TWO})
    Path("list").write_text("./one:1\n./two:1\n./two:2\n")
    assert main(["unpack", "--list", "list", *FORMS[form], "trees", "--rootless"]) == 2
    assert "error: ./two:1: expected a directory of its own, ./one:1 has it\n" in capsys.readouterr().err
    names = [f"docker.io+library+{number}+latest" for number in (1, 2)]
    assert sorted(os.listdir("trees")) == names
    assert os.listdir(f"trees/{names[0]}") == ["one"]


def test_a_directory_beside_into_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list").write_text("./layout:1\n")
    assert main(["unpack", "./layout", "trees", "--list", "list", "--into", "others"]) == 2
    assert "--into: expected no second directory beside it, got one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["trees"], ["--into", "trees"], ["--layers-dir", "layers"]], ids=lambda words: words[0]
)
def test_each_image_must_be_signed(
    words: list[str], registry: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under each name: another repository may hold the same image without its signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    Path("cosign.pub").write_bytes(pem_of(key))
    signature_of(ONE, key).serve(registry, "a", tag_of(ONE))
    ONE.serve(registry, "unsigned", "1")
    Path("list").write_text("".join(f"{registry.host}/{name}\n" for name in ("a:1", "a:same", "unsigned:1", "b:1")))
    assert main(["unpack", "--list", "list", *words, "--rootless", "--verify-key", "cosign.pub"]) == 7
    assert failed() == ["unsigned:1", "b:1"]
    assert capsys.readouterr().err.count("expected a signature by the key") == 2


def test_keys_do_not_leave_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cosign.pub").write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    Path("list").write_text("./layout:1\n")
    words = ["--list", "list", "--into", "trees", "--executor", "processes:1", "--verify-key", "cosign.pub"]
    assert main(["unpack", *words]) == 2
    assert "--executor: expected no --verify-key beside it, which stays on this machine" in capsys.readouterr().err
