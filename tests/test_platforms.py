"""platforms: the manifest that runs best on the wanted platform, or the list of those there are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport import mediatypes
from ociexport.digest import Digest
from ociexport.documents import Descriptor, Index, Platform
from ociexport.errors import NoMatchingPlatformError, UsageError
from ociexport.platforms import host_platform, normalize_platform, parse_platform, select_manifest


def index_of(*platforms: Platform | str | None) -> Index:
    """Return an index whose entries' sizes are their positions."""
    entries = tuple(
        Descriptor(
            mediatypes.OCI_MANIFEST,
            Digest.of(b"%d" % position),
            position,
            platform=_platform(platform) if isinstance(platform, str) else platform,
        )
        for position, platform in enumerate(platforms)
    )
    return Index(b"", mediatypes.OCI_INDEX, Digest.of(b""), entries, {}, None, None)


def _platform(text: str) -> Platform:
    system, architecture, *variant = text.split("/")
    return Platform(system, architecture, variant[0] if variant else None)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/3", "linux/amd64/v3"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_platforms_are_read_in_gos_words(text: str, normalized: str) -> None:
    """containerd/platforms, "normalizeArch" and "normalizeOS"."""
    assert str(parse_platform(text)) == normalized


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/amd64 ", "linux//v7", "linux/\x1b"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_platform(text)
    shown = text.replace("\x1b", r"\x1b")
    assert str(caught.value) == f"platform '{shown}': expected os/arch[/variant]"


@pytest.mark.parametrize(
    ("wanted", "offered", "position"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"], 2),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm/v7", ["linux/arm"], 0),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm64/v8"], 0),
        ("linux/amd64", ["Linux/x86_64"], 0),
        ("linux/amd64", [None], 0),
        ("linux/riscv64/odd", ["linux/riscv64/odd"], 0),
    ],
)
def test_best_fitting_entry_is_taken(wanted: str, offered: list[str | None], position: int) -> None:
    """An entry of a lower variant runs on a machine of a higher one; the first of equals."""
    assert select_manifest(index_of(*offered), parse_platform(wanted)).size == position


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/arm64", ["linux/amd64"]),
        ("linux/arm/v5", ["linux/arm/v6"]),
        ("windows/amd64", ["linux/amd64"]),
        ("unknown/unknown", ["unknown/unknown"]),
        ("linux/amd64", [None, None]),
        ("linux/riscv64/odd", ["linux/riscv64"]),
        ("linux/amd64", ["linux/amd64/" + "9" * 5000]),
        ("linux/amd64", ["linux/amd64/v²"]),
    ],
)
def test_entry_that_does_not_fit_is_not_taken(wanted: str, offered: list[str | None]) -> None:
    with pytest.raises(NoMatchingPlatformError):
        select_manifest(index_of(*offered), parse_platform(wanted))


def test_error_lists_what_there_is_once_each() -> None:
    index = index_of("linux/arm64", "linux/arm64", Platform("windows", "amd64", None, "10.0.1"), "evil\n/x")
    with pytest.raises(NoMatchingPlatformError) as caught:
        select_manifest(index, Platform("linux", "s390x"))
    assert str(caught.value) == (
        f"manifest {index.digest}: no image for platform linux/s390x, "
        r"there are: linux/arm64, windows/amd64 (version 10.0.1), evil\n/x"
    )
    assert caught.value.hint == "choose one with --platform"


def test_empty_index_has_none() -> None:
    with pytest.raises(NoMatchingPlatformError, match=r"there are: none$"):
        select_manifest(index_of(), Platform("linux", "amd64"))


def test_attestation_is_no_platform() -> None:
    """BuildKit attestation storage: annotated entries, whose platform is unknown/unknown."""
    index = index_of(None, None)
    attestation = Descriptor(
        mediatypes.OCI_MANIFEST, Digest.of(b"x"), 9, annotations={"vnd.docker.reference.digest": str(Digest.of(b""))}
    )
    index = Index(b"", index.media_type, index.digest, (attestation, index.manifests[0]), {}, None, None)
    assert select_manifest(index, Platform("linux", "amd64")).size == 0


@pytest.mark.parametrize(("wanted", "position"), [("10.0.1", 0), ("10.0.2", 1)])
def test_os_version_is_compared_where_it_is_wanted(wanted: str, position: int) -> None:
    index = index_of(Platform("windows", "amd64", None, "10.0.1"), Platform("windows", "amd64", None, "10.0.2"))
    assert select_manifest(index, Platform("windows", "amd64", None, wanted)).size == position


def test_host_is_a_linux_machine() -> None:
    assert host_platform().os == "linux"
    assert normalize_platform(host_platform()) == host_platform()


@given(st.builds(Platform, st.text(), st.text(), st.text() | st.none(), st.text() | st.none()))
def test_any_platform_of_an_index_is_taken_or_listed(offered: Platform) -> None:
    assert str(offered).isprintable()
    with contextlib.suppress(NoMatchingPlatformError):
        select_manifest(index_of(offered), Platform("linux", "amd64"))
