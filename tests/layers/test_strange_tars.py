"""Layers with strange headers: all readers of a tar report the same tree, or all refuse it with the same exit code.

If two readers disagree on the size of data, one sees headers where the other sees data, and entries pass that no check
has seen (issue 14, "writes entries that no check has seen").
"""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from ociexport.cli.exit_codes import INTEGRITY, MALFORMED_IMAGE, exit_code_of
from ociexport.errors import OciexportError, SizeMismatchError
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files
from ociexport.layers.limits import Limits
from ociexport.layers.tar.reader import FILE_FORMATS, Entry, EntryType
from ociexport.layers.tar.writer import TarWriter
from ociexport.rootfs.compare import compare_tree
from ociexport.rootfs.outputs.tar import flatten
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from ociexport.spec.platforms import parse_platform
from ociexport.verification.verify import verify
from tests.layers.test_tar_reader import header
from tests.support.memory_source import MemorySource
from tests.system_tests.test_readers_agree import file, gnu_long, octal, padded, pax

AMD64 = parse_platform("linux/amd64")
LIMITS = Limits(max_bytes=1 << 22)
ACCESS = Access(platform=AMD64, limits=LIMITS)
END = bytes(1024)
T = TypeVar("T")

# The visible metadata of a path: type, mode, owner, size, time, target, device.
Seen = tuple[EntryType, int, tuple[int, int], int, int, bytes, tuple[int, int]]


def outcome_of(act: Callable[[], T]) -> T | int:
    """Return the result of ``act``, or the exit code of the `OciexportError` that it raises."""
    try:
        return act()
    except OciexportError as error:
        return exit_code_of(error)


def seen_on_disk(root: Path) -> dict[bytes, Seen]:
    """Return what is in a tree, as lstat(2) has it."""
    seen: dict[bytes, Seen] = {}
    types = {number: kind for kind, number in FILE_FORMATS.items()}
    top = os.fsencode(root)
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = types[status.st_mode & 0o170000]
            target = os.readlink(path) if kind is EntryType.SYMLINK else b""
            is_device = kind in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE)
            seen[path.removeprefix(top)] = (
                kind,
                0 if kind is EntryType.SYMLINK else status.st_mode & 0o7777,
                (status.st_uid, status.st_gid) if os.geteuid() == 0 else (0, 0),
                status.st_size if kind is EntryType.FILE else 0,
                0 if kind is EntryType.DIRECTORY else status.st_mtime_ns,
                target,
                (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
            )
    return seen


def seen_by_ls(source: MemorySource) -> dict[bytes, Seen]:
    """Return the listing of `ls -R`, in the form of `seen_on_disk`."""
    return {
        one.path: (
            one.type,
            0 if one.type is EntryType.SYMLINK else one.mode,
            (one.uid, one.gid) if os.geteuid() == 0 else (0, 0),
            one.size if one.type is EntryType.FILE else 0,
            0 if one.type is EntryType.DIRECTORY else one.mtime_ns,
            one.link_target,
            one.device if one.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE) else (0, 0),
        )
        for one in list_files(source, recursive=True, access=ACCESS)
    }


def flattened(source: MemorySource) -> bytes:
    buffer = io.BytesIO()
    flatten(source, buffer.write, platform=AMD64, limits=LIMITS)
    return buffer.getvalue()


def unpacked(source: MemorySource, target: Path) -> Path:
    unpack(source, target, platform=AMD64, options=UnpackOptions(limits=LIMITS, preflight=False))
    return target


def verify_all_agree(tars: list[bytes], place: Path) -> bool:
    """Assert that all readers agree on the layers, and return whether the layers unpack."""
    source = MemorySource(tars)
    first, second = place / "first", place / "second"
    tree = outcome_of(lambda: unpacked(source, first))
    flat = outcome_of(lambda: flattened(source))
    listed = outcome_of(lambda: seen_by_ls(source))
    found = verify(source, deep=True, limits=LIMITS, platform=AMD64)
    if isinstance(tree, int):
        assert tree in (INTEGRITY, MALFORMED_IMAGE)
        empty = place / "empty"
        empty.mkdir()
        compared = outcome_of(lambda: compare_tree(str(empty), source, platform=AMD64, limits=LIMITS))
        assert {"to-tar": flat, "ls": listed, "diff": compared} == {"to-tar": tree, "ls": tree, "diff": tree}
        assert not found.is_right
        return False
    assert [str(finding) for finding in found.findings if finding.is_wrong] == []
    assert listed == seen_on_disk(first)
    assert compare_tree(str(first), source, platform=AMD64, limits=LIMITS) == []
    assert isinstance(flat, bytes)
    assert hash_tree(unpacked(MemorySource([flat]), second), mtimes=True) == hash_tree(first, mtimes=True)
    return True


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


SMUGGLED = file(b"../../outside", b"no check has seen it\n") + header(name=b"dev", flag=b"4") + file(b"etc", b"x")
# Records that change a file's size or name as a sparse file, without a usable map of its data.
WITHOUT_A_MAP: dict[str, list[tuple[bytes, bytes]]] = {
    "smaller": [(b"GNU.sparse.size", b"0")],
    "larger": [(b"GNU.sparse.size", b"100000")],
    "real size": [(b"GNU.sparse.realsize", b"3")],
    "both sizes": [(b"GNU.sparse.size", b"3"), (b"GNU.sparse.realsize", b"5")],
    "name": [(b"GNU.sparse.name", b"other")],
    "empty map of an unknown version": [(b"GNU.sparse.minor", b"7"), (b"GNU.sparse.map", b"")],
    "no segments": [(b"GNU.sparse.numblocks", b"0"), (b"GNU.sparse.size", b"0")],
    "version 0 without a map": [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.size", b"0")],
    "unknown version": [(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"0")],
    "map of an unknown version": [(b"GNU.sparse.minor", b"7"), (b"GNU.sparse.map", b"0,3"), (b"GNU.sparse.size", b"3")],
    "number that is none": [(b"GNU.sparse.size", b"9" * 5000)],
}


@pytest.mark.parametrize("flag", [b"x", b"g"])
@pytest.mark.parametrize("name", WITHOUT_A_MAP)
def test_sparse_records_without_a_map_say_nothing(name: str, flag: bytes, place: Path) -> None:
    """Go's archive/tar, readGNUSparsePAXHeaders: without a map and a known version, a file is not sparse."""
    tar = pax(*WITHOUT_A_MAP[name], flag=flag) + file(b"innocent", SMUGGLED) + file(b"last", b"x") + END
    assert verify_all_agree([tar], place)
    assert sorted(os.listdir(place / "first")) == ["innocent", "last"]
    assert (place / "first" / "innocent").read_bytes() == SMUGGLED


def test_map_in_a_global_header_says_nothing(place: Path) -> None:
    """A map belongs to one file; Go ignores maps in global headers."""
    records = [(b"GNU.sparse.map", b"512,3"), (b"GNU.sparse.size", b"4096"), (b"GNU.sparse.name", b"other")]
    assert verify_all_agree([pax(*records, flag=b"g") + file(b"a", b"abc") + file(b"b", b"abc") + END], place)
    assert (place / "first" / "a").read_bytes() == (place / "first" / "b").read_bytes() == b"abc"


ENTRY = Entry(EntryType.FILE, b"f", b"", 0o644, 0, 0, 600, 0, None, None, (0, 0), None)


@pytest.mark.parametrize(
    ("chunks", "got"),
    [
        ([], "0"),
        ([b"x" * 599], "599"),
        ([b"x" * 600, b"y"], "at least 601"),
        ([b"x" * 10_000], "at least 10000"),
        ([b"", b"x" * 512, b""], "512"),
    ],
)
def test_writer_refuses_other_bytes_than_its_header_says(chunks: list[bytes], got: str) -> None:
    """No data is written where a reader expects the next header."""
    buffer = io.BytesIO()
    with pytest.raises(SizeMismatchError) as caught:
        TarWriter(buffer.write).write_file(ENTRY, chunks)
    assert str(caught.value) == f"tar to write: 'f': expected 600 bytes of data, got {got}"
    assert len(buffer.getvalue()) <= 512 + ENTRY.size


@pytest.mark.parametrize("kind", EntryType)
def test_writer_refuses_an_entry_of_data_that_it_is_not_given(kind: EntryType) -> None:
    buffer = io.BytesIO()
    with pytest.raises(SizeMismatchError, match=r"^tar to write: 'f': expected 600 bytes of data, got none$"):
        TarWriter(buffer.write).write_entry(ENTRY._replace(type=kind))
    assert buffer.getvalue() == b""


def test_writer_fills_the_last_block() -> None:
    buffer = io.BytesIO()
    TarWriter(buffer.write).write_file(ENTRY, [b"x" * 300, memoryview(b"y" * 300)])
    assert len(buffer.getvalue()) == 512 + 1024


def can_make_devices(place: Path) -> bool:
    try:
        os.mknod(place / "device", 0o20600, os.makedev(1, 3))
    except OSError:
        return False
    os.unlink(place / "device")
    return True


class StrangeTars:
    """Makes layers whose headers contradict themselves and their data; the same seed gives the same layers.

    Some images are almost correct, so that readers get past their first headers.
    """

    _NAMES = (b"a", b"b", b"d", b"d/f", b"d/e/g", b"s", b"a/", b"d/", b"./a", b"d//f", b"n" * 100, b"\xff\xfe")
    _LONG_NAMES = (b"l" * 120, b"d/" + b"k" * 200, b"p/" * 60 + b"q", b"d/f")
    _BAD_NAMES = (
        b".",
        b"./",
        b"a\0b",
        b"",
        b"/a",
        b"../out",
        b"d/../a",
        b"d/../../out",
        b"a b\n",
        b"s/x",
        b"a/b",
        b"o" * 300,
    )
    _WHITEOUTS = (b".wh.a", b"d/.wh.f", b".wh.d", b".wh..wh..opq", b"d/.wh..wh..opq", b".wh..wh.plnk/5")
    _BAD_WHITEOUTS = (b".wh.", b".wh...", b"a/.wh.b", b".wh.a/b", b".wh..wh.plnk", b"s/.wh.f")
    _TARGETS = (b"a", b"d", b"d/f", b"b")
    _BAD_TARGETS = (b"/d", b"../a", b"../../etc", b"s", b"", b"missing", b"t" * 100)
    _NUMBERS = (b"3", b"0", b"1000", b"0003")
    _BAD_NUMBERS = (
        *(b"", b"1", b"511", b"512", b"513", b"1024", b"-1", b"+3", b" 3", b"3 ", b"0" * 25 + b"3", b"9" * 19),
        *(b"9" * 20, b"9" * 5000, b"1e3", b"1e400", b"1.5", b"0x10", b"\xb2", b"4294967295"),
    )
    _SPARSE_KEYS = (b"size", b"realsize", b"numblocks", b"major", b"minor", b"offset", b"numbytes", b"map", b"name")
    _MAPS = (b"0,3", b"3,3", b"0,1,2,2", b"0,512", b"512,3", b"0,0")
    _BAD_MAPS = (b"", b"2,2,0,1", b"0,3,", b",", b"0", b"4096,0", b"x,3", b"0," + b"9" * 19, b"9" * 5000 + b",3")

    def __init__(self, seed: int, *, devices: bool) -> None:
        self._random = random.Random(seed)
        self._wildness = self._pick((0.0, 0.01, 0.05, 0.3))
        self._flags = b"00000005512267DS\0" + (b"34" if devices else b"")

    def layers(self) -> list[bytes]:
        """Return an image's tars."""
        return [self._layer() for _ in range(self._pick((1, 1, 2, 3)))]

    def _layer(self) -> bytes:
        parts = [self._entry() for _ in range(self._random.randint(1, 5))]
        return b"".join(parts) + self._pick((END, END, END, b"", bytes(512)))

    def _pick(self, honest: Sequence[T], wild: Sequence[T] = ()) -> T:
        return self._random.choice(wild if wild and self._chance(self._wildness) else honest)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _entry(self) -> bytes:
        before = b"".join(self._extension() for _ in range(self._pick((0, 0, 1, 1, 2))))
        start = self._random.randrange(len(self._flags))
        flag = self._flags[start : start + 1]
        names = (*self._NAMES, b"./", b".") if flag == b"5" else self._NAMES
        name = self._whiteout() if self._chance(0.1) else self._pick(names, self._BAD_NAMES)
        data = self._data() if flag in (b"0", b"7", b"S", b"D", b"\0") else b""
        fields = {"flag": flag, "mode": self._pick((b"0000644\0", b"0000755\0", b"0004711\0", b"0000000\0", b"644"))}
        fields["size"] = self._pick((octal(len(data)),), (b"", octal(3), octal(512), octal(1536), b"\xff" * 12, b"9"))
        fields["mtime"] = self._pick(
            (octal(5), octal(8**11 - 1), b"\xff" * 12, b"\x80" + bytes(10) + b"\5"), (b"", b"8")
        )
        if flag in (b"1", b"2"):
            fields["link"] = self._pick(self._TARGETS, self._BAD_TARGETS)
        if flag in (b"3", b"4"):
            fields["at_329"] = self._pick((b"0000001\0",), (b"0000400\0", b"", b"9"))
            fields["at_337"] = self._pick((b"0000003\0", b""), (b"0000400\0", b"7777777\0", b"9"))
        if flag == b"S":
            fields |= {"magic": b"ustar  \0", **self._old_sparse_map(len(data))}
        elif self._chance(0.1):
            fields["magic"] = self._pick((b"ustar  \0", b"\0" * 8, b"ustar\x00 0"))
        return before + header(name=name, **fields) + padded(data)

    def _whiteout(self) -> bytes:
        return self._pick(self._WHITEOUTS, self._BAD_WHITEOUTS)

    def _old_sparse_map(self, size: int) -> dict[str, bytes]:
        end = self._pick((512 + size,), (size, 0, 3, 1 << 40))
        pairs = self._pick((octal(512) + octal(size),), (b"", octal(0) + octal(3) + octal(9) + octal(1), b"\xff" * 24))
        return {"at_386": pairs, "at_482": self._pick((b"\0",), (b"\1",)), "at_483": octal(end)}

    def _data(self) -> bytes:
        if self._chance(0.2):
            return SMUGGLED
        if self._chance(0.15):  # a map of format 1.0, and data
            return (
                padded(self._pick((b"1\n0\n3\n",), (b"0\n", b"2\n0\n1\n4\n2\n", b"1\n0\n", b"x\n", b"9" * 5000)))
                + b"abc"
            )
        return b"abc" * self._pick((0, 1, 1, 2, 170, 171, 342, 400))

    def _extension(self) -> bytes:
        kind = self._random.randrange(10)
        if kind == 0:
            return gnu_long(self._pick(self._LONG_NAMES, self._BAD_NAMES), self._pick((b"L",), (b"K",)))
        if kind == 1:
            return file(b"label", self._data(), flag=self._pick((b"V", b"N"), (b"A", b"g", b"x")))
        records = [self._record() for _ in range(self._random.randint(1, 3))]
        if self._chance(0.5):
            records += self._sparse_records()
        return pax(*records, flag=self._pick((b"x", b"x", b"X", b"g")))

    def _record(self) -> tuple[bytes, bytes]:
        kind = self._random.randrange(5)
        if kind == 0:
            names = (*self._NAMES, *self._LONG_NAMES, *self._WHITEOUTS)
            return self._pick((b"path",), (b"linkpath",)), self._pick(names, self._BAD_NAMES)
        if kind == 1:
            return b"comment", b"x" * self._random.randrange(600)
        if kind == 2:
            return self._pick((b"mtime", b"atime")), self._pick((b"5", b"1.5", b"-2.25", b""), self._BAD_NUMBERS)
        key = self._pick((b"uid", b"gid"), (b"size",))
        return key, self._pick(self._NUMBERS, self._BAD_NUMBERS)

    def _sparse_records(self) -> list[tuple[bytes, bytes]]:
        """Return records that have no effect, or fit data of three bytes, and sometimes one more record."""
        records = self._pick(
            (
                [(b"size", b"0")],
                [(b"realsize", b"100000")],
                [(b"size", b"3"), (b"name", b"d/other")],
                [(b"major", b"0"), (b"minor", b"1"), (b"size", b"9")],
                [(b"major", b"2"), (b"minor", b"0"), (b"realsize", b"9"), (b"map", b"0,3")],
            ),
            (
                [(b"map", b"0,3"), (b"size", b"3")],
                [(b"map", b"512,3"), (b"size", b"4096"), (b"numblocks", b"1"), (b"name", b"d/sparse")],
                [(b"offset", b"0"), (b"numbytes", b"1"), (b"offset", b"4"), (b"numbytes", b"2"), (b"size", b"10")],
                [(b"major", b"1"), (b"minor", b"0"), (b"realsize", b"3"), (b"name", b"sparse")],
            ),
        )
        more = [] if self._chance(0.8 - self._wildness) else [self._sparse_record()]
        return [(b"GNU.sparse." + key, value) for key, value in (*records, *more)]

    def _sparse_record(self) -> tuple[bytes, bytes]:
        key = self._pick(self._SPARSE_KEYS)
        if key == b"map":
            return key, self._pick(self._MAPS, self._BAD_MAPS)
        if key == b"name":
            return key, self._pick(self._NAMES, self._BAD_NAMES)
        return key, self._pick((b"0", b"1", b"3"), (b"7", *self._BAD_NUMBERS))


def verify_seeds_agree(seeds: range, place: Path) -> int:
    """Assert that all readers agree on the tars of each seed, and return how many unpack."""
    devices = can_make_devices(place)
    whole = 0
    for seed in seeds:
        tars, own = StrangeTars(seed, devices=devices).layers(), place / str(seed)
        own.mkdir()
        try:
            whole += verify_all_agree(tars, own)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        shutil.rmtree(own)
    return whole


def test_readers_agree_on_some_strange_tars(place: Path) -> None:
    assert 20 < verify_seeds_agree(range(100), place) < 80, "some are refused and some are not"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 1100, 200))
def test_readers_agree_on_many_strange_tars(start: int, place: Path) -> None:
    verify_seeds_agree(range(start, start + 200), place)
