"""reference: image references are parsed as in docker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidReferenceError
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("samalba/busybox", "docker.io/samalba/busybox:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("registry-1.docker.io/a/b", "docker.io/a/b:latest"),
        ("docker.io", "docker.io/library/docker.io:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[2001:db8::1]/app:x", "[2001:db8::1]/app:x"),
        ("Example.com/app", "Example.com/app:latest"),
        ("MyHost/app", "MyHost/app:latest"),
        ("registry.aliyuncs.com/acs-sample/ubuntu", "registry.aliyuncs.com/acs-sample/ubuntu:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3.20@{DIGEST}", f"docker.io/library/alpine:3.20@{DIGEST}"),
        ("a__b/c--d/e.f:A_B-C.d", "docker.io/a__b/c--d/e.f:A_B-C.d"),
        (f"ttl.sh/{'a' * 64}:1h", f"ttl.sh/{'a' * 64}:1h"),
    ],
)
def test_references_are_normalized_as_docker_does(text: str, normalized: str) -> None:
    """github.com/distribution/reference, ParseNormalizedNamed and TagNameOnly."""
    assert str(ImageReference.parse(text)) == normalized


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "repository: expected lower-case letters, digits and single separators, got ''"),
        ("Alpine", "repository: must be lower case, got 'Alpine'"),
        ("foo/Bar:1", "repository: must be lower case, got 'foo/Bar'"),
        ("a//b", "repository: expected lower-case letters, digits and single separators, got 'a//b'"),
        ("a/", "repository: expected lower-case letters, digits and single separators, got 'a/'"),
        ("/a", "repository: expected lower-case letters, digits and single separators, got '/a'"),
        ("a:", "tag: expected up to 128 letters, digits, '_', '.' and '-', got ''"),
        ("a:b:c", "tag: expected up to 128 letters, digits, '_', '.' and '-', got 'b:c'"),
        (f"a:{'x' * 129}", f"tag: expected up to 128 letters, digits, '_', '.' and '-', got '{'x' * 129}'"),
        ("a:1\n", "tag: expected up to 128 letters, digits, '_', '.' and '-', got '1\\n'"),
        ("a b", "repository: expected lower-case letters, digits and single separators, got 'a b'"),
        ("https://ghcr.io/a", "registry: expected host[:port], got 'https:'"),
        ("host:0/a", "registry port: expected 1 to 65535, got '0'"),
        ("host:65536/a", "registry port: expected 1 to 65535, got '65536'"),
        ("host:99999999999999999999/a", "registry port: expected 1 to 65535, got '99999999999999999999'"),
        ("[::1/a", "registry: expected host[:port], got '[::1'"),
        ("[:::::]/a", "registry: expected an IPv6 address, got '[:::::]'"),
        ("[1::2::3]:5000/a", "registry: expected an IPv6 address, got '[1::2::3]:5000'"),
        ("a@sha256:abc", "digest: expected 64 lower-case hexadecimal digits after 'sha256:', got 'abc'"),
        ("a@md5:abc", "digest algorithm: expected sha256 or sha512, got 'md5'"),
        ("a" * 64, "repository: expected a name, got 64 hexadecimal digits"),
        (f"x.y/{'b' * 256}", "repository: expected at most 255 characters, got 256"),
    ],
)
def test_what_does_not_parse_is_told_by_its_part(text: str, message: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        ImageReference.parse(text)
    shown = text.replace("\n", "\\n")
    shown = shown if len(shown) <= 200 else shown[:200] + "…"
    assert str(caught.value) == f"image reference '{shown}': {message}"


def test_upper_case_has_a_hint() -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        ImageReference.parse("Foo/Bar/Baz")
    assert caught.value.hint == "did you mean foo/bar/baz?"


def test_neither_tag_nor_digest_is_no_reference() -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        ImageReference("docker.io", "library/alpine")
    assert str(caught.value) == "reference: expected a tag or a digest, got neither"


def test_digest_goes_before_the_tag() -> None:
    reference = ImageReference.parse("alpine:3.20")
    assert reference.manifest_selector == "3.20"
    pinned = reference.with_digest(Digest.parse(DIGEST))
    assert pinned.manifest_selector == DIGEST
    assert (pinned.name, pinned.tag, pinned.is_docker_hub) == ("docker.io/library/alpine", "3.20", True)


HOSTS = st.sampled_from(["docker.io", "ghcr.io", "localhost:5000", "[::1]:80", "10.0.0.1", "Reg.Example-1.com:65535"])
COMPONENTS = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True).filter(lambda c: len(c) < 60)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)


@given(HOSTS, st.lists(COMPONENTS, min_size=2, max_size=4), TAGS | st.none(), st.booleans())
def test_reference_reads_as_it_is_written(host: str, path: list[str], tag: str | None, is_pinned: bool) -> None:
    digest = Digest.parse(DIGEST) if is_pinned or tag is None else None
    reference = ImageReference(host, "/".join(path), tag, digest)
    assert ImageReference.parse(str(reference)) == reference


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9.:/@\[\]_-]{1,60}", fullmatch=True))
def test_any_text_is_a_stable_reference_or_invalid(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except InvalidReferenceError:
        return
    assert ImageReference.parse(str(reference)) == reference
