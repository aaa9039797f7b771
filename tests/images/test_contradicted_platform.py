"""--platform is contradicted by the config of an image without an index: no command takes the image, exit 10."""

from __future__ import annotations

from pathlib import Path

import pytest

import ociexport
from ociexport.cli.main import main
from ociexport.errors import NoMatchingPlatformError
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform, parse_platform, verify_not_contradicted
from tests.support import platform_commands
from tests.support.image_builder import build_image, build_index, write_layout
from tests.support.memory_source import member

S390X = build_image([[member("arch", b"1")]], platform=Platform("linux", "s390x"))
ALONE = build_index([S390X], edit_index=lambda index: index["manifests"][0].pop("platform"))
COMMANDS = [*platform_commands.COMMANDS, "which-layer {} /arch", "diff tree {}"]
# These show the platform, or check what is stored for any platform.
SILENT_COMMANDS = ("inspect", "verify")


@pytest.fixture(autouse=True)
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    write_layout(Path("l"), {"single": S390X, "alone": ALONE})
    Path("tree").mkdir()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("tag", ["single", "alone"])
def test_requested_platform_is_refused(capsys: pytest.CaptureFixture[str], tag: str, command: str) -> None:
    assert main([*command.format(f"./l:{tag}").split(), "--platform", "linux/s309x"]) == 10
    written = capsys.readouterr().err.splitlines()
    error = f"manifest {S390X.digest}: no image for platform linux/s309x, there is only: linux/s390x"
    assert written[-2:] == [f"ociexport: error: {error}", "hint: did you mean --platform linux/s390x?"]
    assert sorted(path.name for path in Path().iterdir()) == ["l", "tree"]


@pytest.mark.parametrize("command", COMMANDS)
def test_platform_of_the_machine_is_no_request(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(command.format("./l:single").split()) == (1 if command.startswith("diff") else 0)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    told = [f"ociexport: warning: ./l:single: is for linux/s390x only, not for {host_platform()}"]
    assert warnings == ([] if command.startswith(SILENT_COMMANDS) else told)


@pytest.mark.parametrize("command", [one for one in COMMANDS if not one.startswith(("verify", "inspect --raw"))])
def test_variable_is_a_request(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """docker: DOCKER_DEFAULT_PLATFORM sets --platform."""
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    assert main(command.format("./l:single").split()) == 10


@pytest.mark.parametrize("wanted", ["linux/arm/v6", "linux/arm/v7", "linux/arm/v8"])
def test_config_without_a_variant_contradicts_none(wanted: str) -> None:
    """image-spec 1.1 config.md: the variant is optional, and old images for arm/v6 lack it."""
    verify_not_contradicted(Platform("linux", "arm"), parse_platform(wanted), "x")


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [("linux/arm/v7", "linux/arm/v6"), ("linux/amd64/v3", "linux/amd64"), ("windows/amd64", "linux/amd64")],
)
def test_config_of_a_higher_variant_or_another_system_contradicts(offered: str, wanted: str) -> None:
    with pytest.raises(NoMatchingPlatformError):
        verify_not_contradicted(parse_platform(offered), parse_platform(wanted), "x")


def test_each_requested_platform_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "./l:single", "-o", "out", "--platform", "linux/s390x,linux/arm64"]) == 10
    assert "no image for platform linux/arm64, there is only: linux/s390x" in capsys.readouterr().err
    assert main(["pull", "./l:alone", "-o", "out", "--platform", "linux/s390x,linux/arm64"]) == 10
    assert main(["pull", "./l:single", "-o", "out", "--platform", "linux/s390x"]) == 0


def test_library_s_platform_is_a_request() -> None:
    with pytest.raises(NoMatchingPlatformError):
        ociexport.unpack("./l:single", "root", platform=Platform("linux", "arm64"))
    assert ociexport.unpack("./l:single", "root", platform=Platform("linux", "s390x")).manifest_digest == S390X.digest


def test_verify_leaves_out_other_images_of_a_layout(capsys: pytest.CaptureFixture[str]) -> None:
    write_layout(Path("l"), {"amd64": build_image([[member("b")]]), "single": S390X})
    assert main(["verify", "./l", "--platform", "linux/s390x"]) == 0
    assert ": left out: for another platform" in capsys.readouterr().out
