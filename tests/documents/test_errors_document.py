"""docs/guide/errors.md lists each class and code, and each example is the command's real output.

``python -m tests.documents.test_errors_document`` rewrites the examples.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport import errors
from ociexport.cli import exit_codes
from ociexport.cli.exit_codes import exit_code_of
from ociexport.errors import OciexportError
from ociexport.spec.descriptor import Platform
from tests.support.command import command_environment, command_line
from tests.support.document_blocks import PROJECT
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.signing import pem_of

_DOCUMENT = PROJECT / "docs" / "guide" / "errors.md"
_EXAMPLE = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.M | re.S)
_PROGRAM = f"{sys.executable} -W error -m ociexport"
ONE = build_image([[member("etc/hostname", b"one\n")]])
ARM = build_image([[member("etc/hostname", b"arm\n")]], platform=Platform("linux", "arm64"))
APP = build_index([ONE, ARM])
HOSTILE = build_image([[member("../outside", b"x")]])


def all_classes(kind: type[OciexportError] = OciexportError) -> Iterator[type[OciexportError]]:
    yield kind
    for derived in kind.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from all_classes(derived)


def test_each_class_is_in_the_catalogue_with_its_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", _DOCUMENT.read_text(), re.M)
    assert {name: int(code) for name, code in rows} == {kind.__name__: exit_code_of(kind("")) for kind in all_classes()}
    assert len(rows) == len(set(all_classes()))


def test_each_code_is_in_the_catalogue() -> None:
    cells = re.findall(r"^\| (\d+(?:, \d+)?) \|", _DOCUMENT.read_text(), re.M)
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for cell in cells for code in cell.split(", ")} == codes


@contextmanager
def scene(directory: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a place where the document's commands fail as shown."""
    with ExitStack() as stack:
        served = {
            "docker.io": FakeRegistry(),
            "registry.example": FakeRegistry(),
            "private.example": FakeRegistry(auth="basic", users={"alice": "secret"}),
            "busy.example": FakeRegistry(),
            "altered.example": FakeRegistry(),
            "broken.example": FakeRegistry(),
            "old.example": FakeRegistry(),
        }
        for registry in served.values():
            stack.enter_context(registry)
            for tag in ("1", "latest"):
                APP.serve(registry, "team/app", tag)
            ONE.serve(registry, "library/debian", "12")
        limits = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}
        served["busy.example"].misbehave("/manifests/", Fault(status=429, headers=limits))
        served["altered.example"].misbehave("/blobs/", Fault(change=lambda body: body[:-1] + b"?"))
        served["broken.example"].misbehave("/manifests/", Fault(cut_after=20))
        served["old.example"].misbehave("/tags/", Fault(status=405))
        hosts = {name: registry.host for name, registry in served.items()} | {"down.example": "127.0.0.1:1"}
        entry = '[[registry]]\nprefix = "{}"\nlocation = "{}"\ninsecure = true\n'
        (directory / "registries.conf").write_text("".join(entry.format(*item) for item in hosts.items()))
        write_layout(directory / "layout", {"team/app:1": ONE, "team/app:2": ARM})
        write_layout(directory / "damaged", {"1": ONE})
        (directory / "damaged" / "blobs" / "sha256" / ONE.layers[0].digest.encoded).write_bytes(
            b"x" * ONE.layers[0].size
        )
        write_layout(directory / "hostile", {"1": HOSTILE})
        (directory / "used").mkdir()
        (directory / "used" / "mine").touch()
        (directory / "notes.tar").write_text("no tar at all\n")
        (directory / "odd.toml").write_text("jbs = 3\n")
        (directory / "cosign.pub").write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
        yield {
            **command_environment(directory, CONTAINERS_REGISTRIES_CONF=str(directory / "registries.conf")),
            "DOCKER_DEFAULT_PLATFORM": "linux/amd64",
            "OCIEXPORT_RETRY_TIMES": "0",
            **{f"REAL_{name}": host for name, host in hosts.items()},
        }


def told(command: str, directory: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Return the exit code of a command, and its error with the names that the document shows."""
    ended = subprocess.run(
        ["bash", "-c", command.replace("ociexport ", f"{_PROGRAM} ", 1)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith(("ociexport: error: ", "hint: "))]
    text = "".join(f"{line}\n" for line in (ended.stdout if not lines else "").splitlines() + lines)
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", text.replace(str(directory.resolve()), "/home/alice"))
    for name, host in environment.items():
        text = text.replace(f"http://{host}", f"https://{name.removeprefix('REAL_')}") if "REAL_" in name else text
        text = text.replace(host, name.removeprefix("REAL_")) if "REAL_" in name else text
    return ended.returncode, text


def sections() -> list[tuple[int, list[str]]]:
    """Return the exit code and the commands of each section of examples."""
    text = _DOCUMENT.read_text()
    found = re.findall(r"^### (\d+): [^\n]+\n\n```console\n(.*?)^```$", text, re.M | re.S)
    return [(int(code), re.findall(r"^\$ (.*)$", block, re.M)) for code, block in found]


def rewritten(directory: Path) -> str:
    """Return the document with the commands' current output."""
    blocks = []
    with scene(directory) as environment:
        for code, commands in sections():
            examples = []
            for command in commands:
                real, text = told(command, directory, environment)
                assert real == code, (command, real, text)
                examples.append(f"$ {command}\n{text}")
            blocks.append("\n".join(examples))
    remaining = iter(blocks)
    return _EXAMPLE.sub(lambda match: next(remaining), _DOCUMENT.read_text())


def test_each_example_is_what_the_command_says(tmp_path: Path) -> None:
    assert rewritten(tmp_path) == _DOCUMENT.read_text(), (
        "run python -m tests.documents.test_errors_document, and read what changed"
    )


def test_each_code_that_a_failure_has_is_shown() -> None:
    assert {code for code, _ in sections()} == set(range(1, 11))


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_the_command_with_one_line(tmp_path: Path, number: signal.Signals, code: int, line: str) -> None:
    with FakeRegistry() as registry:
        reference = ONE.serve(registry, "team/app", "1")
        registry.misbehave("/blobs/", Fault(stall_after=10, delay_seconds=3))
        process = subprocess.Popen(
            command_line("pull", reference, "--out", tmp_path / "layout", "--platform=linux/amd64", "-q"),
            env=command_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            while not [path for path in registry.paths("GET") if "/blobs/" in path]:
                assert process.poll() is None
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"ociexport: error: {line}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        _DOCUMENT.write_text(rewritten(Path(place)))
