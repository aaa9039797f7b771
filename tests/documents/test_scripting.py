"""docs/guide/scripting.md shows exactly the members of each command's JSON, and of each event."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from ociexport.cli.commandline import COMMANDS, new_parser
from ociexport.cli.parser import long_options
from ociexport.system.progress.events import EventKind
from tests.support.command import command_environment, command_line, run_command
from tests.support.document_blocks import PROJECT, blocks_of, workplace
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_attestation, build_image, build_index, write_layout
from tests.support.memory_source import hard_link, member, symlink
from tests.support.system_parts import require

_DOCUMENT = "docs/guide/scripting.md"
_SHOWN = {block.heading: json.loads(block.text) for block in reversed(blocks_of(_DOCUMENT, "json"))}
_LISTING = json.loads(blocks_of(_DOCUMENT, "json", heading="inspect")[1].text)
_LAYERS = json.loads(blocks_of(_DOCUMENT, "json", heading="ls")[1].text)
# Members that may be absent, as the document says.
_MAY_BE_ABSENT = {"variant", "os.version", "os.features", "layers", "tarBytes", "digest", "device", "linkTarget"}
_OF_FILES_ONLY = {"mode", "uid", "gid", "size", "mtime"}
IMAGE = build_image([[member("etc/hostname", b"one\n")]])
CONFIGURED = build_image(
    [[member("a")]],
    edit_config=lambda config: config["config"].update(
        {
            "Entrypoint": ["/e"],
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": {"/data": {}},
            "Labels": {"any": "thing"},
        }
    ),
)


def differences(shown: Any, real: Any, place: str = "") -> list[str]:
    """Return the differences in members and types from ``shown`` to ``real``; null stands for any type."""
    if shown is None or real is None or shown == {} or real == {}:
        return []
    if type(shown) is not type(real):
        return [f"{place}: {type(shown).__name__} is shown, {type(real).__name__} is printed"]
    if isinstance(shown, dict):
        absent = _MAY_BE_ABSENT | (_OF_FILES_ONLY if real.get("type") in ("hard link", "whiteout") else set())
        missing = [f"{place}.{name} is not printed" for name in shown.keys() - real.keys() - absent]
        extra = [f"{place}.{name} is not shown" for name in real.keys() - shown.keys() - {"variant"}]
        both = shown.keys() & real.keys()
        deeper = [line for name in both for line in differences(shown[name], real[name], f"{place}.{name}")]
        return missing + extra + deeper
    if isinstance(shown, list):
        return [line for number, item in enumerate(real) for line in differences(shown[0], item, f"{place}[{number}]")]
    return []


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    return tmp_path / "layout"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth="basic", users={"alice": "secret"}) as registry:
        yield registry


def printed(home: Path, *arguments: str | Path, code: int = 0, stdin: str = "") -> Any:
    """Return the object that the command prints; standard output has nothing else."""
    ended = subprocess.run(
        command_line(*arguments, "--json"),
        env=command_environment(home, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
        cwd=home,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_each_command_with_json_is_shown() -> None:
    """Each has a heading that is, or begins with, the command's name."""
    _, commands = new_parser(COMMANDS)
    with_json = {name for name, command in commands.items() if "--json" in long_options(command)}
    assert with_json == {heading.partition(" ")[0] for heading in _SHOWN}
    # The others print no results, but bytes of the image, scripts, texts, and lines of JSON in any case.
    assert commands.keys() - with_json <= {"completion", "help", "cat", "lock"}


def test_pull(tmp_path: Path, layout: Path) -> None:
    told = printed(tmp_path, "pull", "./layout", "./layout:none", "-o", "out", code=3)
    assert differences(_SHOWN["pull"], told) == []
    assert told["failures"] == [
        {
            "image": "./layout:none",
            "error": "./layout: expected image 'none', there are: 1",
            "exitCode": 3,
        }
    ]


def test_pull_dry_run(tmp_path: Path, layout: Path) -> None:
    assert differences(_SHOWN["pull --dry-run"], printed(tmp_path, "pull", layout, "-o", "out", "--dry-run")) == []


def test_push_and_copy(tmp_path: Path, layout: Path) -> None:
    for name in ("whole", "broken"):
        write_layout(tmp_path / name, {f"registry.example/team/{name}:1": IMAGE})
    (tmp_path / "broken" / "blobs" / "sha256" / IMAGE.layers[0].digest.encoded).unlink()
    with FakeRegistry() as registry:
        planned = printed(tmp_path, "push", "./whole", registry.host, "--dry-run")
        assert differences(_SHOWN["push --dry-run"], planned) == []
        told = printed(tmp_path, "push", "./broken", "./whole", registry.host, code=7)
    assert differences(_SHOWN["push"], told) == []
    assert (len(told["images"]), len(told["failures"])) == (1, 1)
    assert differences(_SHOWN["copy"], printed(tmp_path, "copy", layout, "./copied")) == []


def test_images(tmp_path: Path) -> None:
    compose = "services:\n  web:\n    image: nginx:1.27\n  x:\n    build: .\n    image: other:1\n"
    (tmp_path / "compose.yaml").write_text(compose)
    told = printed(tmp_path, "images", "compose.yaml")
    assert differences(_SHOWN["images"], {**told, "warnings": ["x"]}) == []
    assert ([one["image"] for one in told["images"]], len(told["maybes"])) == (["nginx:1.27"], 1)


def test_unpack(tmp_path: Path, layout: Path) -> None:
    told = printed(tmp_path, "unpack", layout, "rootfs")
    assert differences(_SHOWN["unpack"], told) == []
    assert (told["manifestDigest"], told["rootfs"], told["tar"]) == (str(IMAGE.digest), "rootfs", None)
    flat = printed(tmp_path, "unpack", layout, "--to-tar", "x.tar")
    assert flat == {**told, "rootfs": None, "tar": "x.tar", "entries": flat["entries"]}


def test_archive_on_standard_output_is_all_that_is_there(tmp_path: Path, layout: Path) -> None:
    """The JSON object goes to standard error then."""
    for name, flag in (("pull", "--out"), ("unpack", "--to-tar")):
        ended = subprocess.run(
            command_line(name, layout, flag, "-", "--json", "-q"),
            env=command_environment(tmp_path, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert ended.stdout[257:262] == b"ustar"
        assert differences(_SHOWN[name], json.loads(ended.stderr)) == []


def test_inspect(tmp_path: Path) -> None:
    index = build_index([CONFIGURED, build_attestation(CONFIGURED)])
    write_layout(tmp_path / "layout", {"all": index, "1": IMAGE})
    told = printed(tmp_path, "inspect", "./layout:all")
    assert differences(_SHOWN["inspect"], told) == []
    assert told["attestations"][0]["attests"] == str(CONFIGURED.digest)
    assert differences(_LISTING, printed(tmp_path, "inspect", "./layout")) == []


def test_tags(tmp_path: Path, layout: Path) -> None:
    assert differences(_SHOWN["tags"], printed(tmp_path, "tags", layout)) == []


def test_looking(tmp_path: Path) -> None:
    layers = [
        [member("etc/hostname", b"x\n"), symlink("etc/link", "hostname"), hard_link("etc/same", "etc/hostname")],
        [member("etc/.wh.hostname")],
    ]
    write_layout(tmp_path / "layout", {"1": build_image(layers)})
    assert differences(_SHOWN["ls"], printed(tmp_path, "ls", "./layout", "/etc")) == []
    assert differences(_LAYERS, printed(tmp_path, "ls", "./layout", "--layers")) == []
    assert differences(_SHOWN["which-layer"], printed(tmp_path, "which-layer", "./layout", "/etc/same")) == []
    assert printed(tmp_path, "which-layer", "./layout", "/etc/hostname")["file"] is None


def test_verify(tmp_path: Path, layout: Path) -> None:
    assert differences(_SHOWN["verify"], printed(tmp_path, "verify", layout, "--deep")) == []
    blob = layout / "blobs" / "sha256" / IMAGE.layers[0].digest.encoded
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    told = printed(tmp_path, "verify", layout, code=7)
    assert differences(_SHOWN["verify"], told) == []
    assert told["findings"] != []


def test_repair(tmp_path: Path, layout: Path) -> None:
    """One blob comes from a backup, the other can't be found."""
    write_layout(tmp_path / "backup", {"1": IMAGE})
    for place, digest in ((layout, IMAGE.config.digest), (layout, IMAGE.layers[0].digest)):
        (place / "blobs" / "sha256" / digest.encoded).unlink()
    (tmp_path / "backup" / "blobs" / "sha256" / IMAGE.layers[0].digest.encoded).unlink()
    told = printed(tmp_path, "verify", layout, "--repair", "--from", "./backup", code=7)
    assert differences(_SHOWN["verify --repair"], told) == []
    assert [blob["digest"] for blob in told["repaired"]] == [str(IMAGE.config.digest)]
    assert [blob["digest"] for blob in told["unrepaired"]] == [str(IMAGE.layers[0].digest)]


def test_gc(tmp_path: Path, layout: Path) -> None:
    (layout / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"left")
    told = printed(tmp_path, "gc", layout)
    assert differences(_SHOWN["gc"], told) == []
    assert told["dropped"] == [{"path": f"blobs/sha256/{'0' * 64}", "size": 4}]


def test_merge(tmp_path: Path, layout: Path) -> None:
    """The update alone lacks the base, and another file is no bundle."""
    printed(tmp_path, "pull", layout, "--since", layout, "--out", "update.tar", "--for", "registry")
    (tmp_path / "other.tar").write_bytes(b"x" * 2000)
    told = printed(tmp_path, "merge", "far", "./update.tar", "./other.tar", code=7)
    assert differences(_SHOWN["merge"], told) == []
    assert [image["complete"] for image in told["images"]] == [False]
    assert [failure["bundle"] for failure in told["failures"]] == ["./other.tar"]


def test_trees(tmp_path: Path, layout: Path) -> None:
    run_command("unpack", layout, tmp_path / "rootfs", "--platform=linux/amd64", home=tmp_path)
    assert differences(_SHOWN["treehash"], printed(tmp_path, "treehash", "rootfs")) == []
    (tmp_path / "rootfs" / "etc" / "hostname").write_bytes(b"two\n")
    Path(os.fsdecode(bytes(tmp_path / "rootfs") + b"/\xff")).touch()
    told = printed(tmp_path, "diff", "rootfs", layout, code=1)
    assert differences(_SHOWN["diff"], told) == []
    assert [change["path"] for change in told["changes"] if change["kind"] == "A"] == [r"\xff"]
    assert differences(_SHOWN["rm"], printed(tmp_path, "rm", "rootfs")) == []


def test_name_that_is_no_utf8_is_json_that_strict_readers_take(tmp_path: Path) -> None:
    name = os.fsdecode(b"l\xff")
    write_layout(tmp_path / name, {"1": IMAGE})
    assert printed(tmp_path, "gc", name)["layout"] == r"l\xff"


def test_credentials(tmp_path: Path, registry: FakeRegistry) -> None:
    words = ["login", registry.host, "-u", "alice", "--password-stdin"]
    told = printed(tmp_path, *words, stdin="secret\n")
    assert differences(_SHOWN["login"], told) == []
    assert (told["username"], told["tried"]) == ("alice", True)
    found = printed(tmp_path, "auth", "explain", f"{registry.host}/team/app:1")
    assert differences(_SHOWN["auth explain"], found) == []
    assert (found["place"], found["entry"]) == (told["keptIn"], registry.host)
    gone = printed(tmp_path, "logout", registry.host)
    assert differences(_SHOWN["logout"], gone) == []
    assert (gone["removed"], gone["file"], gone["stillIn"]) == (True, told["keptIn"], None)


def test_serve(tmp_path: Path, layout: Path) -> None:
    process = subprocess.Popen(
        command_line("serve", layout, "--addr", "127.0.0.1:0", "--json", "-q"),
        env=command_environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
        process.terminate()
        told = json.loads("".join(lines))
        assert (differences(_SHOWN["serve"], told), process.wait(60)) == ([], 0)
    assert told["images"] == [f"{told['address']}/layout:1"]


def test_events_are_those_of_the_table(tmp_path: Path, layout: Path) -> None:
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \| ([^|]+) \|$", (PROJECT / _DOCUMENT).read_text(), re.M)
    members = {
        event: set(re.findall(r"`(\w+)`", shown)) for events, shown in table for event in re.findall(r"`(\w+)`", events)
    }
    assert members.keys() == {*get_args(EventKind), "started", "ended"}
    run_command("pull", layout, "-o", tmp_path / "x", "--events", tmp_path / "events", home=tmp_path)
    for line in (tmp_path / "events").read_text().splitlines():
        event = json.loads(line)
        assert event.keys() - {"event", "time"} <= members[event["event"]]


@pytest.mark.system
def test_commands_of_the_document_work(tmp_path: Path) -> None:
    require("bash", "busybox")
    with workplace(tmp_path) as place:
        for block in blocks_of(_DOCUMENT, "sh"):
            place.run(block)
        assert (place.directory / "digests.txt").read_text().count("sha256:") == 2


def test_prune(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE, "2": CONFIGURED})
    (tmp_path / "list").write_text("1\nother\n")
    told = printed(tmp_path, "prune", "./layout", "--keep", "list")
    assert differences(_SHOWN["prune"], told) == []
    assert [name["name"] for name in told["droppedNames"]] == ["2"]


def test_report(tmp_path: Path, layout: Path) -> None:
    write_layout(tmp_path / "new", {"1": build_index([CONFIGURED, build_attestation(CONFIGURED)]), "2": IMAGE})
    (tmp_path / "new" / "blobs" / "sha256" / IMAGE.layers[0].digest.encoded).unlink()
    told = printed(tmp_path, "report", "./new", "--since", "./layout")
    assert differences(_SHOWN["report"], told) == []
    assert [image["change"] for image in told["images"]] == ["changed", "added"]
