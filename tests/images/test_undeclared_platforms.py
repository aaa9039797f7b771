"""Children of an index without a platform are judged by their configs, all of them, before one is refused.

Spec: image-spec 1.1 image-index.md: "platform" is optional.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.cli.main import main
from ociexport.errors import DigestMismatchError, NoMatchingPlatformError, NotFoundError, UnsupportedMediaTypeError
from ociexport.images.resolve import DocumentReader, resolve_manifest
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import parse_platform
from ociexport.storage.layout.layout import ImageLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.platform_commands import COMMANDS

NAMES = ["linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7", "windows/amd64", "linux/s390x"]
IMAGES = {name: build_image([[member("arch", name.encode())]], platform=parse_platform(name)) for name in NAMES}
UNKNOWN = build_image([[member("a")]], platform=Platform("unknown", "unknown"))
CHART, SIGNATURE = build_artifact(b"chart"), build_artifact(b"signature", artifact_type="application/vnd.example.sig")


def undeclared(*images: BuiltImage, without: frozenset[int] | None = None) -> BuiltImage:
    """Return an index of ``images``, without the platforms of those at ``without``, by default of all."""

    def edit(index: dict[str, list[dict[str, object]]]) -> None:
        for number in range(len(images)) if without is None else without:
            index["manifests"][number].pop("platform", None)

    return build_index(images, edit_index=edit)


MIXED = undeclared(CHART, IMAGES["linux/arm64"], UNKNOWN, IMAGES["linux/s390x"])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_judges_by_the_configs(command: str) -> None:
    write_layout(Path("l"), {"1": MIXED})
    assert main([*command.format("./l:1").split(), "--platform", "linux/s390x"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_after_all_are_judged(capsys: pytest.CaptureFixture[str], command: str) -> None:
    write_layout(Path("l"), {"1": MIXED})
    assert main([*command.format("./l:1").split(), "--platform", "linux/s309x"]) == 10
    told = f"manifest {MIXED.digest}: no image for platform linux/s309x, there are: linux/arm64, linux/s390x"
    written = capsys.readouterr().err.splitlines()[-2:]
    assert written == [f"ociexport: error: {told}", "hint: did you mean --platform linux/s390x?"]


@pytest.mark.parametrize("words", [[], ["--sparse"]])
def test_several_platforms_are_pulled_from_a_registry(words: list[str]) -> None:
    with FakeRegistry() as registry:
        name = MIXED.serve(registry, "app", "1")
        assert main(["pull", name, "-o", "out", "--platform", "linux/s390x,linux/arm64", *words]) == 0
    (entry,) = json.loads(Path("out/index.json").read_bytes())["manifests"]
    listed = json.loads((Path("out/blobs/sha256") / entry["digest"].partition(":")[2]).read_bytes())["manifests"]
    assert [one["digest"] for one in listed][-2:] == [
        str(IMAGES["linux/s390x"].digest if not words else UNKNOWN.digest),
        str(IMAGES["linux/arm64" if not words else "linux/s390x"].digest),
    ]


def test_nothing_is_read_where_the_index_says_enough() -> None:
    index = undeclared(IMAGES["linux/arm64"], IMAGES["linux/amd64"], without=frozenset({0}))
    with FakeRegistry() as registry:
        name = index.serve(registry, "app", "1")
        assert main(["pull", name, "-o", "out", "--platform", "linux/amd64"]) == 0
        assert str(IMAGES["linux/arm64"].digest) not in " ".join(request.path for request in registry.requests)


def test_nested_indexes_are_judged_too() -> None:
    nested = undeclared(undeclared(CHART, IMAGES["linux/arm64"]), undeclared(IMAGES["linux/s390x"], UNKNOWN))
    assert resolve_manifest(nested.source(), parse_platform("s390x")).manifest.digest == IMAGES["linux/s390x"].digest
    with pytest.raises(NoMatchingPlatformError, match=r"there are: linux/arm64, linux/s390x$"):
        resolve_manifest(nested.source(), parse_platform("amd64"))


def test_child_that_is_not_there_does_not_hide_another() -> None:
    write_layout(Path("l"), {"1": undeclared(IMAGES["linux/arm64"], IMAGES["linux/amd64"])})
    source = ImageLayout("l").open_image()
    Path(ImageLayout("l").blob_path(IMAGES["linux/arm64"].digest)).unlink()
    assert resolve_manifest(source, parse_platform("amd64")).manifest.digest == IMAGES["linux/amd64"].digest
    with pytest.raises(NoMatchingPlatformError, match="there are: linux/amd64; 1 more can't be read: "):
        resolve_manifest(source, parse_platform("arm64"))
    Path(ImageLayout("l").blob_path(IMAGES["linux/amd64"].digest)).unlink()
    with pytest.raises(NotFoundError):
        resolve_manifest(source, parse_platform("arm64"))


def test_damaged_config_is_no_platform() -> None:
    index = undeclared(IMAGES["linux/arm64"], IMAGES["linux/amd64"])
    for name in ("linux/arm64", "linux/amd64"):
        index.blobs[IMAGES[name].config.digest] = b" " * IMAGES[name].config.size
    with pytest.raises(DigestMismatchError):
        resolve_manifest(index.source(), parse_platform("arm64"))


def test_index_of_artifacts_holds_no_image() -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        resolve_manifest(build_index([CHART, SIGNATURE]).source(), parse_platform("arm64"))
    kinds = "'application/vnd.example.chart', 'application/vnd.example.sig'"
    assert str(caught.value).endswith(f"holds no image, but artifacts of type {kinds}")


@given(
    names=st.lists(st.sampled_from(NAMES), min_size=2, unique=True),
    bare=st.frozensets(st.integers(0, len(NAMES) - 1)),
    wanted=st.sampled_from(NAMES),
)
def test_index_without_platforms_means_what_it_means_with_them(
    names: list[str], bare: frozenset[int], wanted: str
) -> None:
    """Only where an entry with a platform fits too does that one win, since then nothing is judged."""
    images = [IMAGES[name] for name in names]
    bare &= frozenset(range(len(names)))
    index = undeclared(*images, without=bare)
    platform = parse_platform(wanted)
    declared = [image for number, image in enumerate(images) if number not in bare]

    def selected(image: BuiltImage) -> object:
        documents = DocumentReader(image.source())
        try:
            return resolve_manifest(documents, platform).manifest.digest
        except NoMatchingPlatformError:
            return None

    complete = selected(build_index(images))
    assert selected(index) == ((declared and selected(build_index(declared))) or complete)
