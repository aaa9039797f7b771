"""`ociexport verify`: a line for each finding, exit code 7, and images by other tools."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ociexport.spec.digest import Digest
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, build_image, build_index, write_layout
from tests.support.memory_source import hard_link, member
from tests.support.real_tools import podman, skopeo_copy
from tests.support.system_parts import mounted, require, run
from tests.verification.test_sources import tar_from

IMAGE = build_image([[member("a", b"x")], [member("b")]])
LAYER = IMAGE.layers[0]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    return tmp_path / "layout"


def blob(layout: Path, digest: Digest) -> Path:
    return layout / "blobs" / digest.algorithm / digest.encoded


def test_what_is_right_is_told_in_one_line(layout: Path, tmp_path: Path) -> None:
    ended = run_command("verify", layout, "--quiet", home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    ended = run_command("verify", layout, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    size = sum(path.stat().st_size for path in (layout / "blobs" / "sha256").iterdir())
    assert ended.stderr.splitlines()[-1] == (
        f"ociexport: {layout}: 1 image, 2 documents and 2 blobs checked, {size / 1000:.1f} kB: no problems found"
    )


def test_findings_are_lines_on_standard_output_and_the_exit_code_is_seven(layout: Path, tmp_path: Path) -> None:
    blob(layout, LAYER.digest).unlink()
    blob(layout, Digest.of(b"left")).write_bytes(b"left")
    ended = run_command("verify", layout, home=tmp_path)
    assert ended.returncode == 7
    assert ended.stdout.splitlines() == [
        f"wrong: 1: manifest {IMAGE.digest}: layer 1 of 2 ({LAYER.digest}): not there",
        f"note: blob {Digest.of(b'left')}: unreferenced (4 bytes)",
    ]
    assert ended.stderr.splitlines()[-1].endswith(": 1 wrong")


def test_orphans_alone_are_no_error(layout: Path, tmp_path: Path) -> None:
    blob(layout, Digest.of(b"left")).write_bytes(b"left")
    ended = run_command("verify", layout, home=tmp_path)
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 1)


def test_findings_are_one_json_object(layout: Path, tmp_path: Path) -> None:
    blob(layout, LAYER.digest).unlink()
    ended = run_command("verify", layout, "--json", home=tmp_path)
    assert ended.returncode == 7
    documents = len(IMAGE.raw) + IMAGE.config.size
    assert json.loads(ended.stdout) == {
        "jsonVersion": 1,
        "command": "verify",
        "source": str(layout),
        "right": False,
        "images": 1,
        "documents": 2,
        "blobs": 1,
        "readBytes": documents + IMAGE.layers[1].size,
        "findings": [
            {
                "kind": "missing",
                "wrong": True,
                "place": f"1: manifest {IMAGE.digest}: layer 1 of 2 ({LAYER.digest})",
                "message": "not there",
                "digest": str(LAYER.digest),
            }
        ],
    }


def test_deep_proves_that_the_image_can_be_unpacked(tmp_path: Path) -> None:
    image = build_image([[member("a", b"x")], [hard_link("b", "nowhere")], [member("../c")]])
    write_layout(tmp_path / "layout", {"1": image})
    assert run_command("verify", tmp_path / "layout", home=tmp_path).returncode == 0
    ended = run_command("verify", tmp_path / "layout", "--deep", home=tmp_path)
    place = f"wrong: 1: manifest {image.digest}: layer"
    assert (ended.returncode, ended.stdout.splitlines()) == (
        7,
        [
            f"{place} 2 of 3 ({image.layers[1].digest}): entry 'b': hard link: expected a file at 'nowhere', got none",
            f"{place} 3 of 3 ({image.layers[2].digest}): entry '../c': path '../c': leads out of the root filesystem",
        ],
    )
    assert "3 blobs checked" in ended.stderr
    assert ended.stderr.endswith("; 3 layers inflated and applied, 30.7 kB: 2 wrong\n")
    ended = run_command("verify", tmp_path / "layout", "--deep", "--json", "--max-files", "2", home=tmp_path)
    told = json.loads(ended.stdout)
    assert (told["layers"], told["tarBytes"]) == (3, 30720)
    assert [(finding["kind"], finding["wrong"]) for finding in told["findings"]] == [
        ("tar", True),
        ("tar", True),
        ("limit", True),
    ]


def test_archive_comes_from_standard_input(layout: Path, tmp_path: Path) -> None:
    os.truncate(blob(layout, LAYER.digest), 3)
    ended = subprocess.run(
        command_line("verify", "-"),
        input=tar_from(layout),
        env=command_environment(tmp_path),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.decode().splitlines()) == (
        7,
        [
            f"wrong: 1: manifest {IMAGE.digest}: layer 1 of 2 ({LAYER.digest}): "
            f"size mismatch: expected {LAYER.size} bytes, got 3"
        ],
    )


def test_strict_wants_all_that_an_index_names(tmp_path: Path) -> None:
    other = build_image([[member("c")]])
    write_layout(tmp_path / "layout", {"all": build_index([other, IMAGE])})
    for digest in other.all_digests:
        blob(tmp_path / "layout", digest).unlink()
    assert run_command("verify", tmp_path / "layout", home=tmp_path).returncode == 0
    assert run_command("verify", "--strict", tmp_path / "layout", home=tmp_path).returncode == 7


def test_all_platforms_of_a_registry_are_looked_at_on_request(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        index = build_index([build_image([[member("c")]], platform=ARM64), IMAGE])
        name = index.serve(registry, "library/app", "1")
        ended = run_command("verify", name, "--platform", "linux/amd64", "--json", home=tmp_path)
        assert json.loads(ended.stdout)["documents"] == 3
        ended = run_command("verify", name, "--all", "--json", home=tmp_path)
        assert json.loads(ended.stdout)["documents"] == 5


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    ended = run_command("verify", tmp_path / "none", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines() == [f"ociexport: error: '{tmp_path / 'none'}': expected an OCI layout, found none"]


@pytest.mark.system
def test_what_other_tools_write_is_right(layout: Path, tmp_path: Path) -> None:
    """skopeo, umoci and podman: layouts, and archives of both kinds."""
    require("umoci")
    skopeo_copy(f"oci:{layout}:1", f"oci:{tmp_path / 'skopeo'}:app")
    skopeo_copy(f"oci:{layout}:1", f"oci-archive:{tmp_path / 'oci.tar'}:app")
    skopeo_copy(f"oci:{layout}:1", f"docker-archive:{tmp_path / 'docker.tar'}:app:1")
    (tmp_path / "file").write_bytes(b"content")
    run("umoci", "insert", "--image", f"{tmp_path / 'skopeo'}:app", "--tag", "more", tmp_path / "file", "/file")
    with podman() as run_podman:
        run_podman("load", "-i", tmp_path / "docker.tar")
        run_podman("save", "--format", "oci-archive", "-o", tmp_path / "podman-oci.tar", "app:1")
        run_podman("save", "-o", tmp_path / "podman.tar", "app:1")
    for name in ("skopeo", "oci.tar", "docker.tar", "podman-oci.tar", "podman.tar"):
        ended = run_command("verify", "--deep", tmp_path / name, home=tmp_path)
        assert (name, ended.returncode, ended.stdout) == (name, 0, ""), ended.stderr


@pytest.mark.system
def test_layout_on_a_read_only_disk_is_looked_at(layout: Path, tmp_path: Path) -> None:
    blob(layout, LAYER.digest).unlink()
    with mounted(tmp_path / "disk", "--bind", "-o", "ro", str(layout)) as disk:
        run("mount", "-o", "remount,ro,bind", disk)
        assert run_command("verify", disk, home=tmp_path).returncode == 7
