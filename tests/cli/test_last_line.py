"""The last line of pull and unpack names source, target and digest once; standard output stays as scripts expect it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.command import command_environment, command_line
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member

IMAGE = build_image([[member("a", b"1")], [member("b", b"2")]])
INDEX = build_index([IMAGE])
ARTIFACT = build_artifact(b"a chart")


def run(home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command_line(*words),
        env=command_environment(home, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
        cwd=home,
        capture_output=True,
        timeout=120,
        check=False,
    )


def assert_last_line(said: bytes, source: str, target: str, image: BuiltImage) -> None:
    """Issue 16: the last line names source, target and digest once, and shortly."""
    line = said.decode().splitlines()[-1]
    assert line.startswith("ociexport: ")
    for part in (source, f" to {target}: ", image.digest.short):
        assert line.count(part) == 1, (line, part)
    assert line.count("sha256:") == 1
    assert image.digest.encoded not in line
    assert len(line) - len(source) - len(target) < 100


@pytest.mark.parametrize(
    ("image", "options"),
    [(IMAGE, []), (INDEX, ["--all"]), (ARTIFACT, []), (IMAGE, ["--referrers"])],
    ids=["image", "index", "artifact", "referrers"],
)
@pytest.mark.parametrize("tag", ["1", None], ids=["tag", "digest"])
def test_pull_ends_with_one_short_line(
    registry: FakeRegistry, tmp_path: Path, image: BuiltImage, options: list[str], tag: str | None
) -> None:
    reference = image.serve(registry, "library/app", tag)
    name = reference.partition("@")[0]
    for target in ("./l", "./l.tar") if image is IMAGE and not options else ("./l",):
        ended = run(tmp_path, "pull", reference, "-o", target, *options)
        assert (ended.returncode, ended.stdout.decode()) == (0, f"{name}@{image.digest}\n")
        assert_last_line(ended.stderr, name, target, image)


def test_archive_on_standard_output_is_named(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "library/app", "1")
    ended = run(tmp_path, "pull", reference, "-o", "-")
    *_, last, digest = ended.stderr.decode().splitlines()
    assert (ended.returncode, digest) == (0, f"{reference}@{IMAGE.digest}")
    assert_last_line(last.encode(), reference, "standard output", IMAGE)


@pytest.mark.parametrize("source", ["./l:127.0.0.1:5000/base:v1", "oci:./l:127.0.0.1:5000/base:v1"])
@pytest.mark.parametrize("target", [["./r"], ["--to-tar", "t.tar"]], ids=["tree", "tar"])
def test_unpack_ends_with_one_short_line(tmp_path: Path, source: str, target: list[str]) -> None:
    write_layout(tmp_path / "l", {"127.0.0.1:5000/base:v1": IMAGE})
    ended = run(tmp_path, "unpack", source, *target)
    assert (ended.returncode, ended.stdout.decode()) == (0, f"{IMAGE.digest}\n")
    assert_last_line(ended.stderr, "./l:127.0.0.1:5000/base:v1", target[-1], IMAGE)


def test_image_by_digest_has_no_second_digest(tmp_path: Path) -> None:
    """The index that was named is another document than the manifest that was unpacked."""
    write_layout(tmp_path / "l", {"one": INDEX})
    for target, digest in (("./r", INDEX.digest), ("./s", IMAGE.digest)):
        ended = run(tmp_path, "unpack", f"./l@{digest}", target)
        assert (ended.returncode, ended.stdout.decode()) == (0, f"{IMAGE.digest}\n"), ended.stderr
        assert_last_line(ended.stderr, "./l", target, IMAGE)


def test_tar_on_standard_output_is_only_a_tar(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", {"one": IMAGE})
    ended = run(tmp_path, "unpack", "./l:one", "--to-tar", "-")
    assert ended.stdout[257:262] == b"ustar"
    assert_last_line(ended.stderr, "./l:one", "standard output", IMAGE)


def test_numbers_fit_their_nouns(registry: FakeRegistry, tmp_path: Path) -> None:
    image = build_image([[member("a", b"1")]])
    reference = image.serve(registry, "library/app", "1")
    run(tmp_path, "pull", reference, "-o", "./l", "--quiet")
    other = build_image([[member("a", b"1")]], edit_config=lambda config: config.update(author="someone"))
    said = run(tmp_path, "pull", other.serve(registry, "library/app", "2"), "-o", "./l").stderr.decode()
    assert ", 1 blob (" in said.splitlines()[-1]
    said = run(tmp_path, "unpack", "./l:1", "./r").stderr.decode()
    assert ", 1 layer\n" in said
    assert ", 1 entry, " in said.splitlines()[-1]


def test_quiet_and_json_keep_their_contracts(registry: FakeRegistry, tmp_path: Path) -> None:
    """CONVENTIONS: data on standard output, the rest on standard error; --quiet leaves only warnings."""
    reference = IMAGE.serve(registry, "library/app", "1")
    ended = run(tmp_path, "pull", reference, "-o", "./l", "--quiet")
    assert (ended.stdout.decode(), ended.stderr) == (f"{reference}@{IMAGE.digest}\n", b"")
    ended = run(tmp_path, "pull", reference, "-o", "./l", "--json")
    assert json.loads(ended.stdout)["images"][0]["digest"] == str(IMAGE.digest)
    assert_last_line(ended.stderr, reference, "./l", IMAGE)
    ended = run(tmp_path, "unpack", "./l:1", "./r", "--quiet")
    assert (ended.stdout.decode(), ended.stderr) == (f"{IMAGE.digest}\n", b"")
    ended = run(tmp_path, "unpack", "./l:1", "./s", "--json")
    told = json.loads(ended.stdout)
    assert (told["manifestDigest"], told["configDigest"]) == (str(IMAGE.digest), str(IMAGE.config.digest))
    assert_last_line(ended.stderr, f"./l:{reference}", "./s", IMAGE)
