"""digest: a digest that exists is valid, and a stream is verified at its end."""

from __future__ import annotations

import contextlib
import hashlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import DigestMismatchError, InvalidDigestError, SizeMismatchError
from ociexport.spec.digest import Digest, VerifyingReader

HELLO = Digest("sha256", hashlib.sha256(b"hello").hexdigest())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "digest: expected 'algorithm:hexadecimal', got ''"),
        ("sha256", "digest: expected 'algorithm:hexadecimal', got 'sha256'"),
        ("md5:" + "a" * 32, "digest algorithm: expected sha256 or sha512, got 'md5'"),
        ("SHA256:" + "a" * 64, "digest algorithm: expected sha256 or sha512, got 'SHA256'"),
        ("sha256:abc", "digest: expected 64 lower-case hexadecimal digits after 'sha256:', got 'abc'"),
        ("sha512:abc", "digest: expected 128 lower-case hexadecimal digits after 'sha512:', got 'abc'"),
        (
            "sha256:../../x",
            "digest: expected 64 lower-case hexadecimal digits after 'sha256:', got '../../x'",
        ),
        (
            "sha256:" + "A" * 64,
            f"digest: expected 64 lower-case hexadecimal digits after 'sha256:', got '{'A' * 64}'",
        ),
        (
            "sha256:" + "a" * 64 + "\n",
            f"digest: expected 64 lower-case hexadecimal digits after 'sha256:', got '{'a' * 64}\\n'",
        ),
    ],
)
def test_what_is_no_digest_is_refused(text: str, message: str) -> None:
    """image-spec descriptor.md, "Digests": lower case only, and no character that could change a path."""
    with pytest.raises(InvalidDigestError) as caught:
        Digest.parse(text)
    assert str(caught.value) == message


@given(st.text())
def test_any_text_is_a_digest_or_an_invalid_digest_error(text: str) -> None:
    with contextlib.suppress(InvalidDigestError):
        assert str(Digest.parse(text)) == text


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_reads_as_it_is_written(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.encoded == hashlib.new(algorithm, content).hexdigest()


def test_short_is_what_docker_shows() -> None:
    assert HELLO.short == "2cf24dba5fb0"


def read_all(reader: VerifyingReader, size: int = 3) -> bytes:
    return b"".join(iter(lambda: reader.read(size), b""))


def test_right_stream_is_read_to_its_end() -> None:
    with VerifyingReader(BytesIO(b"hello"), HELLO, 5, subject="blob") as reader:
        assert read_all(reader) == b"hello"


def test_right_stream_of_unknown_size_is_read_to_its_end() -> None:
    assert read_all(VerifyingReader(BytesIO(b"hello"), HELLO, None, subject="blob")) == b"hello"


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"hell", SizeMismatchError, "blob: size mismatch: expected 5 bytes, got 4"),
        (b"hello!", SizeMismatchError, "blob: size mismatch: expected 5 bytes, got more (6 so far)"),
        (b"", SizeMismatchError, "blob: size mismatch: expected 5 bytes, got 0"),
        (
            b"hallo",
            DigestMismatchError,
            f"blob: digest mismatch: expected {HELLO}, got {Digest.of(b'hallo')}",
        ),
    ],
)
@pytest.mark.parametrize("size", [-1, 1, 3, 100])
def test_wrong_stream_never_ends_well(content: bytes, kind: type[Exception], message: str, size: int) -> None:
    with pytest.raises(kind) as caught:
        read_all(VerifyingReader(BytesIO(content), HELLO, 5, subject="blob"), size)
    assert str(caught.value) == message


def test_endless_stream_ends_at_its_declared_size() -> None:
    class Endless(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return b"x" * 100

    with pytest.raises(SizeMismatchError):
        read_all(VerifyingReader(Endless(), HELLO, 1000, subject="blob"))


def test_reading_no_bytes_verifies_nothing() -> None:
    reader = VerifyingReader(BytesIO(b"hello"), HELLO, 5, subject="blob")
    assert reader.read(0) == b""


def test_reader_closes_what_it_reads() -> None:
    stream = BytesIO(b"hello")
    VerifyingReader(stream, HELLO, 5, subject="blob").close()
    assert stream.closed


def test_page_in_place_of_a_blob_is_called_one() -> None:
    """Login pages and captive portals answer every request with 200."""
    page = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
    with pytest.raises(SizeMismatchError) as caught:
        read_all(VerifyingReader(BytesIO(page), HELLO, 5, subject="blob"), 100)
    assert str(caught.value) == (
        "blob: size mismatch: expected 5 bytes, got more (55 so far) (HTML document, ASCII text)"
    )
