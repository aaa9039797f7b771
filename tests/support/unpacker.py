"""Unpacking layers in tests: beside a directory that must stay unchanged, by either resolver, as root or not."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
from isal import igzip_lib

from ociexport.rootfs.disk.linux import is_openat2_available
from ociexport.rootfs.unpack import UnpackOptions, UnpackResult, unpack
from tests.support.memory_source import Member, MemorySource, tar_of
from tests.support.ordinary_user import GID, UID

T = TypeVar("T")

# Opening a fifo blocks until the other end is opened; no test takes this long otherwise.
_PATIENCE_SECONDS = 60
# The decompressor's modules are loaded before the user changes, since only root may be able to read them.
assert igzip_lib.DECOMP_GZIP


def resolver(name: str) -> bool:
    """Return the `UnpackOptions.use_openat2` for ``openat2`` or ``walk``."""
    if name == "openat2" and not is_openat2_available():
        pytest.skip("this kernel has no openat2")
    return name == "openat2"


class Unpacker:
    """Unpacks into a directory beside a file that must stay unchanged.

    Args:
        place: an empty directory.
        use_openat2: the resolver.
        as_user: whether to unpack as an ordinary user instead of root.
    """

    def __init__(self, place: Path, *, use_openat2: bool, as_user: bool = False) -> None:
        self.rootfs = place / "work" / "rootfs"
        self.rootfs.parent.mkdir()
        self.outside = place / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_bytes(b"untouched")
        (self.outside / "file").chmod(0o640)
        self.outside.chmod(0o751)
        self.as_user = as_user
        if as_user:
            for path in (self.rootfs.parent, self.outside, self.outside / "file"):
                os.chown(path, UID, GID)
        os.utime(self.outside, ns=(7, 7))
        self._use_openat2 = use_openat2
        self._before = self._look_outside()

    def __call__(self, *layers: list[Member] | bytes, **options: Any) -> UnpackResult:
        source = MemorySource([layer if isinstance(layer, bytes) else tar_of(layer) for layer in layers])
        return self.unpack(source, **options)

    def unpack(self, source: MemorySource, **options: Any) -> UnpackResult:
        return self._run(
            lambda: unpack(source, self.rootfs, options=UnpackOptions(use_openat2=self._use_openat2, **options))
        )

    def _run(self, action: Callable[[], T]) -> T:
        with _patience():
            return as_ordinary_user(action) if self.as_user else action()

    def tree(self) -> dict[str, str]:
        """Return path → type and content, for comparison."""
        return dict(self._walk(self.rootfs, ""))

    def _walk(self, path: Path, prefix: str) -> Iterator[tuple[str, str]]:
        for child in sorted(path.iterdir()):
            name = prefix + child.name
            if child.is_symlink():
                yield name, f"-> {os.readlink(child)}"
            elif child.is_dir():
                yield name, "dir"
                yield from self._walk(child, name + "/")
            elif child.is_file():
                yield name, child.read_text()
            else:
                yield name, oct(stat.S_IFMT(child.stat().st_mode))

    def assert_refused_without_trace(self) -> None:
        assert not self.rootfs.exists()
        assert list(self.rootfs.parent.iterdir()) == []
        self.assert_outside_untouched()

    def assert_outside_untouched(self) -> None:
        assert self._look_outside() == self._before

    def _look_outside(self) -> object:
        return [
            (
                status.st_mode,
                status.st_mtime_ns,
                status.st_uid,
                status.st_ctime_ns,
                os.listxattr(path),
                os.listdir(path) if path.is_dir() else path.read_bytes(),
            )
            for path in (self.outside, self.outside / "file")
            for status in (path.stat(),)
        ]


@contextmanager
def unpacker_in(tmp_path: Path, *, use_openat2: bool, as_user: bool = False) -> Iterator[Unpacker]:
    """Yield an `Unpacker`; afterwards check that nothing outside changed."""
    if not as_user:
        unpacker = Unpacker(tmp_path, use_openat2=use_openat2)
        yield unpacker
        unpacker.assert_outside_untouched()
        return
    # Other users can't enter pytest's directory.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        unpacker = Unpacker(place, use_openat2=use_openat2, as_user=True)
        yield unpacker
        unpacker.assert_outside_untouched()


@contextmanager
def _patience() -> Iterator[None]:
    """Raise an error in a test that would never end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the unpack did not end: something blocks, for example the opening of a fifo")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_ordinary_user(action: Callable[[], T]) -> T:
    """Run ``action`` in a process of an ordinary user; return its result or raise its exception."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setgroups([])
            os.setgid(GID)
            os.setuid(UID)
            answer: tuple[T | None, BaseException | None] = (action(), None)
        except BaseException as error:
            answer = (None, error)
        with open(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    result, failure = pickle.loads(content)
    if failure is not None:
        raise failure
    returned: T = result
    return returned
