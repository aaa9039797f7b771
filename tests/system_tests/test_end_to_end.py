"""The whole path with real programs: a Debian root, Debian's registry, skopeo and umoci for comparison, a chroot."""

from __future__ import annotations

import base64
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system_parts import OCIEXPORT, docker_registry, require, run
from tests.support.tree_metadata import describe_tree, differences

pytestmark = [pytest.mark.system, pytest.mark.slow]

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a layout with an image of four layers by umoci, from a Debian root by mmdebstrap."""
    require("mmdebstrap", "umoci", root=True)
    work = tmp_path_factory.mktemp("image")
    layout, bundle = work / "layout", work / "bundle"
    name = f"{layout}:debian"
    run("mmdebstrap", "--variant=minbase", "bookworm", work / "debian.tar")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", name)
    run("umoci", "raw", "add-layer", "--image", name, work / "debian.tar")
    run("umoci", "unpack", "--image", name, bundle)
    for change in (change_files, remove_and_replace, write_through_links):
        change(bundle / "rootfs")
        run("umoci", "repack", "--refresh-bundle", "--image", name, bundle)
    return layout


def change_files(root: Path) -> None:
    """Add files of every kind, with owners, modes, times and attributes that are easily lost."""
    odd = root / "opt" / "odd"
    odd.mkdir(parents=True)
    (odd / "file").write_bytes(os.urandom(3_000_000))
    os.link(odd / "file", odd / "second name")
    os.link(odd / "file", root / "srv" / "third-name")
    (odd / "setuid").write_bytes(b"#!/bin/sh\n")
    os.chown(odd / "setuid", 1000, 1001)
    os.chmod(odd / "setuid", 0o6755)
    os.setxattr(odd / "setuid", "security.capability", CAPABILITY)
    os.setxattr(odd, "user.note", b"of a directory \x00\xff")
    os.mknod(odd / "null", 0o020666, os.makedev(1, 3))
    os.mknod(odd / "loop", 0o060660, os.makedev(7, 300))
    os.mkfifo(odd / "fifo", 0o640)
    os.symlink("/absolute/target", odd / "link")
    os.symlink("x" * 300, odd / "long-link")
    (odd / ("n" * 200)).write_bytes(b"long name")
    (odd / "caf\udce9").write_bytes(b"no UTF-8")
    (odd / "empty").touch()
    os.utime(odd / "empty", ns=(1, 1_234_567_890_123_456_789))
    shared = root / "opt" / "shared"
    shared.mkdir()
    os.chown(shared, 0, 50)
    os.chmod(shared, 0o3777)


def remove_and_replace(root: Path) -> None:
    """Cause whiteouts, replace a directory by a file, and a file by a directory."""
    run("rm", "-rf", root / "usr" / "share" / "doc", root / "opt" / "odd" / "second name")
    run("rm", "-rf", root / "usr" / "share" / "man")
    (root / "usr" / "share" / "man").write_bytes(b"a file now")
    (root / "opt" / "odd" / "empty").unlink()
    (root / "opt" / "odd" / "empty").mkdir()
    (root / "opt" / "odd" / "empty" / "child").write_bytes(b"in a directory now")


def write_through_links(root: Path) -> None:
    """Change only files below /usr/lib, the target of the link /lib."""
    (root / "usr" / "lib" / "later").write_bytes(b"later")
    with (root / "etc" / "hostname").open("ab") as file:
        file.write(b"box\n")


@pytest.fixture(scope="module")
def registry(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Debian's docker-registry with the image, pushed by skopeo; yield the image's reference."""
    require("docker-registry", "skopeo")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        reference = f"{host}/team/debian:12"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{image}:debian", f"docker://{reference}")
        yield reference


@pytest.fixture(scope="module")
def pulled(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = tmp_path_factory.mktemp("pulled") / "layout"
    run(*OCIEXPORT, "pull", registry, "--out", layout)
    return layout


def test_pulled_layout_is_valid_and_byte_for_byte(image: Path, registry: str, pulled: Path) -> None:
    """skopeo reads the layout, and finds the registry's digest."""
    there = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}"))
    here = json.loads(run("skopeo", "inspect", f"oci:{pulled}"))
    by_tag = json.loads(run("skopeo", "inspect", f"oci:{pulled}:12"))
    assert here["Digest"] == by_tag["Digest"] == there["Digest"]
    assert here["Layers"] == there["Layers"]
    assert len(here["Layers"]) == 4
    assert sorted(os.listdir(pulled / "blobs" / "sha256")) == sorted(
        digest.removeprefix("sha256:") for digest in {there["Digest"], *there["Layers"], config_of(pulled)}
    )


def config_of(layout: Path) -> str:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((layout / "blobs" / index["manifests"][0]["digest"].replace(":", "/")).read_bytes())
    return str(manifest["config"]["digest"])


@pytest.fixture(scope="module", params=["layout", "registry"])
def rootfs(
    request: pytest.FixtureRequest, registry: str, pulled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the root filesystem, from the layout or directly from the registry."""
    target = tmp_path_factory.mktemp("unpacked") / "rootfs"
    run(*OCIEXPORT, "unpack", str(pulled) if request.param == "layout" else registry, target)
    return target


def test_rootfs_is_umocis_in_every_detail(rootfs: Path, image: Path, tmp_path: Path) -> None:
    """Type, mode, owner, size, mtime, content, links, hard link groups, xattrs and devices are the same."""
    run("umoci", "raw", "unpack", "--image", f"{image}:debian", tmp_path / "umoci")
    ours, theirs = describe_tree(rootfs), describe_tree(tmp_path / "umoci")
    assert len(ours) > 2000
    # No difference is allowed: umoci wrote all layers, so each directory has its own entry.
    assert differences(ours, theirs) == {}
    assert ours[b"opt/odd/setuid"].xattrs == {"security.capability": CAPABILITY}
    assert ours[b"opt/odd/file"].group == b"opt/odd/file"
    assert ours[b"srv/third-name"].group == b"opt/odd/file"
    assert b"usr/share/doc" not in ours


def test_what_is_looked_at_is_what_is_unpacked(rootfs: Path, registry: str) -> None:
    """`ls` agrees in modes, owners, sizes, times and links; `cat` by name, by link and by hard link."""
    tree = describe_tree(rootfs)
    listed = {
        os.fsencode(file["path"])[1:] if "pathBase64" not in file else base64.b64decode(file["pathBase64"])[1:]: file
        for file in json.loads(run(*OCIEXPORT, "ls", "-q", "-R", "--json", registry))["files"]
    }
    assert listed.keys() == tree.keys() - {b"."}
    for path, file in listed.items():
        there = tree[path]
        assert (int(file["mode"], 8), (file["uid"], file["gid"])) == (int(there.mode, 8), there.owner), path
        assert os.fsencode(file.get("linkTarget", "")) == (there.target or b"")
        if there.size is not None and file["type"] == "file":
            assert file["size"] == there.size
    names = ["/etc/hostname", "/bin/sh", "/srv/third-name", "/lib/later", "/opt/odd/caf\udce9", "opt/odd/empty/child"]
    content = subprocess.run([*OCIEXPORT, "cat", "-q", registry, *names], capture_output=True, check=True).stdout
    places = [
        "etc/hostname",
        "usr/bin/dash",
        "opt/odd/file",
        "usr/lib/later",
        "opt/odd/caf\udce9",
        "opt/odd/empty/child",
    ]
    assert content == b"".join((rootfs / place).read_bytes() for place in places)


def test_layers_of_the_image_own_up_to_what_they_did(pulled: Path) -> None:
    touches = {
        path: [(touch["layer"]["number"], touch["touch"]) for touch in json.loads(told)["touches"]]
        for path in ("/usr/share/doc", "/usr/share/man", "/opt/odd/empty", "/etc/hostname", "/opt/odd/second name")
        for told in [run(*OCIEXPORT, "which-layer", "-q", "--json", str(pulled), path)]
    }
    assert touches["/usr/share/doc"] == [(3, "deleted"), (1, "added")]
    assert touches["/usr/share/man"] == [(3, "changed"), (1, "added")]
    assert touches["/opt/odd/empty"] == [(3, "changed"), (2, "added")]
    assert touches["/etc/hostname"] == [(4, "changed"), (1, "added")]
    assert touches["/opt/odd/second name"] == [(3, "deleted"), (2, "added")]


def test_program_of_the_image_runs_in_a_chroot(rootfs: Path) -> None:
    listed = run("chroot", rootfs, "/usr/bin/dpkg", "-l")
    assert "ii  dpkg" in listed


def test_platform_of_this_machine_is_chosen(pulled: Path) -> None:
    index = json.loads((pulled / "index.json").read_bytes())
    (entry,) = index["manifests"]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    assert entry["platform"] == {"architecture": machine, "os": "linux"}
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "12"
    assert entry["annotations"]["io.containerd.image.name"].endswith("/team/debian:12")
