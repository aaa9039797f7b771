"""Raw tar headers as umoci, GNU tar and bsdtar read them: if they differ, we follow umoci, or a comment says why not.

umoci reads layers with Go's archive/tar, as docker, containerd and podman do, so its result is what the image's
publisher saw. A header that umoci refuses and the other two read is read as they do.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.rootfs.unpack import unpack
from tests.layers.test_tar_reader import header
from tests.support.image_builder import build_image, write_layout
from tests.support.system_parts import require, run
from tests.support.tree_metadata import Record, describe_tree

pytestmark = pytest.mark.system


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes = b"a", data: bytes = b"x", **fields: bytes) -> bytes:
    return header(**{"name": name, "size": octal(len(data)), **fields}) + padded(data)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    data = b""
    for key, value in records:
        body = b" %s=%s\n" % (key, value)
        length = len(body) + 1
        while length != len(body) + len(b"%d" % length):
            length += 1
        data += b"%d%s" % (length, body)
    return file(b"extension", data, flag=flag)


def gnu_long(name: bytes, flag: bytes = b"L") -> bytes:
    return file(b"././@LongLink", name + b"\0", flag=flag, magic=b"ustar  \0")


END = file(b"end") + bytes(1024)
LINK = {"flag": b"2", "link": b"target"}
# All readers agree, but some give up: the expected result is umoci's.
AS_UMOCI = {
    "slash behind a file": file(b"a/") + END,
    "slash behind an old directory": file(b"a/", b"", flag=b"\0") + END,
    "directory with a size": header(name=b"a/", flag=b"5", size=octal(512)) + END,
    "old directory with a size": header(name=b"a/", flag=b"\0", magic=bytes(8), size=octal(512)) + END,
    "old directory with a PAX size": pax((b"size", b"512")) + header(name=b"a/", flag=b"\0") + END,
    "old directory by its long name": gnu_long(b"a/") + header(name=b"a", flag=b"\0", size=octal(512)) + END,
    "directory with a PAX size": pax((b"size", b"3")) + header(name=b"a/", flag=b"5") + END,
    "link with a size": header(size=octal(512), **LINK) + END,
    "hard link with a size": file(b"b") + header(flag=b"1", link=b"b", size=octal(512)) + END,
    "fifo with a size": header(flag=b"6", size=octal(512)) + END,
    "link with a slash": header(name=b"a/", **LINK) + END,
    "hard link with a slash": file(b"b") + header(name=b"a/", flag=b"1", link=b"b") + END,
    "hard link to a slash": file(b"b") + header(flag=b"1", link=b"b/") + END,
    "device": header(flag=b"3", at_329=b"0000001\0", at_337=b"0000003\0") + END,
    "device of no number": header(flag=b"3") + END,
    "device with PAX numbers": pax((b"SCHILY.devmajor", b"7")) + header(flag=b"3", at_329=b"0000001\0") + END,
    "path twice": pax((b"path", b"first"), (b"path", b"second")) + file() + END,
    "two extensions": pax((b"path", b"first")) + pax((b"mtime", b"5")) + file() + END,
    "long name and path": gnu_long(b"gnu") + pax((b"path", b"pax")) + file() + END,
    "path and long name": pax((b"path", b"pax")) + gnu_long(b"gnu") + file() + END,
    "two long names": gnu_long(b"first") + gnu_long(b"second") + file() + END,
    "no long name": gnu_long(b"") + file() + END,
    "long names": gnu_long(b"name") + gnu_long(b"target", b"K") + header(**LINK) + END,
    "no path": pax((b"path", b"")) + file() + END,
    "path with a slash": pax((b"path", b"p/")) + file() + END,
    "target": pax((b"linkpath", b"pax")) + header(**LINK) + END,
    "user's name": pax((b"uname", b"daemon")) + file() + END,
    "PAX size": pax((b"size", b"3")) + header() + padded(b"abc") + END,
    "smaller PAX size": pax((b"size", b"1")) + header(size=octal(3)) + padded(b"abc") + END,
    "binary size": header(size=b"\x80" + (3).to_bytes(11, "big")) + padded(b"abc") + END,
    "size with blanks": header(size=b"         3 \0") + padded(b"abc") + END,
    "size with blanks behind": header(size=b"3           ") + padded(b"abc") + END,
    "size of 12 digits": header(size=b"000000000003") + padded(b"abc") + END,
    "size behind a NUL": header(size=b"\0" + b"0000000003\0") + padded(b"abc") + END,
    "size behind NULs and blanks": header(size=b"\0 \0 3 \0".ljust(12, b"\0")) + padded(b"abc") + END,
    "owner and mode behind NULs": file(uid=b"\0" + b"1750\0", mode=b"\0\0\0" + b"755\0") + END,
    "no size": header(size=b" " * 12) + END,
    "no mode": file(mode=bytes(8)) + END,
    "mode with a type": file(mode=b"0100755\0") + END,
    "no time": file(mtime=bytes(12)) + END,
    "binary time before 1970": file(mtime=b"\xff" * 12) + END,
    "PAX time before 1970": pax((b"mtime", b"-1.5")) + file() + END,
    "prefix": file(at_345=b"pre/fix") + END,
    "prefix with a slash": file(at_345=b"pre/fix/") + END,
    "prefix of an old tar": file(magic=bytes(8), at_345=b"pre/fix") + END,
    "prefix of another version": file(magic=b"ustar\0  ", at_345=b"pre/fix") + END,
    "prefix of old Go": file(magic=b"ustar  \0", at_345=b"pre/fix" * 16) + END,
    "prefix of old Go, directory": header(name=b"a/", flag=b"5", magic=b"ustar  \0", at_345=b"pre/fix") + END,
    "prefix of old Go, link": header(**LINK, magic=b"ustar  \0", at_345=b"pre/fix") + END,
    "prefix of old Go behind digits": file(magic=b"ustar  \0", at_345=b"00000000001/b") + END,
    "prefix of old Go, not ASCII": file(magic=b"ustar  \0", at_345="pré/fix".encode()) + END,
    "GNU's times": file(magic=b"ustar  \0", at_345=octal(1) + octal(2)) + END,
    "GNU's binary times": file(magic=b"ustar  \0", at_345=b"\xff" * 24) + END,
    "one of GNU's times": file(magic=b"ustar  \0", at_357=octal(2)) + END,
    "name of 100": file(b"n" * 100) + END,
    "target of 100": header(flag=b"2", link=b"t" * 100) + END,
    "no end": file(),
    "half an end": file() + bytes(512),
    "no padding": header(size=octal(3)) + b"abc",
    "file behind the end": file() + bytes(1024) + file(b"b") + bytes(1024),
    "comment": pax((b"comment", b"x\n\n")) + file() + END,
    "label of SELinux": pax((b"RHT.security.selinux", b"label")) + file() + END,
    "file, then directory": file() + header(name=b"a/", flag=b"5") + file(b"a/b") + END,
    "dot": file(b"./a") + END,
    "absolute": file(b"/a") + END,
    "dots within": file(b"x/../a") + END,
    "two slashes": file(b"x//a") + END,
    "dot within": file(b"x/./a") + END,
    "backslash": file(b"x\\a") + END,
    "line break": file(b"x\na") + END,
}
# umoci refuses these; GNU tar and bsdtar agree.
AS_TAR = {
    "contiguous file": file(flag=b"7") + END,
    "names in a directory": file(b"a/", b"Yx\0\0", flag=b"D", magic=b"ustar  \0") + END,
    "volume's label": header(name=b"label", flag=b"V", magic=b"ustar  \0") + END,
    "global header alone": pax((b"comment", b"x"), flag=b"g") + bytes(1024),
    "global header at the end": file() + pax((b"comment", b"x"), flag=b"g") + bytes(1024),
    "Solaris's extension": pax((b"path", b"long"), flag=b"X") + file() + END,
}
# umoci accepts these; each line says why we do not.
REFUSED = {
    # The kernel reads it as "no change", so the owner would depend on the user who unpacks.
    "owner -1": pax((b"uid", b"4294967295")) + file() + END,
    "binary owner -1": file(uid=b"\xff" * 8) + END,
    # POSIX has only unsigned numbers.
    "owner below 0": pax((b"uid", b"-3")) + file() + END,
    "time with a sign": pax((b"mtime", b"+1")) + file() + END,
    # The archive is truncated.
    "extension at the end": file() + pax((b"path", b"p")) + bytes(1024),
}


def without_implied_times(tree: dict[bytes, Record]) -> dict[bytes, Record]:
    """Return the tree without its root and without the times of implied parents, which umoci does not set."""
    return {
        path: replace(record, mtime_ns=0) if record.type == "0o40000" else record
        for path, record in tree.items()
        if path != b"."
    }


def unpacked(tar: bytes, place: Path) -> dict[bytes, Record]:
    unpack(build_image([tar]).source(), place)
    return without_implied_times(describe_tree(place))


@pytest.mark.parametrize("tar", AS_UMOCI.values(), ids=AS_UMOCI)
def test_header_is_read_as_umoci_reads_it(tar: bytes, tmp_path: Path) -> None:
    require("umoci", root=True)
    write_layout(tmp_path / "layout", {"1": build_image([tar])})
    run("umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "theirs")
    assert unpacked(tar, tmp_path / "ours") == without_implied_times(describe_tree(tmp_path / "theirs"))


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
@pytest.mark.parametrize("tar", AS_TAR.values(), ids=AS_TAR)
def test_header_that_umoci_refuses_is_read_as_tar_reads_it(tar: bytes, program: str, tmp_path: Path) -> None:
    require(program, root=True)
    (tmp_path / "theirs").mkdir()
    subprocess.run([program, "-C", str(tmp_path / "theirs"), "-xpf", "-"], input=tar, check=True)
    assert unpacked(tar, tmp_path / "ours") == without_implied_times(describe_tree(tmp_path / "theirs"))


@pytest.mark.parametrize("tar", REFUSED.values(), ids=REFUSED)
def test_header_that_means_nothing_is_refused(tar: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError):
        unpack(build_image([tar]).source(), tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []
