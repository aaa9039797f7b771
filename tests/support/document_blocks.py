"""The commands that a document shows, run as a reader runs them, with stand-ins for the public images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import command_environment
from tests.support.stand_ins import PUBLIC_KEY, Images, configuration_for, free_port, served_images, stand_ins

PROJECT = Path(__file__).parent.parent.parent
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_HEADING = re.compile(r"^#+ (.+)$", re.M)
# The address at which servers listen in documents; it is replaced by a free port.
_SHOWN_ADDRESS = "127.0.0.1:5000"

# The differences from a reader's shell. A server runs in the background, and listens once its address is printed.
# docker is podman; podman and buildah have their own store. make is a dry run, since it would run the tests.
_PREAMBLE = r"""
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "${store:-}"' EXIT
ociexport() {
    if [ "$1" != serve ]; then command ociexport "$@"; return; fi
    rm -f serve.address; mkfifo serve.address
    command ociexport "$@" >serve.address & read -r _ <serve.address; rm serve.address
}
podman() {
    store=${store:-$(mktemp -d)}
    command podman --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"
}
docker() { podman "$@"; }
buildah() {
    store=${store:-$(mktemp -d)}
    command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"
}
make() { command make --dry-run --directory "$PROJECT" "$@" >/dev/null; }
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Args:
        heading: the nearest heading above it.
        language: what follows the fence.
    """

    document: Path
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}: {self.heading}"


def blocks_of(document: str, *languages: str, heading: str | None = None) -> list[Block]:
    """Return the blocks of a document of the project that are in one of ``languages``, in order.

    Args:
        heading: only blocks directly under this heading.
    """
    path = PROJECT / document
    text = path.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        headings = _HEADING.findall(_FENCE.sub("", text[: fence.start()]))
        found.append(Block(path, headings[-1], fence[1], fence[2]))
    return [block for block in found if block.language in languages and heading in (None, block.heading)]


class Workplace:
    """A directory in which the commands of documents are run."""

    def __init__(self, directory: Path, environment: Mapping[str, str], port: int) -> None:
        self.directory = directory
        self.environment = dict(environment)
        self._port = port

    def run(self, block: Block, *, directory: Path | None = None) -> str:
        """Run a block in ``sh`` or ``python`` that must succeed; return its output.

        Args:
            directory: where to run it; None for this workplace.
        """
        text = block.text.replace(_SHOWN_ADDRESS, f"127.0.0.1:{self._port}")
        command = ["bash", "-c", _PREAMBLE + text] if block.language == "sh" else [sys.executable, "-c", text]
        ended = subprocess.run(
            command,
            cwd=directory or self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, f"{block}: exit {ended.returncode}\n{text}\n{ended.stdout}"
        return ended.stdout


@contextmanager
def workplace(
    directory: Path,
    *,
    images: Images | None = None,
    through: Callable[[str], AbstractContextManager[str]] = nullcontext,
    **variables: str,
) -> Iterator[Workplace]:
    """Yield a workplace with ``ociexport`` on PATH, where the public images are served by this machine.

    Args:
        images: the images to serve; None for `stand_ins`.
        through: returns the address through which a server is reached, from the server's own address.
        variables: added to the environment.
    """
    home, programs = directory / "home", directory / "programs"
    for path in (home, programs, directory / "work"):
        path.mkdir(parents=True)
    (directory / "work" / "cosign.pub").write_bytes(PUBLIC_KEY)
    program = programs / "ociexport"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -W error -m ociexport "$@"\n')
    program.chmod(0o755)
    with served_images(directory / "images", images or stand_ins()) as server, through(server) as address:
        configuration = directory / "registries.conf"
        configuration.write_text(configuration_for(address))
        environment = command_environment(
            home,
            PATH=f"{programs}:{os.environ['PATH']}",
            PYTHONPATH=str(PROJECT),
            PROJECT=str(PROJECT),
            CONTAINERS_REGISTRIES_CONF=str(configuration),
            **variables,
        )
        yield Workplace(directory / "work", environment, free_port())
