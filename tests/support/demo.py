"""`make demo`: the main job, shown with the real commands.

Without IMAGE, a small image is built from files of this machine and served on loopback by `ociexport serve`:

    python -m tests.support.demo [IMAGE]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from ociexport.spec.platforms import host_platform
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, directory, hard_link, member, symlink

_WORK = Path(".demo")
_NAME = "registry.example/demo/sample:1.0"
_MAX_SHOWN = 25


def main() -> int:
    """Show pull and unpack; return an exit code."""
    image = sys.argv[1] if len(sys.argv) > 1 else None
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir()
    with ExitStack() as stack:
        if image is None:
            address = stack.enter_context(_Served(_make_sample(_WORK / "sample")))
            image = f"{address}/demo/sample:1.0"
        _show("pull", image, "--out", f"./{_WORK}/layout")
    _show("unpack", f"./{_WORK}/layout", f"./{_WORK}/rootfs")
    _show_tree(_WORK / "rootfs")
    _run_in_chroot(_WORK / "rootfs")
    return 0


def _make_sample(path: Path) -> Path:
    """Write a layout with an image of three layers, with a whiteout, a hard link and a symlink."""
    base: list[Member] = [
        directory("bin"),
        directory("etc"),
        member("etc/motd", b"made on this machine\n", mode=0o644),
        member("etc/obsolete", b"the next layer hides this\n", mode=0o644),
    ]
    busybox = shutil.which("busybox")
    if busybox is not None:
        base += [member("bin/busybox", Path(busybox).read_bytes(), mode=0o755), hard_link("bin/sh", "bin/busybox")]
    else:
        base += [member("bin/hello", b"#!/bin/sh\necho hello\n", mode=0o755), hard_link("bin/hi", "bin/hello")]
    layers = [
        base,
        [member("etc/.wh.obsolete"), symlink("etc/message", "motd")],
        [directory("srv/www"), member("srv/www/index.html", b"<p>hello</p>\n", mode=0o644)],
    ]
    write_layout(path, {_NAME: build_image(layers, platform=host_platform())})
    return path


class _Served:
    """`ociexport serve` in its own process; yields its address."""

    def __init__(self, layout: Path) -> None:
        command = [sys.executable, "-m", "ociexport", "serve", str(layout), "--addr", "127.0.0.1:0"]
        print("$ ociexport serve", layout, "--addr 127.0.0.1:0 &", flush=True)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        if self._process.stdout is None:
            raise AssertionError("its output is a pipe")
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=20)


def _show(*words: str) -> None:
    print("$ ociexport", *words, flush=True)
    subprocess.run([sys.executable, "-m", "ociexport", *words], check=True)


def _show_tree(rootfs: Path) -> None:
    print("$ ls -lR", rootfs, flush=True)
    paths = sorted(rootfs.rglob("*"))
    for path in paths[:_MAX_SHOWN]:
        status = path.lstat()
        target = f" -> {os.readlink(path)}" if path.is_symlink() else ""
        kind = "/" if path.is_dir() and not target else ""
        print(
            f"{status.st_mode & 0o7777:04o} {status.st_uid}:{status.st_gid} {status.st_nlink:2} "
            f"{status.st_size:9} /{path.relative_to(rootfs)}{kind}{target}"
        )
    if len(paths) > _MAX_SHOWN:
        print(f"… and {len(paths) - _MAX_SHOWN} more")
    sys.stdout.flush()


def _run_in_chroot(rootfs: Path) -> None:
    if os.geteuid() != 0:
        print("not root: skipping the chroot")
        return
    command = ["chroot", str(rootfs), "/bin/sh", "-c", 'echo "in the chroot: $(cat /etc/motd 2>/dev/null || echo yes)"']
    if (rootfs / "bin" / "busybox").exists():
        command[-1] = 'echo "in the chroot: $(/bin/busybox cat /etc/motd)"'
    print("$", " ".join(command[:-1]), f"'{command[-1]}'", flush=True)
    result = subprocess.run(command, check=False)
    if result.returncode:
        print("(the image has no shell that runs on this machine)")


if __name__ == "__main__":
    sys.exit(main())
