"""`ociexport ls`, `cat` and `which-layer`: output for people, scripts and terminals, from every kind of source."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, Compression, build_image, build_index, write_layout
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.schema1_images import build_schema1
from tests.support.system_parts import OCIEXPORT, mounted, require, run
from tests.support.tree_metadata import describe_tree

AMD64_OPTION = "--platform=linux/amd64"
HOSTILE = "e\x1b[31m\\\n\u202e"
BASE = [
    directory("etc"),
    member("etc/hostname", b"box\n", uid=7, gid=70_000, mode=0o640),
    member("bin/dash", b"shell\n", mode=0o4755),
    symlink("bin/sh", "dash"),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
]
TOP = [
    directory("etc", mtime=-2),
    member("etc/.wh.hostname"),
    directory("data"),
    member("data/.wh..wh..opq"),
    hard_link("sh", "bin/dash"),
    member(HOSTILE, b"\x1b[2Jz\tok\r\n\xc3"),
    member("caf\udce9", mtime=2**40),
]
IMAGE = build_image([BASE, TOP])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    return tmp_path / "layout"


def printed(home: Path, *arguments: str | Path) -> bytes:
    """Return the bytes that a command prints; assert that standard error is empty."""
    ended = subprocess.run(
        command_line(arguments[0], AMD64_OPTION, "-q", *arguments[1:]),
        env=command_environment(home),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout


def test_ls_prints_a_path_a_line(layout: Path, tmp_path: Path) -> None:
    assert printed(tmp_path, "ls", layout).decode().splitlines() == [
        "/bin/",
        "/caf\\xe9",
        "/data/",
        "/e\\x1b[31m\\\\\\n\\u202e",
        "/etc/",
        "/null",
        "/sh",
    ]
    assert printed(tmp_path, "ls", layout, "bin") == b"/bin/dash\n/bin/sh\n"
    assert printed(tmp_path, "ls", layout, "/bin/sh") == b"/bin/sh\n"
    assert printed(tmp_path, "ls", "-d", layout, "/bin/") == b"/bin/\n"
    assert b"/bin/\n/bin/dash\n/bin/sh\n" in printed(tmp_path, "ls", "--recursive", layout)


def test_long_lines_are_those_of_tar(layout: Path, tmp_path: Path) -> None:
    assert printed(tmp_path, "ls", layout, "-lR").decode().splitlines() == [
        "drwxr-xr-x 0/0                 0 1970-01-01 00:00 /bin/",
        "-rwsr-xr-x 0/0                 6 2001-09-09 01:46 /bin/dash",
        "lrwxrwxrwx 0/0                 0 2001-09-09 01:46 /bin/sh -> dash",
        "-rw-r--r-- 0/0                 0 @1099511627776   /caf\\xe9",
        "drwxr-xr-x 0/0                 0 2001-09-09 01:46 /data/",
        "-rw-r--r-- 0/0                11 2001-09-09 01:46 /e\\x1b[31m\\\\\\n\\u202e",
        "drwxr-xr-x 0/0                 0 1969-12-31 23:59 /etc/",
        "crw-rw-rw- 0/0               1,3 2001-09-09 01:46 /null",
        "-rwsr-xr-x 0/0                 6 2001-09-09 01:46 /sh",
    ]


@pytest.mark.parametrize(
    ("mtime", "line", "text"),
    [
        (-62_000_000_000, "0005-04-19 09:46", "0005-04-19T09:46:40Z"),
        (-90_000_000_000.25, "@-90000000000.25", "@-90000000000.25"),
        (10**17, "@100000000000000000", "@100000000000000000"),
    ],
)
def test_times_are_whole_where_calendars_are_not(tmp_path: Path, mtime: float, line: str, text: str) -> None:
    info, content = member("f")
    info.pax_headers = {"mtime": str(mtime)}
    write_layout(tmp_path / "layout", {"1": build_image([[(info, content)]])})
    long = printed(tmp_path, "ls", "-l", tmp_path / "layout").decode()
    assert long == f"-rw-r--r-- 0/0                 0 {line} /f\n"
    assert json.loads(printed(tmp_path, "ls", "--json", tmp_path / "layout"))["files"][0]["mtime"] == text


@pytest.mark.parametrize("words", [["ls"], ["ls", "--layers"], ["cat"], ["which-layer"]], ids=" ".join)
def test_limits_can_be_raised_as_errors_advise(tmp_path: Path, words: list[str]) -> None:
    info, content = member("f", b"f")
    info.pax_headers = {"comment": "x" * 2_000_000}
    write_layout(tmp_path / "layout", {"1": build_image([[(info, content)]])})
    ended = run_command(*words, tmp_path / "layout", "f", AMD64_OPTION, "-q", home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()[1]) == (8, "hint: if you trust the image, raise --max-header")
    printed(tmp_path, *words, tmp_path / "layout", "f", "--max-header", "3000000")


def test_options_may_stand_before_the_path(layout: Path, tmp_path: Path) -> None:
    """argparse alone would refuse PATH after an option."""
    assert printed(tmp_path, "ls", layout, "--long", "/null").endswith(b" /null\n")
    ended = run_command("ls", layout, "-l", "/null", "surplus", home=tmp_path)
    message = "ls: expected SRC PATH, got 'surplus' too"
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")


def test_scripts_get_names_as_they_are(layout: Path, tmp_path: Path) -> None:
    names = printed(tmp_path, "ls", layout, "-0").split(b"\0")
    assert names == [b"/bin/", b"/caf\xe9", b"/data/", b"/" + HOSTILE.encode(), b"/etc/", b"/null", b"/sh", b""]
    text = printed(tmp_path, "ls", "--json", layout)
    told = json.loads(text)
    # It is written file by file, in the same form as all other results.
    assert text.decode() == json.dumps(told, indent=2) + "\n"
    assert (told["jsonVersion"], told["command"], told["source"]) == (1, "ls", str(layout))
    files = {file["path"]: file for file in told["files"]}
    assert files["/" + HOSTILE]["size"] == 11
    assert files["/caf\ufffd"]["pathBase64"] == "L2NhZuk="
    assert files["/null"] == {
        "path": "/null",
        "type": "character device",
        "mode": "0666",
        "uid": 0,
        "gid": 0,
        "size": 0,
        "mtime": "2001-09-09T01:46:40Z",
        "device": [1, 3],
        "layer": 1,
    }


def test_layers_are_listed_with_their_whiteouts(layout: Path, tmp_path: Path) -> None:
    first, second = IMAGE.layers
    assert printed(tmp_path, "ls", "--layers", layout).decode().splitlines() == [
        f"layer 1 of 2  {first.digest}  {first.size} B  layer 1",
        "  /etc/",
        "  /etc/hostname",
        "  /bin/dash",
        "  /bin/sh",
        "  /null",
        f"layer 2 of 2  {second.digest}  {second.size} B  layer 2",
        "  /etc/",
        "  whiteout /etc/hostname",
        "  /data/",
        "  opaque /data/",
        "  /sh link to /bin/dash",
        "  /e\\x1b[31m\\\\\\n\\u202e",
        "  /caf\\xe9",
    ]
    assert printed(tmp_path, "ls", "--layer=2", "--long", layout, "/etc").decode().splitlines()[1:] == [
        "  drwxr-xr-x 0/0                 0 1969-12-31 23:59 /etc/",
        "  whiteout                                          /etc/hostname",
    ]
    told = json.loads(printed(tmp_path, "ls", "--layer=2", "--json", layout))
    (layer,) = told["layers"]
    assert (layer["number"], layer["diffId"], layer["createdBy"]) == (2, str(IMAGE.diff_ids[1]), "layer 2")
    assert layer["entries"][1] == {"path": "/etc/hostname", "type": "whiteout"}
    assert layer["entries"][4] == {"path": "/sh", "type": "hard link", "linkTarget": "/bin/dash"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "--layers", "-0"], "ls: --layers excludes --null, --recursive and --directory"),
        (["ls", "--layer", "1", "-R"], "ls: --layers excludes --null, --recursive and --directory"),
        (["ls", "-0", "-l"], "ls: --null excludes --long"),
        (["ls", "--layer", "x"], "--layer: expected the number of a layer, as inspect shows it"),
        (["ls", "-0", "--json"], "--json: not allowed with argument -0/--null"),
        (["cat"], "cat: expected PATH, got none"),
    ],
)
def test_what_does_not_go_together_is_told(layout: Path, tmp_path: Path, words: list[str], message: str) -> None:
    ended = run_command(words[0], layout, *words[1:], home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")


def test_cat_writes_bytes(layout: Path, tmp_path: Path) -> None:
    content = b"\x1b[2Jz\tok\r\n\xc3"
    for option in ([], ["--stream"]):
        assert printed(tmp_path, "cat", *option, layout, HOSTILE, "/bin/sh", "sh") == content + b"shell\nshell\n"


@pytest.mark.parametrize("option", [[], ["--stream"]])
def test_cat_writes_nothing_where_a_file_is_missing(layout: Path, tmp_path: Path, option: list[str]) -> None:
    ended = run_command("cat", "-q", AMD64_OPTION, *option, layout, "sh", "/bin/shh", home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        3,
        "",
        "ociexport: error: '/bin/shh': no such path in the image\nhint: did you mean '/bin/sh'?\n",
    )


def test_terminal_gets_nothing_of_a_file_that_it_would_obey(layout: Path, tmp_path: Path) -> None:
    """A pipe gets the bytes; see above."""
    reader, terminal = pty.openpty()
    command = command_line("cat", "-q", AMD64_OPTION, layout, HOSTILE)
    subprocess.run(command, env=command_environment(tmp_path), stdout=terminal, check=True, timeout=60)
    os.close(terminal)
    shown = os.read(reader, 1000)
    os.close(reader)
    assert shown == b"\\x1b[2Jz\tok\\r\r\n\\xc3"


def test_reader_that_has_read_enough_ends_cat_as_it_ends_others(tmp_path: Path) -> None:
    """128 + SIGPIPE, and no message."""
    write_layout(tmp_path / "layout", {"1": build_image([[member("f", b"line\n" * 1_000_000)]])})
    command = command_line("cat", "-q", AMD64_OPTION, tmp_path / "layout", "f")
    ended = subprocess.run(
        ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash", *command],
        env=command_environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, b"line\n", b"")


def test_streamed_file_of_a_damaged_layer_ends_with_exit_code_7(tmp_path: Path) -> None:
    damaged = build_image([BASE], edit_config=lambda config: config["rootfs"].update(diff_ids=[f"sha256:{'a' * 64}"]))
    write_layout(tmp_path / "layout", {"1": damaged})
    for words in (["cat"], ["cat", "--stream"], ["ls"], ["ls", "--layers"], ["which-layer"]):
        ended = run_command(words[0], AMD64_OPTION, *words[1:], tmp_path / "layout", "/etc/hostname", home=tmp_path)
        assert (ended.returncode, ended.stdout) == (7, "")


def test_which_layer_tells_what_touched_the_path(layout: Path, tmp_path: Path) -> None:
    first, second = IMAGE.layers
    assert printed(tmp_path, "which-layer", layout, "/sh").decode() == (
        "path:       /sh\n"
        "type:       file, 6 B\n"
        "layer:      1 of 2\n"
        f"digest:     {first.digest}\n"
        f"diff_id:    {IMAGE.diff_ids[0]}\n"
        "created by: layer 1\n"
        "touched by:\n"
        "  2   added    (hard link)  layer 2\n"
    )
    assert printed(tmp_path, "which-layer", "--latest", layout, "etc").decode() == (
        "path:       /etc\n"
        "type:       directory\n"
        "layer:      2 of 2\n"
        f"digest:     {second.digest}\n"
        f"diff_id:    {IMAGE.diff_ids[1]}\n"
        "created by: layer 2\n"
        "touched by (layers below were not read):\n"
        "  2   written   layer 2\n"
    )
    assert printed(tmp_path, "which-layer", layout, "/etc/hostname").decode() == (
        "path:       /etc/hostname\n"
        "type:       none, it was deleted\n"
        "touched by:\n"
        "  2   deleted  by whiteout /etc/hostname  layer 2\n"
        "  1   added     layer 1\n"
    )


def test_which_layer_of_a_link_is_its_own_unless_it_is_followed(layout: Path, tmp_path: Path) -> None:
    own = printed(tmp_path, "which-layer", layout, "/bin/sh").decode()
    assert "type:       symlink to dash\n" in own
    followed = printed(tmp_path, "which-layer", "-L", layout, "/bin/sh").decode()
    assert "real path:  /bin/dash\ntype:       file, 6 B\n" in followed


def test_which_layer_for_scripts(layout: Path, tmp_path: Path) -> None:
    told = json.loads(printed(tmp_path, "which-layer", "--json", layout, "/etc/hostname"))
    assert (told["file"], told["layer"], told["realPath"], told["complete"]) == (None, None, None, True)
    assert [(touch["touch"], touch["by"], touch["layer"]["number"]) for touch in told["touches"]] == [
        ("deleted", {"type": "whiteout", "path": "/etc/hostname"}, 2),
        ("added", {"type": "file", "path": "/etc/hostname"}, 1),
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_registry_gives_only_the_layers_that_are_needed(tmp_path: Path, compression: Compression) -> None:
    image = build_image([BASE, [directory("etc"), member("etc/motd", b"hello\n")]], compression=compression)
    index = build_index([build_image([[member("other")]], platform=ARM64), image])
    with FakeRegistry() as registry:
        reference = index.serve(registry, "team/app", "1")
        assert printed(tmp_path, "cat", reference, "/etc/motd") == b"hello\n"
        asked = [request.path.rpartition("/")[2] for request in registry.requests if "/blobs/" in request.path]
        assert str(image.layers[1].digest) in asked
        assert str(image.layers[0].digest) not in asked
        assert printed(tmp_path, "ls", reference, "etc") == b"/etc/hostname\n/etc/motd\n"


def test_image_of_schema_1_is_looked_at_like_others(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        reference = build_schema1([BASE, None, [member("etc/.wh.hostname"), member("new", b"n")]]).serve(
            registry, "old"
        )
        assert printed(tmp_path, "ls", reference) == b"/bin/\n/etc/\n/new\n/null\n"
        assert printed(tmp_path, "cat", reference, "/bin/sh", "new") == b"shell\nn"
        assert b"by whiteout /etc/hostname" in printed(tmp_path, "which-layer", reference, "/etc/hostname")


def test_archive_on_standard_input(layout: Path, tmp_path: Path) -> None:
    run_command("pull", "-q", AMD64_OPTION, layout, "-o", tmp_path / "images.tar", home=tmp_path)
    for words in (["cat", "-", "/bin/sh"], ["cat", "--stream", "-", "/bin/sh"]):
        with (tmp_path / "images.tar").open("rb") as file:
            ended = subprocess.run(
                command_line(words[0], "-q", AMD64_OPTION, *words[1:]),
                env=command_environment(tmp_path),
                stdin=file,
                capture_output=True,
                check=False,
                timeout=60,
            )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"shell\n", b"")


@pytest.mark.system
def test_full_disk_among_temporary_files_is_told(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": build_image([[member("f", os.urandom(2_000_000))]])})
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as small:
        variables = {"TMPDIR": str(small)}
        words = ("cat", "-q", AMD64_OPTION, tmp_path / "layout", "f")
        ended = run_command(*words, home=tmp_path, variables=variables)
        assert (ended.returncode, ended.stdout) == (9, "")
        assert ended.stderr.splitlines()[0] == f"ociexport: error: f: {small}: No space left on device"
        assert os.listdir(small) == []
        streamed = subprocess.run(
            command_line(words[0], "--stream", *words[1:]),
            env=command_environment(tmp_path, **variables),
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert len(streamed.stdout) == 2_000_000


@pytest.mark.system
def test_image_that_umoci_made_looks_the_same_in_every_shape(tmp_path: Path) -> None:
    """umoci's layers, skopeo's archives, and what bsdtar and umoci unpack of them."""
    require("umoci", "skopeo", "bsdtar", "busybox", root=True)
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    name = f"{layout}:box"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", name)
    run("umoci", "unpack", "--image", name, bundle)
    root = bundle / "rootfs"
    (root / "bin").mkdir()
    for applet in run("busybox", "--list").split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "bin" / "busybox").unlink(missing_ok=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    run("umoci", "repack", "--refresh-bundle", "--image", name, bundle)
    (root / "bin" / "wget").unlink()
    with (root / "etc" / "passwd").open("ab") as file:
        file.write(b"box:x:1:1::/:/bin/sh\n")
    run("umoci", "repack", "--refresh-bundle", "--image", name, bundle)

    run("umoci", "raw", "unpack", "--image", name, tmp_path / "unpacked")
    tree = describe_tree(tmp_path / "unpacked")
    sources = [f"oci:{name}"]
    for kind in ("oci-archive", "docker-archive"):
        run("skopeo", "copy", f"oci:{name}", f"{kind}:{tmp_path}/{kind}.tar:box:1")
        sources.append(f"{kind}:{tmp_path}/{kind}.tar")
    for source in sources:
        listed = json.loads(run(*OCIEXPORT, "ls", "-qR", "--json", source))["files"]
        assert [file["path"].encode() for file in listed] == sorted(b"/" + path for path in tree if path != b".")
        for file in listed:
            there = tree[file["path"][1:].encode()]
            assert (f"{int(there.mode, 8):04o}", file["uid"], file["gid"]) == (file["mode"], *there.owner)
        shell = subprocess.run([*OCIEXPORT, "cat", "-q", source, "/bin/sh"], capture_output=True, check=True)
        assert shell.stdout == Path("/bin/busybox").read_bytes()
        assert run(*OCIEXPORT, "cat", "-q", source, "etc/passwd").endswith("box:x:1:1::/:/bin/sh\n")
        assert "by whiteout /bin/wget" in run(*OCIEXPORT, "which-layer", "-q", source, "/bin/wget")

    (layer, *_) = json.loads(run(*OCIEXPORT, "inspect", "-q", "--json", f"oci:{name}"))["image"]["layers"]
    blob = layout / "blobs" / layer["digest"].replace(":", "/")
    own = run(*OCIEXPORT, "ls", "-q", "--layer=1", f"oci:{name}").splitlines()[1:]
    theirs = run("bsdtar", "-tf", blob).splitlines()
    assert [line.strip().strip("./") for line in own] == [line.strip("./") for line in theirs]
