"""platforms: the manifest that runs best on the requested platform, or an error that lists the available ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import NoMatchingPlatformError, UsageError
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index
from ociexport.spec.platforms import host_platform, normalize_platform, parse_platform, select_manifest


def index_of(*platforms: Platform | str | None) -> Index:
    """Return an index in which each entry's size is its position."""
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
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("Windows(10.0.17763+win32k)/x86_64", "windows(10.0.17763+win32k)/amd64"),
        ("linux(+a+b)/arm64/v9", "linux(+a+b)/arm64/v9"),
        ("linux()/amd64", "linux/amd64"),
    ],
)
def test_platforms_are_read_in_gos_words(text: str, normalized: str) -> None:
    """containerd/platforms, "normalizeArch" and "normalizeOS"."""
    assert str(parse_platform(text)) == normalized


@pytest.mark.parametrize(
    "text",
    ["", "/", "linux/", "a/b/c/d", "linux/amd64 ", "linux//v7", "linux/\x1b", "linux(/amd64", "linux(a b)/amd64"],
)
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
    """An image of a lower variant runs on a machine of a higher one; of equal entries the first is chosen."""
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
        r"there are: linux/arm64, windows(10.0.1)/amd64, evil\n/x"
    )
    assert caught.value.hint == "for example --platform linux/arm64"


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("linux/amd46", "did you mean --platform linux/amd64?"),
        ("amd46", "did you mean --platform linux/amd64?"),
        ("linux/amd46/v1", "did you mean --platform linux/amd64?"),
        ("linux/adm64", "did you mean --platform linux/amd64?"),
        ("linux/amd64v8", "did you mean --platform linux/amd64?"),
        ("linux/risc64", "did you mean --platform linux/riscv64?"),
        ("linx/arm64", "did you mean --platform linux/arm64?"),
        ("linus/amd64", "did you mean --platform linux/amd64?"),
        ("windows/amd64", "for example --platform linux/amd64"),
        ("linux/s390x", "for example --platform linux/amd64"),
        ("linux/arm", "for example --platform linux/amd64"),
    ],
)
def test_misspelt_platform_is_corrected(wanted: str, hint: str) -> None:
    with pytest.raises(NoMatchingPlatformError) as caught:
        select_manifest(index_of("linux/amd64", "linux/arm64", "linux/riscv64"), parse_platform(wanted))
    assert caught.value.hint == hint


def test_common_architecture_is_not_taken_for_a_misspelling() -> None:
    with pytest.raises(NoMatchingPlatformError) as caught:
        select_manifest(index_of("linux/amd64"), parse_platform("linx/arm64"))
    assert caught.value.hint == "for example --platform linux/amd64"


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


@pytest.mark.parametrize(
    ("host", "images", "position"),
    [
        ("10.0.17763", ["10.0.14393.1", "10.0.17763.1", "10.0.17763.300"], 2),
        ("10.0.17763.5", ["10.0.17763.9"], 0),
        ("10.0.17763", [None], 0),
        ("", ["10.0.14393.1", "10.0.17763.1"], 1),
        ("10.0.22631", ["10.0.20348.1", "10.0.20349.1", "10.0.22632.1"], 1),
        ("10.0.26100", ["10.0.20348.1"], 0),
        ("10.0.26200", ["10.0.20348.1", "10.0.26100.1"], 1),
        ("10.0", ["10.0.26100.1"], 0),
    ],
)
def test_windows_takes_the_newest_image_that_it_runs(host: str, images: list[str | None], position: int) -> None:
    """Windows container version compatibility, as containerd/platforms reads it."""
    index = index_of(*(Platform("windows", "amd64", None, version) for version in images))
    assert select_manifest(index, Platform("windows", "amd64", None, host)).size == position


@pytest.mark.parametrize(
    ("host", "image"),
    [
        ("10.0.17763", "10.0.17764.1"),
        ("10.0.17763", "10.1.17763.1"),
        ("10.0.20348", "10.0.17763.1"),
        ("10.0.20348", "10.0.20349.1"),
        ("10.0.26200", "10.0.22631.1"),
        ("10.1", "10.0.17763.1"),
    ],
)
def test_windows_of_another_build_does_not_run_the_image(host: str, image: str) -> None:
    with pytest.raises(NoMatchingPlatformError):
        select_manifest(index_of(Platform("windows", "amd64", None, image)), Platform("windows", "amd64", None, host))


def test_version_of_another_system_does_not_count() -> None:
    index = index_of(Platform("linux", "amd64", None, "6.1"))
    assert select_manifest(index, Platform("linux", "amd64", None, "5.10")).size == 0


@pytest.mark.parametrize(
    ("features", "wanted"),
    [((), ()), ((), ("sse",)), (("sse",), ("sse", "avx"))],
)
def test_image_may_demand_features_that_are_wanted(features: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """image-index.md, os.features: the system must have each of the features."""
    index = index_of(Platform("linux", "amd64", os_features=features))
    assert select_manifest(index, Platform("linux", "amd64", os_features=wanted)).size == 0


def test_image_that_demands_more_is_not_taken() -> None:
    index = index_of(Platform("linux", "amd64", os_features=("sse",)))
    with pytest.raises(NoMatchingPlatformError, match=r"there are: linux\(\+sse\)/amd64$"):
        select_manifest(index, Platform("linux", "amd64"))


def test_win32k_is_not_asked_for() -> None:
    """Only Nano Server, which runs no containers, lacks it."""
    index = index_of(Platform("windows", "amd64", os_features=("win32k",)))
    assert select_manifest(index, Platform("windows", "amd64")).size == 0


def test_host_is_a_linux_machine() -> None:
    assert host_platform().os == "linux"
    assert normalize_platform(host_platform()) == host_platform()


@given(st.builds(Platform, st.text(), st.text(), st.text() | st.none(), st.text() | st.none()))
def test_any_platform_of_an_index_is_taken_or_listed(offered: Platform) -> None:
    assert str(offered).isprintable()
    with contextlib.suppress(NoMatchingPlatformError):
        select_manifest(index_of(offered), Platform("linux", "amd64"))
