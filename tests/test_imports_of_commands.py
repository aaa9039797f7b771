"""A command imports only what it needs; docs/about/performance.md, "Start-up", says what each module costs.

A module that a command does not need yet costs each of its runs, and nobody sees which change brought it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.spec.platforms import host_platform
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

PROJECT = Path(__file__).parent.parent
# Modules of others that take half a millisecond or more, with all that they import.
COSTLY = frozenset(
    {
        "argparse",
        "asyncio",
        "backports.zstd",
        "chardet",
        "charset_normalizer",
        "concurrent.futures",
        "csv",
        "ctypes",
        "dataclasses",
        "decimal",
        "difflib",
        "email",
        "getpass",
        "hashlib",
        "http.client",
        "http.cookiejar",
        "http.server",
        "idna",
        "importlib.metadata",
        "importlib.resources",
        "inspect",
        "isal",
        "json",
        "logging",
        "lzma",
        "magic",
        "multiprocessing",
        "pathlib",
        "pickle",
        "platform",
        "pprint",
        "random",
        "requests",
        "secrets",
        "shutil",
        "socket",
        "ssl",
        "subprocess",
        "tarfile",
        "tempfile",
        "tomllib",
        "tqdm",
        "unittest",
        "urllib.request",
        "urllib3",
        "uuid",
        "xml",
        "yaml",
        "zipfile",
    }
)
LOCAL = frozenset({"argparse", "hashlib", "json", "pathlib"})
# requests and what it needs: random, tempfile and so shutil come with the standard library's email and urllib. tomllib
# reads registries.conf, if there is one.
WIRE = frozenset(
    {
        "email",
        "http.client",
        "http.cookiejar",
        "logging",
        "lzma",
        "random",
        "requests",
        "shutil",
        "socket",
        "ssl",
        "tempfile",
        "tomllib",
        "urllib.request",
        "urllib3",
    }
)
# For temporary files, which take the place of layers that are read in another order.
SPOOL = frozenset({"lzma", "random", "shutil", "tempfile"})
# Each command: its words, the costly modules it may import, and how many modules of our own.
COMMANDS: dict[str, tuple[tuple[str, ...], frozenset[str], int]] = {
    "--version": (("--version",), frozenset(), 10),
    "--help": (("--help",), LOCAL - {"json", "hashlib"} | {"shutil", "lzma"}, 20),
    "pull": (("pull", "-q", "IMAGE", "--out", "OUT"), LOCAL | WIRE, 140),
    "pull again": (("pull", "-q", "IMAGE", "--out", "PULLED"), LOCAL | WIRE, 139),
    "unpack from a registry": (
        ("unpack", "-q", "IMAGE", "OUT"),
        LOCAL | WIRE | {"ctypes", "isal"},
        170,
    ),
    "unpack": (("unpack", "-q", "LAYOUT", "OUT"), LOCAL | {"ctypes", "isal"}, 126),
    "inspect": (("inspect", "LAYOUT"), LOCAL, 86),
    "verify": (("verify", "-q", "LAYOUT"), LOCAL | SPOOL | {"concurrent.futures", "logging"}, 136),
    "ls": (("ls", "LAYOUT"), LOCAL | SPOOL | {"isal"}, 116),
}
SCRIPT = """
import sys
from ociexport.system.ownership import own_process
from ociexport.cli.main import main
own_process()
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("imports")
    image = build_image([[member("a", b"1")]], platform=host_platform())
    write_layout(directory / "layout", {"1": image})
    with FakeRegistry() as registry:
        places = {"IMAGE": image.serve(registry, "app"), "LAYOUT": str(directory / "layout")}
        places["PULLED"] = str(directory / "pulled")
        _imports_of(("pull", "-q", places["IMAGE"], "--out", places["PULLED"]))
        yield places


def _imports_of(words: tuple[str, ...]) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    return set(ended.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_more_than_its_list(name: str, places: dict[str, str], tmp_path: Path) -> None:
    words, allowed, own = COMMANDS[name]
    imported = _imports_of(tuple(places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in words))
    # What Python itself imports in this environment does not count.
    before = set(_bare_python())
    costly = {module for module in imported - before if module in COSTLY}
    assert costly - allowed == set()
    assert len([module for module in imported if module.split(".")[0] == "ociexport"]) <= own


def _bare_python() -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return ended.stdout.split()
