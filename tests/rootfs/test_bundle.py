"""run.bundle, run.accounts, run.files: files that start a container with runc, bubblewrap or a chroot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import InvalidImageError
from ociexport.rootfs.run.accounts import Account, find_account
from ociexport.rootfs.run.files import write_run_files
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.image_builder import BuiltImage, build_image
from tests.support.memory_source import Member, directory, hard_link, member, symlink
from tests.support.system_parts import require

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbroken\nworker:x:1000:100:W:/home/worker:/bin/sh\nodd:x:-1:x:::\n"
GROUP = b"root:x:0:\nusers:x:100:\naudio:x:29:worker,other\nvideo:x:44:worker\nbig:x:99999999999:worker\n"


def without_broken_lines(table: bytes) -> bytes:
    """Return the lines that busybox accepts; it complains about each line that is not an account."""
    return b"".join(
        line for line in table.splitlines(keepends=True) if not line.startswith((b"broken", b"odd", b"big"))
    )


def image(config: dict[str, Any], *, busybox: bool = False, more: Sequence[Member] = ()) -> BuiltImage:
    passwd, group = (without_broken_lines(table) if busybox else table for table in (PASSWD, GROUP))
    layer = [directory(name) for name in ("etc", "srv", "proc", "dev", "sys", "tmp")]
    layer += [member("etc/passwd", passwd), member("etc/group", group)]
    if busybox:
        require("busybox")
        path = shutil.which("busybox")
        assert path is not None
        layer += [directory("bin"), member("bin/busybox", Path(path).read_bytes(), mode=0o755)]
        layer += [hard_link(f"bin/{name}", "bin/busybox") for name in ("sh", "id", "env", "pwd", "cat")]
    layer += more
    return build_image([layer], edit_config=lambda document: document.update(config=config))


def make_bundle(path: Path, config: dict[str, Any], *, busybox: bool = False) -> dict[str, Any]:
    unpack(image(config, busybox=busybox).source(), path, options=UnpackOptions(bundle=True))
    document: dict[str, Any] = json.loads((path / "config.json").read_bytes())
    return document


@pytest.mark.parametrize(
    ("user", "account"),
    [
        (None, Account(0, 0, (), "/root")),
        ("", Account(0, 0, (), "/root")),
        (":", Account(0, 0, (), "/root")),
        (":audio", Account(0, 29, (), "/root")),
        ("worker", Account(1000, 100, (29, 44), "/home/worker")),
        ("1000", Account(1000, 100, (29, 44), "/home/worker")),
        ("worker:audio", Account(1000, 29, (), "/home/worker")),
        ("worker:7", Account(1000, 7, (), "/home/worker")),
        ("77", Account(77, 0, (), None)),
        ("77:88", Account(77, 88, (), None)),
    ],
)
def test_user_is_looked_up_in_the_tree(tmp_path: Path, user: str | None, account: Account) -> None:
    """image-spec config.md, "User"."""
    unpack(image({}).source(), tmp_path / "rootfs")
    fd = os.open(tmp_path / "rootfs", os.O_RDONLY)
    try:
        assert find_account(fd, user) == account
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "config: User 'nobody': expected a number or a user of the root filesystem's /etc, got 'nobody'"),
        ("0:none", "config: User '0:none': expected a number or a group of the root filesystem's /etc, got 'none'"),
        ("-5", "config: User '-5': expected a number or a user of the root filesystem's /etc, got '-5'"),
    ],
)
def test_unknown_user_is_told_and_leaves_nothing(tmp_path: Path, user: str, message: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        make_bundle(tmp_path / "bundle", {"User": user})
    assert str(caught.value) == message
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_passwd_that_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes) -> None:
    """Opening a device may have any side effect, and opening a fifo blocks forever."""
    layer = [directory("etc"), member("etc/passwd", type=kind, devmajor=1, devminor=5)]
    unpack(build_image([layer]).source(), tmp_path / "rootfs")
    opened: list[bytes] = []
    true_open: Callable[..., int] = os.open

    def noting_open(path: bytes, *words: Any, **keywords: Any) -> int:
        opened.append(path)
        return true_open(path, *words, **keywords)

    fd = os.open(tmp_path / "rootfs", os.O_RDONLY)
    monkeypatch.setattr(os, "open", noting_open)
    assert find_account(fd, "5") == Account(5, 0, (), None)
    monkeypatch.undo()
    os.close(fd)
    assert b"passwd" not in opened


WORKER = Account(1000, 100, (29, 44), "/home/worker")


@pytest.mark.parametrize(
    "links",
    [
        [symlink("etc", "usr/etc")],
        [symlink("etc", "/usr/etc/")],
        [symlink("etc", "../../usr/./lib/../etc"), directory("usr/lib")],
        [symlink("etc", "a"), symlink("a", "/b/c"), directory("b"), symlink("b/c", "../usr/etc")],
        [directory("etc"), symlink("etc/passwd", "../usr/etc/passwd"), symlink("etc/group", "/usr/etc/group")],
        [symlink("etc", "/usr/lib"), *[symlink(f"usr/lib/{name}", f"../etc/{name}") for name in ("passwd", "group")]],
        [symlink("etc", "d/" * 600 + "e"), symlink("/".join("d" * 600) + "/e", "../" * 600 + "usr/etc")],
    ],
    ids=["etc", "absolute", "above the root", "chain", "files", "both", "deep"],
)
def test_linked_etc_is_followed_within_the_root(tmp_path: Path, links: list[Member]) -> None:
    """A chroot, docker and umoci follow these links; NixOS and some immutable systems have them."""
    files = [member("usr/etc/passwd", PASSWD), member("usr/etc/group", GROUP)]
    unpack(build_image([[*files, *links]]).source(), tmp_path / "rootfs")
    fd = os.open(tmp_path / "rootfs", os.O_RDONLY)
    try:
        assert find_account(fd, "worker") == WORKER
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "layer",
    [
        [symlink("etc", "etc")],
        [directory("etc"), symlink("etc/passwd", "passwd")],
        [directory("etc"), symlink("etc/passwd", "/etc")],
        [directory("etc"), symlink("etc/passwd", "file/"), member("etc/file", PASSWD)],
        [directory("etc"), symlink("etc/passwd", "file/../file"), member("etc/file", PASSWD)],
        [directory("etc"), directory("etc/passwd")],
        [symlink("etc", "/proc/self/root/etc")],
    ],
)
def test_etc_that_leads_to_no_file_is_none(tmp_path: Path, layer: list[Member]) -> None:
    unpack(build_image([layer]).source(), tmp_path / "rootfs")
    fd = os.open(tmp_path / "rootfs", os.O_RDONLY)
    open_before = len(os.listdir("/proc/self/fd"))
    try:
        assert find_account(fd, "5") == Account(5, 0, (), None)
        assert len(os.listdir("/proc/self/fd")) == open_before
    finally:
        os.close(fd)


@pytest.mark.parametrize("planted", ["etc", "etc/passwd"])
def test_planted_link_does_not_lead_out(tmp_path: Path, planted: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "passwd").write_bytes(b"evil:x:666:666::/:/bin/sh\n")
    target = tmp_path / "outside" if planted == "etc" else tmp_path / "outside" / "passwd"
    layer = [symlink(planted, str(target))] if planted == "etc" else [directory("etc"), symlink(planted, str(target))]
    unpack(build_image([layer]).source(), tmp_path / "rootfs")
    fd = os.open(tmp_path / "rootfs", os.O_RDONLY)
    try:
        with pytest.raises(InvalidImageError, match="got 'evil'"):
            find_account(fd, "evil")
    finally:
        os.close(fd)


def test_config_is_the_specifications_conversion(tmp_path: Path) -> None:
    """image-spec conversion.md."""
    document = make_bundle(
        tmp_path / "bundle",
        {
            "User": "worker",
            "Env": ["A=1"],
            "Entrypoint": ["/bin/echo", "-n"],
            "Cmd": ["hello"],
            "WorkingDir": "/srv",
            "Labels": {"org.opencontainers.image.os": "mine", "note": "x"},
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGINT",
        },
    )
    process = document["process"]
    assert process["args"] == ["/bin/echo", "-n", "hello"]
    assert process["user"] == {"uid": 1000, "gid": 100, "additionalGids": [29, 44]}
    assert process["cwd"] == "/srv"
    assert process["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "A=1",
        "HOME=/home/worker",
    ]
    assert document["root"] == {"path": "rootfs", "readonly": False}
    assert document["annotations"] == {
        "org.opencontainers.image.os": "mine",
        "org.opencontainers.image.architecture": "amd64",
        "org.opencontainers.image.created": "2024-11-05T22:03:34Z",
        "org.opencontainers.image.stopSignal": "SIGINT",
        "org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
        "note": "x",
    }
    assert "/data" in [mount["destination"] for mount in document["mounts"]]
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "passwd").read_bytes() == PASSWD
    assert sorted(os.listdir(tmp_path / "bundle")) == ["config.json", "rootfs"]


@pytest.mark.system
def test_runc_starts_the_bundle(tmp_path: Path) -> None:
    require("runc", root=True)
    make_bundle(
        tmp_path / "bundle",
        {
            "User": "worker",
            "Env": ['GREETING=it\'s 100% "here"'],
            "Cmd": ["/bin/sh", "-c", 'echo "$GREETING"; id; pwd'],
            "WorkingDir": "/srv",
        },
        busybox=True,
    )
    name = f"ociexport-test-{os.getpid()}"
    command = ["runc", "--root", str(tmp_path / "state"), "run", "--bundle", str(tmp_path / "bundle"), name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "cgroup" in result.stderr and os.environ.get("CI") != "true":
        pytest.skip(f"runc finds no cgroups here: {result.stderr.strip()}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        'it\'s 100% "here"',
        "uid=1000(worker) gid=100(users) groups=29(audio),44(video)",
        "/srv",
    ]


CONFIG: dict[str, Any] = {
    "User": "worker",
    "Env": ['GREETING=it\'s $HOME `x` 100%\nnext "line"', "odd.name=1"],
    "Cmd": ["/bin/sh", "-c", 'echo "$GREETING"; id -u; id -g; pwd'],
    "WorkingDir": "/srv",
}
EXPECTED = ["it's $HOME `x` 100%", 'next "line"', "1000", "100", "/srv"]


def make_run_files(tmp_path: Path, config: dict[str, Any] = CONFIG) -> Path:
    result = unpack(
        image(config, busybox=True).source(), tmp_path / "root fs", options=UnpackOptions(find_account=True)
    )
    assert result.account is not None
    write_run_files(str(tmp_path / "run"), str(tmp_path / "root fs"), result.config, result.account)
    return tmp_path / "run"


@pytest.mark.system
def test_working_directory_may_lack_its_slash_and_a_variable_its_name(tmp_path: Path) -> None:
    """runc refuses a relative working directory, and bubblewrap a variable without a name."""
    require("bwrap", root=True)
    config = {**CONFIG, "WorkingDir": "srv", "Env": [*CONFIG["Env"], "=nameless", "no-value"]}
    assert make_bundle(tmp_path / "bundle", config)["process"]["cwd"] == "/srv"
    files = make_run_files(tmp_path, config)
    result = subprocess.run([files / "bwrap.sh"], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout.splitlines(), result.stderr, result.returncode) == (EXPECTED, "", 0)


@pytest.mark.system
@pytest.mark.parametrize("script", ["chroot.sh", "bwrap.sh"])
def test_scripts_run_the_images_command(tmp_path: Path, script: str) -> None:
    require("chroot", "bwrap", root=True)
    files = make_run_files(tmp_path)
    result = subprocess.run([files / script], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout.splitlines(), result.stderr, result.returncode) == (EXPECTED, "", 0)
    given = subprocess.run([files / script, "/bin/pwd"], capture_output=True, text=True, timeout=60, check=True)
    assert given.stdout == "/srv\n"


@pytest.mark.system
def test_what_programs_are_loaded_with_is_not_for_the_hosts_chroot(tmp_path: Path) -> None:
    """Otherwise the image's library would run as root before the chroot."""
    require("chroot", root=True)
    traced = "LD_TRACE_LOADED_OBJECTS=1"  # lists a dynamic program's libraries instead of running it
    files = make_run_files(tmp_path, {**CONFIG, "Env": [*CONFIG["Env"], traced, "TMPDIR=/it's here"]})
    command = [str(files / "chroot.sh"), "/bin/sh", "-c", 'echo "$LD_TRACE_LOADED_OBJECTS $TMPDIR"; pwd']
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("1 /it's here\n/srv\n", "", 0)


def test_environment_file_is_safe_in_a_shell(tmp_path: Path) -> None:
    files = make_run_files(tmp_path)
    script = '. "$0/env"; printf %s "$GREETING"'
    result = subprocess.run(["sh", "-c", script, str(files)], capture_output=True, text=True, check=True)
    assert result.stdout == 'it\'s $HOME `x` 100%\nnext "line"'


@pytest.mark.parametrize(
    "config",
    [
        {"Env": ["A=x\0--bind\0/\0/mnt"]},
        {"WorkingDir": "A=x\0--bind\0/\0/mnt"},
        {"Cmd": ["A=x\0--bind\0/\0/mnt"]},
    ],
)
def test_text_that_would_be_options_of_bwrap_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    result = unpack(image(config).source(), tmp_path / "root", options=UnpackOptions(find_account=True))
    assert result.account is not None
    with pytest.raises(InvalidImageError) as caught:
        write_run_files(str(tmp_path / "run"), str(tmp_path / "root"), result.config, result.account)
    text = "/A" if "WorkingDir" in config else "A"
    assert str(caught.value) == rf"config: run files: expected text without NUL, got '{text}=x\x00--bind\x00/\x00/mnt'"
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_command_that_looks_like_options_of_bwrap_is_a_command(tmp_path: Path) -> None:
    """Otherwise the image would get the host's root in its sandbox."""
    require("bwrap", root=True)
    built = image({"Entrypoint": ["--bind", "/", "/mnt", "/bin/sh"]}, busybox=True, more=[directory("mnt")])
    result = unpack(built.source(), tmp_path / "root", options=UnpackOptions(find_account=True))
    assert result.account is not None
    write_run_files(str(tmp_path / "run"), str(tmp_path / "root"), result.config, result.account)
    ran = subprocess.run(
        [tmp_path / "run" / "bwrap.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "bwrap: execvp --bind: No such file or directory\n")


def test_nspawn_settings_leave_out_what_they_can_not_say(tmp_path: Path) -> None:
    settings = (make_run_files(tmp_path) / "root fs.nspawn").read_text()
    assert settings == (
        "[Exec]\n"
        "# systemd-nspawn looks this user and its groups up with the image's own getent.\n"
        "User=1000\n"
        "Boot=no\n"
        """Parameters='/bin/sh' '-c' 'echo "$GREETING"; id -u; id -g; pwd'\n"""
        "Environment='PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'\n"
        "# 'GREETING' can't be written here, because it has a line break.\n"
        "Environment='odd.name=1'\n"
        "Environment='HOME=/home/worker'\n"
        "WorkingDirectory=/srv\n"
    )


# The program that nspawn calls in the image to look up a user other than root.
GETENT = b"""#!/bin/sh
case $1 in
passwd) while IFS= read -r line; do case $line in *:*:"$2":*) echo "$line" ;; esac; done </etc/passwd ;;
initgroups) echo "$2 29 44" ;;
esac
"""


@pytest.mark.system
@pytest.mark.parametrize("user", ["worker", None])
def test_nspawn_runs_the_images_command(tmp_path: Path, user: str | None) -> None:
    """With every character that quoting could lose; systemd.nspawn(5)."""
    require("systemd-nspawn", root=True)
    odd = """it's $HOME `x` 100% %h \\n "line" \\ ; # end\\"""
    config = {
        "User": user,
        "Env": [f"GREETING={odd}", "odd.name=1"],
        "Cmd": ["/bin/sh", "-c", 'echo "$GREETING"; echo "$0"; id -u; id -g; id -G; pwd', odd],
        "WorkingDir": "/srv",
    }
    if user is None:
        del config["User"]
    more = [directory("usr/bin"), member("usr/bin/getent", GETENT, mode=0o755), member("etc/os-release", b"ID=test\n")]
    result = unpack(
        image(config, busybox=True, more=more).source(), tmp_path / "root", options=UnpackOptions(find_account=True)
    )
    assert result.account is not None
    write_run_files(str(tmp_path), str(tmp_path / "root"), result.config, result.account)
    # No unit and no registration: systemd may not be this machine's init.
    words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=trusted"]
    ran = subprocess.run(
        [*words, f"--directory={tmp_path}/root"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ran.returncode and not ran.stdout and os.environ.get("CI") != "true":
        pytest.skip(f"systemd-nspawn does not run here: {ran.stderr.strip()}")
    ids = ["1000", "100", "100 29 44"] if user else ["0", "0", "0"]
    assert (ran.stdout.splitlines(), ran.returncode) == ([odd, odd, *ids, "/srv"], 0), ran.stderr
