"""A command imports only what it needs; docs/about/performance.md, "Start-up", says what each module costs.

A module that a command does not need yet costs each of its runs, and nobody sees which change brought it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
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
        "bz2",
        "calendar",
        "chardet",
        "charset_normalizer",
        "concurrent.futures",
        "csv",
        "ctypes",
        "datetime",
        "dataclasses",
        "decimal",
        "difflib",
        "email",
        "encodings.idna",
        "getpass",
        "gettext",
        "hashlib",
        "hmac",
        "http.client",
        "http.cookiejar",
        "http.cookies",
        "http.server",
        "idna",
        "importlib.metadata",
        "importlib.resources",
        "inspect",
        "ipaddress",
        "isal",
        "json",
        "locale",
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
        "stringprep",
        "subprocess",
        "tarfile",
        "tempfile",
        "textwrap",
        "tomllib",
        "tqdm",
        "traceback",
        "typing",
        "unittest",
        "urllib.request",
        "urllib3",
        "uuid",
        "xml",
        "yaml",
        "zipfile",
    }
)
LOCAL = frozenset({"argparse", "hashlib", "json", "pathlib", "typing"})
# requests and what it needs. tomllib reads registries.conf, if there is one.
WIRE = frozenset(
    {
        "email",
        "http.client",
        "http.cookiejar",
        "ipaddress",
        "requests",
        "socket",
        "ssl",
        "tomllib",
        "urllib3",
    }
)
# What comes with concurrent.futures.
LOGGING = frozenset({"logging", "textwrap", "traceback"})
# Each command: its words, the costly modules it may import, how many modules of our own, and how many patterns it may
# compile.
COMMANDS: dict[str, tuple[tuple[str, ...], frozenset[str], int, int]] = {
    "--version": (("--version",), frozenset(), 10, 0),
    "--help": (("--help",), LOCAL - {"json", "hashlib"} | {"bz2", "lzma", "shutil", "textwrap"}, 20, 20),
    "pull": (("pull", "-q", "IMAGE", "--out", "OUT"), LOCAL | WIRE, 136, 45),
    "pull again": (("pull", "-q", "IMAGE", "--out", "PULLED"), LOCAL | WIRE, 135, 45),
    "unpack from a registry": (("unpack", "-q", "IMAGE", "OUT"), LOCAL | WIRE | {"ctypes", "isal"}, 165, 45),
    "unpack": (("unpack", "-q", "LAYOUT", "OUT"), LOCAL | {"ctypes", "isal"}, 127, 25),
    "push": (("push", "-q", "LAYOUT", "TARGET"), LOCAL | WIRE, 141, 45),
    "inspect": (("inspect", "LAYOUT"), LOCAL, 81, 25),
    "verify": (("verify", "-q", "LAYOUT"), LOCAL | LOGGING | {"concurrent.futures", "datetime"}, 135, 25),
    "ls": (("ls", "LAYOUT"), LOCAL | {"datetime", "isal"}, 117, 25),
}
SCRIPT = """
import re._compiler, sys
from ociexport.system.ownership import own_process
from ociexport.cli.main import main
own_process()
patterns = []
compile_now = re._compiler.compile
re._compiler.compile = lambda *arguments: patterns.append(1) or compile_now(*arguments)
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
print(len(patterns), file=sys.stderr)
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
        places["TARGET"] = f"{registry.host}/pushed:1"
        _imports_of(("pull", "-q", places["IMAGE"], "--out", places["PULLED"]))
        yield places


def _run(script: str, *words: str) -> list[str]:
    """Run a script without what an environment's own ``.pth`` files import; return the words that it printed."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", script, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": sysconfig.get_path("purelib")},
    )
    return ended.stderr.split()


def _imports_of(words: tuple[str, ...]) -> tuple[set[str], int]:
    """Return the modules that a command imports, and how many patterns it compiles."""
    *modules, patterns = _run(SCRIPT, *words)
    return set(modules), int(patterns)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_more_than_its_list(name: str, places: dict[str, str], tmp_path: Path) -> None:
    words, allowed, own, most_patterns = COMMANDS[name]
    imported, patterns = _imports_of(
        tuple(places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in words)
    )
    # What Python itself imports does not count.
    before = set(_run("import re, sys; print(*sys.modules, file=sys.stderr)"))
    costly = {module for module in imported - before if module in COSTLY}
    assert costly - allowed == set()
    assert len([module for module in imported if module.split(".")[0] == "ociexport"]) <= own
    assert patterns <= most_patterns
