"""The house: imports point downward only, from room to room, and each effect has one door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "ociexport"
MODULES = sorted(path.relative_to(PROJECT) for path in PACKAGE.rglob("*.py"))

# Lowest first. Rooms on one line do not import each other.
FLOORS = (
    "errors",
    "spec",
    "system",
    "images",
    "layers",
    "storage",
    "registry",
    "transfer",
    "rootfs inspection verification",
    "cli",
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# Of `transfer`, the rooms above it may only ask what a name means; pull() is not for them.
ONLY_SOURCES = ("rootfs", "inspection", "verification")
# Not a room: the package's own files.
DOORSTEP = ("__init__", "__main__")


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules that are imported anywhere in a file, within functions too."""
    for node in ast.walk(ast.parse((PROJECT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports_of(path: Path) -> set[str]:
    """Return the modules of ours that a file imports."""
    known = {module_name(module) for module in MODULES if module.stem != "__init__"}
    return {name for name in imports_of(path) if name in known}


def room_of(name: str) -> str:
    return name.split(".")[1]


def may_import(room: str, name: str) -> bool:
    other = room_of(name)
    if room in ONLY_SOURCES and other == "transfer":
        return name.startswith("ociexport.transfer.sources.")
    return room == other or FLOOR_OF[other] < FLOOR_OF[room]


def test_the_package_is_its_rooms() -> None:
    """HOUSE: what lies at the top reads as the architecture."""
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*FLOOR_OF, *DOORSTEP, "py.typed"}


def test_the_map_shows_every_room() -> None:
    drawn = (
        (PROJECT / "docs/developing/architecture.md").read_text().partition("```\nociexport/\n")[2].partition("```")[0]
    )
    lines = [line for line in drawn.splitlines() if line.startswith("  ") and line[2:3].strip()]
    names = [line.split()[0].removesuffix("/").removesuffix(".py") for line in lines]
    assert [name for name in names if name in FLOOR_OF] == list(FLOOR_OF)


def test_imports_point_downward() -> None:
    upward = [
        f"{path} imports {name}"
        for path in MODULES
        if path.stem not in DOORSTEP
        for name in sorted(own_imports_of(path))
        if not may_import(room_of(module_name(path)), name)
    ]
    assert upward == []


def test_no_circles_within_a_room() -> None:
    """Imports within functions count: none is there to break a circle."""
    TopologicalSorter({module_name(path): own_imports_of(path) for path in MODULES}).prepare()


@pytest.mark.parametrize(
    ("foreign", "door"),
    [
        (("requests", "urllib3"), "ociexport.registry"),
        (("tqdm",), "ociexport.system.progress.display"),
        (("magic", "pylibmagic"), "ociexport.errors"),
        (("isal",), "ociexport.system.compression ociexport.system.block_compression"),
        (("backports", "compression"), "ociexport.system.zstd"),
        (("cryptography",), "ociexport.images.keys"),
        (("yaml",), "ociexport.transfer.lists.yaml_nodes"),
        (("s3fs", "fsspec", "botocore", "aiobotocore", "aiohttp"), "ociexport.storage.s3.bucket"),
        (("argparse",), "ociexport.cli"),
    ],
)
def test_each_part_has_one_door(foreign: tuple[str, ...], door: str) -> None:
    """STYLE: one door for each effect; isal has one for reading and one for writing."""
    users = {module_name(path) for path in MODULES if any(name.split(".")[0] in foreign for name in imports_of(path))}
    doors = tuple(f"{name}." for name in door.split())
    assert [name for name in sorted(users) if not f"{name}.".startswith(doors)] == []


# What `lazy_dataclass` does not know: an order, and values that are kept beside the fields.
USERS_OF_DATACLASSES = {
    "ociexport.spec.lazy_dataclass",
    "ociexport.verification.changes",
    "ociexport.verification.listed",
}


def test_dataclasses_are_the_lazy_ones() -> None:
    """Start-up: the standard library's cost a fifth of the time of a small command."""
    users = {module_name(path) for path in MODULES if "dataclasses" in imports_of(path)}
    assert users == USERS_OF_DATACLASSES


def test_named_tuples_are_the_quick_ones() -> None:
    """Start-up: those of typing cost two milliseconds of a pull."""
    users = {module_name(path) for path in MODULES if "typing.NamedTuple" in imports_of(path)}
    assert users == {"ociexport.spec.named_tuple"}


def test_only_the_command_line_prints() -> None:
    printing = {
        module_name(path)
        for path in MODULES
        for node in ast.walk(ast.parse((PROJECT / path).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {name for name in printing if room_of(name) != "cli"} <= {"ociexport.system.progress.display"}


HEAVY = ("requests", "urllib3", "isal", "tqdm", "magic", "argparse", "json", "hashlib")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import ociexport", HEAVY),
        ("from ociexport.cli.main import main; main(['--version'])", HEAVY),
        ("from ociexport import ImageLayout", ("requests", "urllib3", "isal", "tqdm", "magic")),
        ("from ociexport import pull", ("requests", "urllib3", "isal", "tqdm", "magic")),
        ("from ociexport import unpack", ("requests", "urllib3", "tqdm", "magic")),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, forbidden: tuple[str, ...]) -> None:
    """DESIGN: modules that a command does not need are not imported."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT
    )
    assert {name for name in ended.stderr.split() if name in forbidden} == set()


def test_long_files_say_why() -> None:
    texts = {path: path.read_text() for part in ("ociexport", "tests") for path in (PROJECT / part).rglob("*.py")}
    long = {path: text for path, text in texts.items() if text.count("\n") > 400}
    reasons = {path: (ast.get_docstring(ast.parse(text)) or "").replace("\n", " ") for path, text in long.items()}
    assert [str(path) for path, reason in reasons.items() if "long file" not in reason] == []


LAYOUT_MODULES = [
    *(
        "storage/layout/layout.py",
        "storage/layout/blobs.py",
        "storage/layout/documents.py",
        "storage/layout/hold.py",
        "storage/layout/life_cycle.py",
        "registry/catalog.py",
        "storage/layout/cache.py",
        "storage/directory.py",
        "registry/server.py",
    ),
    *(f"verification/{name}.py" for name in ("stores", "garbage", "prune", "advice", "targets", "repair")),
]


NAMING_CALLS = re.compile(
    r"open|io\.open|shutil\..+|tempfile\..+|.*\.(read|write)_(bytes|text)|"
    r"os\.(open|stat|lstat|listdir|scandir|walk|unlink|remove|rename|replace|link|symlink|readlink|mk\w+|makedirs|"
    r"rmdir|removedirs|truncate|chmod|chown|utime)|os\.path\.(exists|lexists|is\w+|getsize|samefile|realpath)"
)


# The directory itself, which the user named.
NAMING_CALLS_OF_THE_TOP = {("storage/directory.py", "os.path.isdir")}


@pytest.mark.parametrize("name", LAYOUT_MODULES)
def test_files_of_a_layout_are_reached_through_its_directory_alone(name: str) -> None:
    """STYLE: one door for each effect; that of a layout follows no link."""
    nodes = ast.walk(ast.parse((PACKAGE / name).read_text()))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert {one for one in calls if NAMING_CALLS.fullmatch(one) and (name, one) not in NAMING_CALLS_OF_THE_TOP} == set()


# Who reads the ``data`` of a descriptor, and of what: configs, layers, and blobs that a repair writes and verifies. No
# manifest is among them but in `embedded_document`, for whoever reads one elsewhere passes what checks its signature.
READERS_OF_DATA = {
    ("ociexport.images.source", "embedded_document"),
    ("ociexport.images.resolve", "read_raw_config"),
    ("ociexport.images.held_documents", "open_first_ahead"),
    ("ociexport.images.prepare", "_request_ahead"),
    ("ociexport.images.wanted_blobs", "blobs_of"),
    ("ociexport.images.wanted_blobs", "layer_blobs"),
    ("ociexport.verification.walk", "_follow_config"),
    ("ociexport.verification.walk", "_read_config"),
    ("ociexport.verification.repair", "begin_round"),
    ("ociexport.verification.repair", "_fetch"),
}


READERS_OF_EMBEDDED_DOCUMENTS = {
    ("ociexport.registry.source", "fetch_manifest"),
    ("ociexport.storage.index", "fetch_manifest"),
    ("ociexport.storage.directory", "fetch_manifest"),
}


def uses_in(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Yield all that is in a file, each with the innermost function that it is in."""
    waiting: list[tuple[str, ast.AST]] = [("", ast.parse((PROJECT / path).read_text()))]
    while waiting:
        function, node = waiting.pop()
        yield function, node
        name = node.name if isinstance(node, ast.FunctionDef) else function
        waiting += [(name, child) for child in ast.iter_child_nodes(node)]


def test_only_sources_that_wrap_none_unfold_embedded_manifests() -> None:
    readers, callers = set(), set()
    for path in MODULES:
        for function, node in uses_in(path):
            if isinstance(node, ast.Attribute) and node.attr == "data" and isinstance(node.ctx, ast.Load):
                readers.add((module_name(path), function))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "embedded_document":
                callers.add((module_name(path), function))
    assert readers == READERS_OF_DATA
    assert callers == READERS_OF_EMBEDDED_DOCUMENTS
