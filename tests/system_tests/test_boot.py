"""Disk images boot: a kernel of Debian, in a virtual machine, runs the image's own init from each format."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, directory, hard_link, member, symlink
from tests.support.system_parts import require, run

pytestmark = [pytest.mark.system, pytest.mark.slow]

_BOOT_SECONDS = 120
_ARGUMENTS = "console=ttyS0 panic=-1 quiet loglevel=1"
_MODULES = ("virtio_pci", "virtio_blk", "erofs", "dm_verity")
# What the image's init prints: the kernel's view of the files, and a word that ends the test.
_INIT = b"""#!/bin/sh
PATH=/bin
busybox mount -t proc none /proc
busybox stat -c '%n %a %u:%g' /
busybox stat -c '%n %a %u:%g %h %Y %t:%T' /data /data/a /data/b /data/link /data/null
busybox cat /data/b /data/link
busybox cat /data/large | busybox md5sum
echo the end of init
busybox poweroff -f
"""
_CONTENT = bytes(range(256)) * 2000
_FILES: list[Member] = [
    directory("./", 0o751),
    *(directory(name) for name in ("bin", "dev", "proc", "sbin")),
    directory("data", 0o3710, uid=5, gid=6, mtime=1_000_000_007),
    member("data/a", b"hello from the image\n", mode=0o4640, uid=70_000, gid=7, mtime=1_000_000_009),
    hard_link("data/b", "data/a"),
    symlink("data/link", "a", uid=8, gid=9, mtime=1_000_000_011),
    member("data/null", type=tarfile.CHRTYPE, devmajor=259, devminor=300, mtime=1_000_000_013),
    member("data/large", _CONTENT),
    member("dev/console", type=tarfile.CHRTYPE, devmajor=5, devminor=1, mode=0o600),
    symlink("bin/sh", "busybox"),
    member("sbin/init", _INIT, mode=0o755),
]
_PRINTED = f"""\
/ 751 0:0
/data 3710 5:6 2 1000000007 0:0
/data/a 4640 70000:7 2 1000000009 0:0
/data/b 4640 70000:7 2 1000000009 0:0
/data/link 777 8:9 1 1000000011 0:0
/data/null 644 0:0 1 1000000013 103:12c
hello from the image
hello from the image
{hashlib.md5(_CONTENT, usedforsecurity=False).hexdigest()}  -
the end of init
"""
# The kernel gives init its unknown arguments as variables.
_START = b"""#!/bin/busybox sh
PATH=/bin
busybox mount -t devtmpfs none /dev
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
for module in /modules/*; do busybox insmod $module 2>/dev/null; done
device=/dev/vda
if [ -n "$roothash" ]; then
    device=/dev/mapper/root
    DM_DISABLE_UDEV=1 /sbin/veritysetup open /dev/vda root /dev/vda $roothash --hash-offset=$offset
fi
busybox mount -t $format -o ro $device /root
exec busybox switch_root /root /sbin/init
"""


def test_kernel_runs_the_images_init_from_each_format(tmp_path: Path) -> None:
    """The initramfs that mounts the file systems is a cpio archive of ours too, and so is the last root."""
    require("qemu-system-x86_64", "modprobe", "busybox", "veritysetup", "ldd")
    kernel, version = _kernel()
    busybox = _file("bin/busybox", shutil.which("busybox") or "")
    write_layout(
        tmp_path / "layout",
        {"root": build_image([[*_FILES, busybox]]), "start": build_image([[busybox, *_start_files(version)]])},
    )
    start = tmp_path / "start.cpio.gz"
    _unpack(tmp_path, "start", start)
    boots: dict[str, list[str]] = {}
    for name in ("root.erofs", "root.ext4", "root.cpio.zst"):
        verity = _unpack(tmp_path, "root", tmp_path / name, *(["--verity"] if "cpio" not in name else []))
        drive = f"file={tmp_path / name},if=virtio,format=raw,readonly=on"
        options = ["-initrd", str(start), "-drive", drive, "-append", f"{_ARGUMENTS} format={name.partition('.')[2]}"]
        if name == "root.erofs":
            options[-1] += f" roothash={verity['rootHash']} offset={verity['hashOffset']}"
        if name == "root.cpio.zst":
            options = ["-initrd", str(tmp_path / name), "-append", f"{_ARGUMENTS} rdinit=/sbin/init"]
        boots[name] = ["-kernel", str(kernel), *options]
    with ThreadPoolExecutor() as workers:
        printed = dict(zip(boots, workers.map(_boot, boots.values()), strict=True))
    assert {name: _from_init(text) for name, text in printed.items()} == dict.fromkeys(boots, _PRINTED), printed


def _unpack(place: Path, tag: str, target: Path, *options: str) -> dict[str, str]:
    """Unpack an image, and return what is told of its hash tree."""
    words = ("unpack", f"{place}/layout:{tag}", str(target), "--platform=linux/amd64", "-q", "--json", *options)
    ended = run_command(*words, home=place)
    assert (ended.returncode, ended.stderr) == (0, "")
    verity: dict[str, str] = json.loads(ended.stdout)["diskImage"]["verity"] or {}
    return verity


def _from_init(printed: str) -> str:
    """Return what the image's init printed; the firmware's lines come before, the kernel's after it."""
    text, end, _ = printed.replace("\r", "").partition("the end of init\n")
    return text[text.find("/ 751") :] + end


def _boot(options: Sequence[str]) -> str:
    """Boot a virtual machine until its init switches it off, and return what it printed on its console."""
    # The processor is emulated: KVM is not everywhere, and in a virtual machine it may not work.
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "512", "-display", "none", "-serial", "stdio"]
    command += ["-monitor", "none", "-nic", "none", "-no-reboot", *options]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_BOOT_SECONDS, text=True, check=False
    )
    return ended.stdout + ended.stderr


def _start_files(version: str) -> Iterator[Member]:
    """Yield what the initramfs has besides busybox: the kernel's modules, and what opens a hash tree."""
    yield from (directory(name) for name in ("dev", "proc", "root", "sys"))
    yield member("dev/console", type=tarfile.CHRTYPE, devmajor=5, devminor=1, mode=0o600)
    yield member("init", _START, mode=0o755)
    modules = dict.fromkeys(
        line.split()[1]
        for name in _MODULES
        for line in run("modprobe", "-S", version, "--show-depends", name).splitlines()
        if line.startswith("insmod ")
    )
    for number, path in enumerate(modules):
        yield _file(f"modules/{number:02}-{Path(path).name}", path)
    program = shutil.which("veritysetup") or ""
    yield _file("sbin/veritysetup", program)
    for path in re.findall(r"(/\S+) \(0x", run("ldd", program)):
        yield _file(path.lstrip("/"), path)


def _file(name: str, path: str) -> Member:
    return member(name, Path(path).read_bytes(), mode=0o755)


def _kernel() -> tuple[Path, str]:
    """Return the newest of Debian's kernels for clouds, and its version."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
    if not found:
        require("linux-image-cloud-amd64")
    return found[-1], found[-1].name.removeprefix("vmlinuz-")
