"""rootfs: other processes that change the tree while it is made can't lead a write outside."""

from __future__ import annotations

import os
import tarfile
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import InvalidImageError
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.unpacker import Unpacker, resolver, unpacker_in

FIFO, CHARACTER_DEVICE = tarfile.FIFOTYPE, tarfile.CHRTYPE


@pytest.fixture
def unpacker(unpacker_of_any_user: Unpacker) -> Unpacker:
    return unpacker_of_any_user


@pytest.mark.parametrize("name", ["openat2", "walk"])
def test_directories_swapped_for_links_by_another_process_lead_nowhere(tmp_path: Path, name: str) -> None:
    """No other process should use the tree, but root's may: only descriptors that were opened here are used."""
    with unpacker_in(tmp_path, use_openat2=resolver(name)) as unpacker:
        source = _SwappingSource(_layers_of_many_directories(), unpacker)
        for round_ in count():
            try:
                unpacker.unpack(source)
            except (OSError, InvalidImageError):
                pass  # the unpacking noticed a change
            else:
                unpacker.rootfs.rename(unpacker.rootfs.with_name(f"done-{round_}"))
            unpacker.assert_outside_untouched()
            if round_ == 3:
                break


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", [FIFO, CHARACTER_DEVICE])
def test_device_swapped_for_a_link_gives_its_mode_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    """chmod by name follows links on Linux."""
    true_mknod = os.mknod
    with unpacker_in(tmp_path, use_openat2=resolver("walk")) as unpacker:

        def mknod(name: bytes, mode: int, device: int, *, dir_fd: int) -> None:
            true_mknod(name, mode, device, dir_fd=dir_fd)
            if name == b"p":
                os.unlink(name, dir_fd=dir_fd)
                os.symlink(unpacker.outside / "file", name, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mknod", mknod)
        with suppress(OSError, InvalidImageError):
            unpacker([member("p", type=kind, mode=0o777, devmajor=1, devminor=3)])


def _layers_of_many_directories() -> list[bytes]:
    names = [f"d{number}" for number in range(300)]
    fields = {"xattrs": {"user.x": b"1"}, "uid": 3}
    return [
        tar_of([item for name in names for item in (directory(name, 0o750), member(f"{name}/file", b"1", **fields))]),
        tar_of(
            [
                item
                for name in names
                for item in (
                    member(f"{name}/file", b"evil", mode=0o777),
                    member(f"{name}/pipe", type=FIFO, mode=0o777),
                    symlink(f"{name}/link", "x"),
                    hard_link(f"{name}/h", f"{name}/file"),
                    member(f"{name}/.wh.other"),
                )
            ]
        ),
        tar_of([member(f"{name}/.wh..wh..opq") for name in names] + [directory(name, 0o777) for name in names]),
    ]


class _SwappingSource(MemorySource):
    """While its layers are read, directories of the tree are now and then replaced by links to the outside."""

    def __init__(self, tars: list[bytes], unpacker: Unpacker) -> None:
        super().__init__(tars)
        self._unpacker = unpacker
        self._done = threading.Event()

    def open_blob(self, descriptor: Any, offset: int = 0) -> Any:
        if descriptor == self.layers[1]:
            threading.Thread(target=self._swap, daemon=True).start()
        return super().open_blob(descriptor, offset)

    def _swap(self) -> None:
        for staged in self._unpacker.rootfs.parent.glob("rootfs.partial-*"):
            for number in range(300):
                try:
                    fd = os.open(staged / f"d{number}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                except OSError:
                    continue
                for name in ("pipe", "file", f"../d{number}"):
                    with suppress(OSError):
                        os.rename(name, f"{name}-aside", src_dir_fd=fd, dst_dir_fd=fd)
                        os.symlink(self._unpacker.outside, name, dir_fd=fd)
                os.close(fd)
