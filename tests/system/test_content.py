"""content: what is no tar is named by its first bytes, and no tar is taken for anything else."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError
from ociexport.spec import mediatypes
from ociexport.system.compression import read_layer
from ociexport.system.content import begins_tar, name_of_content
from tests.support.memory_source import directory, member, symlink, tar_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TAR = tar_of([directory("etc"), member("etc/hostname", b"box\n" * 1000)])
ENCRYPTED = f"{mediatypes.OCI_LAYER_GZIP}+encrypted"
# No byte of it is text, and it begins as no format does.
NOISE = bytes(range(255, -1, -1)) * 16


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", content)
    return buffer.getvalue()


def piped_through(*command: str) -> bytes:
    return subprocess.run(command, input=TAR, capture_output=True, check=True, timeout=60).stdout


NAMED: dict[str, tuple[bytes, str]] = {
    "a login page": (b"\n<!-- portal -->\n<!DOCTYPE html>\n<html><title>Log in</title>" + b"<p>" * 900, "an HTML page"),
    "a short page": (b"<html><body>blocked</body></html>", "an HTML page"),
    "a page in capitals": (b"<HTML><HEAD>" + b"x" * 5000, "an HTML page"),
    "a page of another alphabet": (("<html>" + "ж" * 4000).encode(), "an HTML page"),
    "an error of a registry": (b'{"errors":[{"code":"DENIED"}]}', "JSON"),
    "an error of storage": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an XML document"),
    "an error of a proxy": (b"upstream connect error", "the text 'upstream connect error'"),
    "a long text": (b"no healthy upstream " * 200, f"the text '{('no healthy upstream ' * 3)[:60]}'…"),
    "base64": (base64.b64encode(TAR), "base64 text"),
    "zip": (zip_of(TAR), "a zip archive"),
    "a cpio archive": (b"070701" + b"0" * 3000, "a cpio archive"),
    "a squashfs image": (b"hsqs" + NOISE, "a squashfs image"),
    "an erofs image": (bytes(1024).replace(b"\0", b"\1") + b"\xe2\xe1\xf5\xe0" + NOISE, "an erofs image"),
    "an ext image": (b"\1" * 1080 + b"\x53\xef" + NOISE, "an ext file system"),
    "a WebAssembly module": (b"\0asm\x01\0\0\0" + NOISE, "a WebAssembly module"),
    "a program": (b"\x7fELF" + NOISE, "an ELF file"),
    "lzma alone": (lzma.compress(TAR, format=lzma.FORMAT_ALONE), "lzma data"),
    "gzip in gzip": (gzip.compress(gzip.compress(TAR)), "gzip data within gzip data"),
    "xz in gzip": (gzip.compress(lzma.compress(TAR)), "xz data within gzip data"),
    "bzip2 in zstd": (zstd.compress(bz2.compress(TAR)), "bzip2 data within zstd data"),
    "zstd in xz": (lzma.compress(zstd.compress(TAR)), "zstd data within xz data"),
    "a page in gzip": (gzip.compress(b"<html>" * 900), "an HTML page within gzip data"),
    "noise": (NOISE, "bytes of no known format, as an encrypted layer has"),
    "noise in zstd": (zstd.compress(NOISE), "bytes of no known format within zstd data"),
    "a damaged header": (b"x" + TAR, "bytes of no known format, as an encrypted layer has"),
    "one byte": (b"\1", "bytes of no known format, as an encrypted layer has"),
}


def read(stored: bytes, media_type: str = "", *, at_once: int = 1 << 20) -> bytes:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(at_once)

    return b"".join(read_layer(Dripping(stored), media_type=media_type))


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_layer_that_is_no_tar_is_named(kind: str, at_once: int) -> None:
    stored, name = NAMED[kind]
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read(stored, mediatypes.OCI_LAYER_GZIP, at_once=at_once)
    assert str(caught.value) == f"expected a tar, got {name}"
    assert (caught.value.hint is not None) == ("HTML" in name)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("lz4", "-c"), "lz4 data"),
        (("lz4", "-l", "-c"), "lz4 data"),
        (("lzip", "-c"), "lzip data"),
        (("lzop", "-c"), "lzop data"),
        (("compress", "-c"), "data of compress"),
        (("openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-k", "x"), "data encrypted by openssl"),
    ],
)
def test_output_of_real_programs_is_named(command: tuple[str, ...], name: str) -> None:
    try:
        stored = piped_through(*command)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    with pytest.raises(UnsupportedMediaTypeError, match=f"^expected a tar, got {name}$"):
        read(stored)


@pytest.mark.parametrize(
    "start",
    [NOISE[:20], TAR[:512][::-1], gzip.compress(TAR)[:30], zstd.compress(TAR)[:30]],
    ids=["noise", "no magic", "gzip", "zstd"],
)
def test_encrypted_layer_is_named_by_its_media_type(start: bytes) -> None:
    """ocicrypt's types; encrypted bytes may begin as any format does."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read(start + NOISE, ENCRYPTED)
    assert str(caught.value) == f"expected a tar, got an encrypted layer, of media type '{ENCRYPTED}'"
    assert caught.value.hint == "decrypt it first, as skopeo copy --decryption-key does"


def test_media_type_that_is_not_a_layers_is_told() -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read(b"{}", "application/vnd.in-toto+json")
    assert str(caught.value) == "expected a tar, got JSON; its media type is 'application/vnd.in-toto+json'"


@pytest.mark.parametrize("media_type", ["", ENCRYPTED, "application/json", "text/html", "application/octet-stream"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_media_type_never_speaks_against_a_tar(compress: Callable[[bytes], bytes], media_type: str) -> None:
    assert read(compress(TAR), media_type) == TAR


@pytest.mark.parametrize("empty", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_empty_tar_is_one(empty: bytes) -> None:
    assert read(empty) == empty
    assert read(gzip.compress(empty)) == empty


def test_damage_after_the_first_header_is_as_before() -> None:
    with pytest.raises(InvalidImageError, match=r"^gzip data: expected a complete stream, got one that ends too soon$"):
        read(gzip.compress(TAR)[:-20])


FORMATS: list[Literal[0, 1, 2]] = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=90)


@given(NAMES, st.sampled_from(FORMATS), st.integers(0, 0o7777), st.integers(0, 2_000_000))
@example("<html>", tarfile.USTAR_FORMAT, 0o644, 0)
@example("PK\x03\x04", tarfile.GNU_FORMAT, 0o644, 0)
@example('{"a":1}', tarfile.PAX_FORMAT, 0o644, 0)
def test_every_tar_begins_one_whatever_its_first_name(
    name: str, format_: Literal[0, 1, 2], mode: int, uid: int
) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.uid = mode, uid
    try:
        head = info.tobuf(format_, "utf-8", "surrogateescape")
    except ValueError:  # too long for this format
        return
    assert begins_tar(head)
    assert read(head + bytes(1024)) == head + bytes(1024)


def stored_checksums(block: bytes) -> Iterator[bytes]:
    """Yield the ways in which programs write the checksum."""
    total = sum(block[:148] + block[156:]) + 256
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    yield b"%06o\0 " % total
    yield b"%07o\0" % total
    yield b"%06o \0" % total
    yield b"%8o" % total
    yield b"\0%06o\0" % total
    yield b"%o\0junk" % total
    yield b"%06o\0 " % signed


def test_checksum_is_read_as_the_reader_of_tars_reads_it() -> None:
    block = tar_of([member("caf\u00e9"), symlink("a", "b")])[1024:1536]
    for field in stored_checksums(block):
        assert begins_tar(block[:148] + field[:8] + block[156:]), field


@given(st.binary(max_size=3000))
def test_any_bytes_are_named_or_not(head: bytes) -> None:
    name = name_of_content(head)
    assert name is None or name.isprintable()
