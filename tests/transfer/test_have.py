"""transfer.bundle.have: what the far side has, told by content, whatever it was given as."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import NotFoundError, OciexportError, UsageError
from ociexport.images.holdings import HeldLayer, Holdings, held_by_docker
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.bundle.have import read_have
from ociexport.transfer.bundle.have_documents import read_document
from ociexport.transfer.bundle.select import ThinOptions
from ociexport.transfer.copy import copy_image
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.sources.open import open_source
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index
from tests.support.saved_archives import of_docker_1_10, write_tar
from tests.support.updates import BASE, NAME, RUNTIME, V1, V2, layer, write_update, write_whole

PLAIN = build_image([BASE, RUNTIME], compression="plain")
LAYERS = [descriptor.digest for descriptor in V1.layers]


def read(text: Path | str) -> Holdings:
    return read_have(str(text), open_source, AMD64)


def inspected(image: BuiltImage, tag: str = "1") -> dict[str, Any]:
    """Return what ``docker image inspect`` prints of an image, shortened."""
    return {
        "Id": str(image.config.digest),
        "RepoTags": [f"app:{tag}"],
        "RootFS": {"Type": "layers", "Layers": [str(diff_id) for diff_id in image.diff_ids]},
    }


def written(path: Path, content: str | bytes | object) -> Path:
    raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
    path.write_bytes(raw if raw is not None else json.dumps(content).encode())
    return path


def archive_of(path: Path, image: BuiltImage) -> Path:
    copy_to_archive([image.source("1", f"{NAME}:1")], str(path), PullOptions(AMD64))
    return path


def receipt_of(place: Path) -> Path:
    layout = write_whole(place / "image", V1)
    ended = run_command("unpack", layout, place / "rootfs", "--receipt", place / "receipt", "-q", home=place)
    assert ended.returncode == 0, ended.stderr
    return place / "receipt"


def write_directory(path: Path, image: BuiltImage) -> Path:
    """Write an image as skopeo's ``dir:`` does."""
    path.mkdir()
    written(path / "version", "Directory Transport Version: 1.1\n")
    written(path / "manifest.json", image.raw)
    for digest, content in image.blobs.items():
        written(path / digest.encoded, content)
    return path


BY_DIGEST: dict[str, Callable[[Path], Path]] = {
    "a layout": lambda place: write_whole(place / "have", V1),
    "an archive": lambda place: archive_of(place / "have", V1),
    "an earlier update": lambda place: write_update(place / "have.tar", V1, "1", write_whole(place / "base", V1)),
    "an earlier thin layout": lambda place: write_update(place / "have", V1, "1", write_whole(place / "base", V1)),
    "a dir:": lambda place: write_directory(place / "have", V1),
    "a bundle.json": lambda place: (
        write_update(place / "have", V1, "1", write_whole(place / "base", V1)) / "bundle.json"
    ),
    "a receipt": receipt_of,
    "a manifest": lambda place: written(place / "have", V1.raw),
    "lines of digests": lambda place: written(place / "have", "".join(f"{digest}\n" for digest in LAYERS)),
    "lines with CRLF and blank lines": lambda place: written(place / "have", "\r\n\r\n".join(map(str, LAYERS))),
}
BY_DIFF_ID: dict[str, Callable[[Path], Path]] = {
    "docker image inspect": lambda place: written(place / "have", [inspected(V1)]),
    "one object of docker image inspect": lambda place: written(place / "have", inspected(V1)),
    "a list of diff_ids": lambda place: written(place / "have", [str(diff_id) for diff_id in V1.diff_ids]),
    "lines of diff_ids": lambda place: written(place / "have", "\n".join(map(str, V1.diff_ids))),
    "a config": lambda place: written(place / "have", V1.blobs[V1.config.digest]),
    "an archive of docker save": lambda place: write_tar(place / "have", of_docker_1_10(PLAIN)),
}


def left_out(image: BuiltImage, since: Holdings, rule: str, out: Path) -> set[Digest]:
    """Return the layers that a copy with ``since`` leaves out."""
    result = copy_image(image.source(), ImageLayout(out), PullOptions(AMD64, thin=ThinOptions((since,), rule)))
    assert result.thin is not None
    return {descriptor.digest for descriptor in result.thin.expected}


@pytest.mark.parametrize("rule", ["docker", "registry", "layout"])
@pytest.mark.parametrize("kind", BY_DIGEST)
def test_every_kind_that_tells_digests_leaves_out_the_shared_layers(tmp_path: Path, kind: str, rule: str) -> None:
    since = read(BY_DIGEST[kind](tmp_path))
    assert left_out(V2, since, rule, tmp_path / "out") == set(LAYERS[:2])


@pytest.mark.parametrize("kind", BY_DIFF_ID)
def test_every_kind_that_tells_diff_ids_leaves_them_out_for_docker_alone(tmp_path: Path, kind: str) -> None:
    since = read(BY_DIFF_ID[kind](tmp_path))
    assert left_out(V2, since, "docker", tmp_path / "docker") == set(LAYERS[:2])
    assert left_out(V2, since, "layout", tmp_path / "layout") == set()


def test_docker_finds_a_layer_that_was_compressed_otherwise(tmp_path: Path) -> None:
    """The config of HAVE maps its digests to diff_ids."""
    other = build_image([BASE, RUNTIME], compression="zstd")
    since = read(write_whole(tmp_path / "have", other))
    assert left_out(V2, since, "docker", tmp_path / "docker") == set(LAYERS[:2])
    assert left_out(V2, since, "registry", tmp_path / "registry") == set()


def test_an_image_reference_is_asked_for_its_manifest_and_config_alone(tmp_path: Path, registry: FakeRegistry) -> None:
    index = build_index([build_image([BASE, layer("arm")], platform=ARM64), V1])
    reference = index.serve(registry, "library/app", "1")
    since = read(reference)
    assert left_out(V2, since, "registry", tmp_path / "out") == set(LAYERS[:2])
    assert not any(digest.encoded in path for digest in LAYERS for path in registry.paths())


def test_a_lock_file_is_read_by_the_digests_that_it_names(tmp_path: Path, registry: FakeRegistry) -> None:
    """The tag has moved since; the layers are those of the locked image."""
    reference = V1.serve(registry, "library/app", "1")
    locked = run_command("lock", written(tmp_path / "list", f"{reference}\n"), home=tmp_path)
    assert locked.returncode == 0, locked.stderr
    V2.serve(registry, "library/app", "1")
    lock = written(tmp_path / "images.lock", locked.stdout)
    since = read(lock)
    for rule in ("docker", "registry"):
        assert left_out(V2, since, rule, tmp_path / rule) == set(LAYERS[:2])
    assert since.names == {str(reference): (V1.digest,)}
    broken = written(tmp_path / "broken.lock", locked.stdout + "{}\n")
    with pytest.raises(UsageError, match=r"broken\.lock': line 2: expected a line of a lock file: lockVersion"):
        read(broken)


def test_a_layer_that_a_sparse_layout_lacks_is_not_had(tmp_path: Path) -> None:
    layout = write_whole(tmp_path / "have", V1)
    os.unlink(ImageLayout(layout).blob_path(LAYERS[1]))
    assert left_out(V2, read(layout), "layout", tmp_path / "layout") == {LAYERS[0]}
    assert left_out(V2, read(layout), "docker", tmp_path / "docker") == {LAYERS[0]}


def test_a_cut_layer_is_not_had(tmp_path: Path) -> None:
    layout = write_whole(tmp_path / "have", V1)
    os.truncate(ImageLayout(layout).blob_path(LAYERS[0]), 100)
    assert left_out(V2, read(layout), "layout", tmp_path / "layout") == {LAYERS[1]}


@pytest.mark.parametrize("kind", ["lines", "archive", "compressed archive", "inspect"])
def test_standard_input_is_any_of_them(tmp_path: Path, kind: str) -> None:
    layout = write_whole(tmp_path / "new", V2, "2")
    archive = archive_of(tmp_path / "have.tar", V1)
    subprocess.run(["gzip", "-k", archive], check=True)
    content = {
        "lines": "\n".join(map(str, LAYERS)).encode(),
        "archive": archive.read_bytes(),
        "compressed archive": archive.with_suffix(".tar.gz").read_bytes(),
        "inspect": json.dumps([inspected(V1)]).encode(),
    }[kind]
    ended = subprocess.run(
        command_line("pull", layout, "--since", "-", "--for", "docker", "--out", tmp_path / "out", "--json"),
        env=command_environment(tmp_path, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
        input=content,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ended.stdout)["images"][0]["expectedBlobs"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["pull", "-", "--since", "-", "--out", "out.tar"],
        ["pull", "./x", "--since", "-", "--since", "-", "--out", "out.tar"],
        ["verify", "-", "--against", "-"],
        ["merge", "far", "-", "-"],
    ],
    ids=" ".join,
)
def test_standard_input_is_read_once(tmp_path: Path, words: list[str]) -> None:
    ended = run_command(*words, home=tmp_path, stdin="")
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        2,
        "ociexport: error: -: expected standard input once, got it twice",
    )


# What is none of them


BROKEN: dict[str, tuple[bytes, str]] = {
    "an unknown line": (
        f"{LAYERS[0]}\n\nhello world\n".encode(),
        "HAVE 'WHERE': line 3: expected a digest or a diff_id, got 'hello world'",
    ),
    "a digest that is too short": (
        b"sha256:abc\n",
        "HAVE 'WHERE': line 1: expected a digest or a diff_id, got 'sha256:abc'",
    ),
    "the table of ctr content ls": (
        b"DIGEST\tSIZE\tAGE\tLABELS\n",
        r"HAVE 'WHERE': line 1: expected a digest or a diff_id, got 'DIGEST\tSIZE\tAGE\tLABELS'",
    ),
    "another kind of JSON": (
        b'{"some": "thing"}',
        "HAVE 'WHERE': expected lines of digests, a bundle.json, a receipt, a manifest or the output of docker image "
        "inspect, got a JSON document of another kind",
    ),
    "a list of other things": (
        b'[{"Id": "x"}]',
        "HAVE 'WHERE': [0]: expected an image, as docker image inspect prints it, got something else",
    ),
    "an index": (
        build_index([V1]).raw,
        "HAVE 'WHERE': expected a manifest, got an index, which names no layers",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_tells_nothing_is_refused_by_its_place(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    path = written(tmp_path / "have", content)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value) == message.replace("WHERE", str(path))


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 40,
        b"\x1f\x8b" + b"not gzip" * 100,
        b"\x28\xb5\x2f\xfd" + b"x" * 700,
        b"\0" * 100,
        b"[" * 5000,
        b'{"bundleVersion": 1}',
        b'{"bundleVersion": 99, "for": "docker"}',
        b'{"receiptVersion": 1, "layers": [{"digest": 7}]}',
        b'{"RootFS": {"Layers": ["x"]}}',
        b'{"rootfs": {}}',
        b'{"schemaVersion": 2, "layers": 7}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_rubbish_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    layout = write_whole(tmp_path / "new", V2, "2")
    path = written(tmp_path / "have", content)
    ended = run_command("pull", layout, "--since", path, "--out", tmp_path / "out.tar", home=tmp_path)
    assert ended.returncode in (2, 8)
    errors = [line for line in ended.stderr.splitlines() if not line.startswith(("hint: ", "ociexport: ./"))]
    assert len(errors) == 1, ended.stderr
    assert str(path) in errors[0]
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("name", ["missing.txt", "missing.json", "./missing", "missing.tar"])
def test_a_missing_file_is_told_without_asking_a_registry(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        read(tmp_path / name if name.startswith("missing") else f"{tmp_path}/{name}")


def test_a_reference_that_is_not_reached_gives_no_hint_about_the_image(tmp_path: Path) -> None:
    layout = write_whole(tmp_path / "new", V2, "2")
    words = ["--since", "127.0.0.1:1/app", "--retry-times", "0", "--out", str(tmp_path / "out.tar")]
    ended = run_command("pull", layout, *words, home=tmp_path)
    assert ended.returncode == 5
    assert "a path begins with ./" not in ended.stderr


def test_an_empty_list_means_that_nothing_is_there(tmp_path: Path) -> None:
    """``ctr content ls -q`` of a new machine prints nothing."""
    assert left_out(V2, read(written(tmp_path / "have", b"")), "layout", tmp_path / "out") == set()


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_document_raises_a_foreign_error(raw: bytes) -> None:
    with suppress(OciexportError):
        read_document(raw, "HAVE", "have")


# docker's rule


def chain(*names: str) -> tuple[HeldLayer, ...]:
    return tuple(HeldLayer(Digest.of(f"blob {name}".encode()), Digest.of(name.encode())) for name in names)


@pytest.mark.parametrize(
    ("new", "had", "loose", "expected"),
    [
        ("abc", ["ab"], "", "ab"),
        ("abc", ["abc"], "", "abc"),
        ("abc", ["abcd"], "", "abc"),
        ("abc", ["b", "ac"], "", "a"),
        # docker finds a layer by its chain: b above another layer is another layer.
        ("bc", ["ab"], "", ""),
        ("abc", ["a", "ab", "xbc"], "", "ab"),
        # Loose diff_ids have no order, so they are taken as the user gives them.
        ("abc", [], "ab", "ab"),
        ("abc", [], "bc", ""),
        ("abc", ["a"], "b", "ab"),
        # A layer that occurs again above the run is needed there.
        ("aba", ["ab"], "", "b"),
    ],
)
def test_docker_has_the_longest_leading_run(new: str, had: list[str], loose: str, expected: str) -> None:
    layers = chain(*new)
    diff_ids = frozenset(layer.diff_id for layer in chain(*loose) if layer.diff_id is not None)
    since = Holdings("have", chains=tuple(chain(*one) for one in had), loose=diff_ids)
    assert set(held_by_docker([layers], [since])) == {layer.digest for layer in chain(*expected)}


def test_two_haves_are_united() -> None:
    first, second = Holdings("first", chains=(chain("a"),)), Holdings("second", chains=(chain("a", "b"),))
    held = held_by_docker([chain("a", "b", "c")], [first, second])
    a, b = chain("a", "b")
    assert held == {a.digest: ("first", "second"), b.digest: ("second",)}


def test_a_layer_that_another_image_needs_stays() -> None:
    since = Holdings("have", chains=(chain("a", "b"),))
    assert held_by_docker([chain("a", "b"), chain("b")], [since]).keys() == {chain("a")[0].digest}
