"""Which tools read our files, and which of theirs we read: each cell of the tables in docs/guide/interchange.md.

A cell is an action with the real tool, which `tests.system_tests.test_interchange` runs. The tables are generated
from these lists, so they contain only what a test has run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy import copy_image
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_attestation,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.real_tools import containerd, dockerd, podman, skopeo_copy
from tests.support.system_parts import require, run

BASE = [directory("etc"), member("etc/a", b"1"), hard_link("etc/b", "etc/a"), member("old", b"2")]
# A layer that occurs twice, a whiteout, and links.
IMAGE = build_image([BASE, [member(".wh.old"), symlink("c", "etc/b")], BASE])
OTHER = build_image([BASE, [member("other", b"3")]])
INDEX = build_index([IMAGE, build_image([BASE], platform=ARM64), build_attestation(IMAGE)])
NAMES = {"docker.io/library/app:1": IMAGE, "ghcr.io/team/other:2": OTHER}
TAGS = ("1", "2")

# What a tool found: names, in its own spelling, with image IDs.
Found: TypeAlias = Mapping[str, str]
Reader: TypeAlias = Callable[[Path, Path], Found]

LAYOUT, ARCHIVE, PLAIN, LEGACY = "`--out DIR`", "`--out FILE.tar`", "`--decompress`", "`--legacy`"
OUTPUTS = (LAYOUT, ARCHIVE, PLAIN, LEGACY)


def write_output(output: str, place: Path) -> Path:
    """Write both images in the form ``output``; return their place."""
    sources = [image.source(tag, name) for (name, image), tag in zip(NAMES.items(), TAGS, strict=True)]
    if output == LAYOUT:
        for source in sources:
            copy_image(source, ImageLayout(place / "out"), PullOptions(AMD64))
        return place / "out"
    path = place / "out.tar"
    copy_to_archive(sources, str(path), PullOptions(AMD64, decompress=output == PLAIN, legacy=output == LEGACY))
    return path


# Tools that read what we write


def _by_skopeo(transport: str, *names: str) -> Reader:
    def read(place: Path, work: Path) -> Found:
        found = {}
        for number, name in enumerate(names):
            skopeo_copy(f"{transport}:{place}:{name}", f"dir:{work / str(number)}")
            found[name] = json.loads((work / str(number) / "manifest.json").read_bytes())["config"]["digest"]
        return found

    return read


def _by_podman(place: Path, work: Path) -> Found:
    with podman() as run_podman:
        run_podman("load", "-i", place)
        lines = run_podman("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}").splitlines()
    return {name: f"sha256:{found}" for name, found in map(str.split, lines)}


def _by_buildah(transport: str, *names: str) -> Reader:
    def read(place: Path, work: Path) -> Found:
        with podman("buildah") as run_buildah:
            found = {name: run_buildah("pull", "-q", f"{transport}:{place}:{name}").strip() for name in names}
        return {name: f"sha256:{image}" for name, image in found.items()}

    return read


def _by_containerd(place: Path, work: Path) -> Found:
    with containerd() as ctr:
        ctr("images", "import", "--no-unpack", place)
        listed = [line.split() for line in ctr("images", "ls").splitlines()[1:]]
        return {
            name: json.loads(ctr("content", "get", manifest))["config"]["digest"] for name, _, manifest, *_ in listed
        }


def _by_docker(place: Path, work: Path) -> Found:
    with dockerd() as docker:
        docker("load", "-i", place)
        listed = docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    return dict(line.split() for line in listed)


def _by_umoci(place: Path, work: Path) -> Found:
    require("umoci", root=True)
    for tag, name in (("1", "c"), ("2", "other")):
        run("umoci", "unpack", "--image", f"{place}:{tag}", work / tag)
        assert (work / tag / "rootfs" / name).is_file()
    # It shows no image IDs, but the unpacked tree is compared.
    return {tag: str(image.config.digest) for tag, image in zip(TAGS, NAMES.values(), strict=True)}


SHORT = ("app:1", "ghcr.io/team/other:2")
READERS: Mapping[str, tuple[Mapping[str, Reader], tuple[str, ...]]] = {
    "`skopeo copy oci:`": ({LAYOUT: _by_skopeo("oci", *TAGS)}, TAGS),
    "`skopeo copy oci-archive:`": (dict.fromkeys((ARCHIVE, PLAIN), _by_skopeo("oci-archive", *TAGS)), TAGS),
    "`skopeo copy docker-archive:`": (
        dict.fromkeys((ARCHIVE, PLAIN, LEGACY), _by_skopeo("docker-archive", *SHORT)),
        SHORT,
    ),
    "`podman load`": (
        dict.fromkeys((ARCHIVE, PLAIN, LEGACY), _by_podman),
        ("localhost/app:1", "ghcr.io/team/other:2"),
    ),
    "`buildah pull oci:`": ({LAYOUT: _by_buildah("oci", *TAGS)}, TAGS),
    "`buildah pull docker-archive:`": (
        dict.fromkeys((ARCHIVE, PLAIN, LEGACY), _by_buildah("docker-archive", *SHORT)),
        SHORT,
    ),
    "`ctr images import`": (dict.fromkeys((ARCHIVE, PLAIN, LEGACY), _by_containerd), tuple(NAMES)),
    "`docker load`": (dict.fromkeys((ARCHIVE, PLAIN, LEGACY), _by_docker), SHORT),
    "`umoci unpack`": ({LAYOUT: _by_umoci}, TAGS),
}


# Tools whose files we read


@dataclass(frozen=True, slots=True)
class Written:
    """What a tool wrote, and which part of it is unchanged.

    Args:
        source: name of the source, as a user types it.
        image: the image that was written.
        keeps: the manifest's digest, the image ID, or only the layers' content.
        name: name of the image in the source.
    """

    source: str
    image: BuiltImage
    keeps: str
    name: str | None


Writer: TypeAlias = Callable[[Path], list[Written]]
MANIFEST, IMAGE_ID, CONTENT = "manifest", "image ID", "content"
NAME = "docker.io/library/app:1"


def _from_skopeo(transport: str, name: str, keeps: str, full: str | None = None, *words: str) -> Writer:
    def write(work: Path) -> list[Written]:
        image = INDEX if words else IMAGE
        write_layout(work / "source", {"1": image})
        target = f"{transport}:{work / 'saved'}{name}"
        skopeo_copy(f"oci:{work / 'source'}:1", target, words=words)
        return [Written(str(work / "saved"), image, keeps, full)]

    return write


def _given(work: Path) -> Path:
    path = work / "given.tar"
    copy_to_archive([IMAGE.source("1", NAME)], str(path), PullOptions(AMD64))
    return path


def _from_podman(keeps: str, full: str | None, *words: str) -> Writer:
    def write(work: Path) -> list[Written]:
        given = _given(work)
        with podman() as run_podman:
            run_podman("load", "-i", given)
            run_podman("save", "-q", *words, "-o", work / "saved", NAME)
        return [Written(str(work / "saved"), IMAGE, keeps, full)]

    return write


def _from_buildah(transport: str, name: str, keeps: str, full: str | None = None) -> Writer:
    def write(work: Path) -> list[Written]:
        given = _given(work)
        with podman("buildah") as run_buildah:
            run_buildah("pull", "-q", f"docker-archive:{given}")
            (image,) = run_buildah("images", "-q", "--no-trunc").split()
            run_buildah("push", "-q", image, f"{transport}:{work / 'saved'}{name}")
        return [Written(str(work / "saved"), IMAGE, keeps, full)]

    return write


def _from_containerd(work: Path) -> list[Written]:
    given = write_output(ARCHIVE, work)
    with containerd() as ctr:
        ctr("images", "import", "--no-unpack", given)
        ctr("images", "export", work / "saved", *NAMES)
    return [Written(f"{work / 'saved'}:{name}", image, MANIFEST, name) for name, image in NAMES.items()]


def _from_docker(work: Path) -> list[Written]:
    given = write_output(ARCHIVE, work)
    with dockerd() as docker:
        docker("load", "-i", given)
        docker("save", "-o", work / "saved", *SHORT)
    return [Written(f"{work / 'saved'}:{name}", image, IMAGE_ID, name) for name, image in NAMES.items()]


def _from_umoci(work: Path) -> list[Written]:
    """Write an image to which umoci added a file."""
    require("umoci", root=True)
    copy_image(IMAGE.source("1"), ImageLayout(work / "saved"), PullOptions(AMD64))
    (work / "file").write_bytes(b"put there by umoci")
    run("umoci", "insert", "--image", f"{work / 'saved'}:1", "--tag", "3", work / "file", "/etc/new")
    return [Written(f"{work / 'saved'}:1", IMAGE, MANIFEST, None), Written(f"{work / 'saved'}:3", IMAGE, "", None)]


WRITERS: Mapping[str, tuple[str, Writer]] = {
    "`skopeo copy … oci:`": (MANIFEST, _from_skopeo("oci", ":app:1", MANIFEST, NAME)),
    "`skopeo copy --all … oci:`": (MANIFEST, _from_skopeo("oci", ":1", MANIFEST, None, "--all")),
    "`skopeo copy … oci-archive:`": (MANIFEST, _from_skopeo("oci-archive", ":1", MANIFEST)),
    "`skopeo copy … docker-archive:`": (IMAGE_ID, _from_skopeo("docker-archive", ":app:1", IMAGE_ID, NAME)),
    "`skopeo copy … dir:`": (MANIFEST, _from_skopeo("dir", "", MANIFEST)),
    "`skopeo copy --all … dir:`": (MANIFEST, _from_skopeo("dir", "", MANIFEST, None, "--all")),
    "`podman save`": (IMAGE_ID, _from_podman(IMAGE_ID, NAME)),
    "`podman save -m`": (IMAGE_ID, _from_podman(IMAGE_ID, NAME, "-m")),
    "`podman save --format oci-archive`": (CONTENT, _from_podman(CONTENT, NAME, "--format", "oci-archive")),
    "`podman save --format oci-dir`": (CONTENT, _from_podman(CONTENT, NAME, "--format", "oci-dir")),
    "`podman save --format docker-dir`": (IMAGE_ID, _from_podman(IMAGE_ID, None, "--format", "docker-dir")),
    "`podman save --format docker-dir --compress`": (
        IMAGE_ID,
        _from_podman(IMAGE_ID, None, "--format", "docker-dir", "--compress"),
    ),
    "`buildah push … oci:`": (CONTENT, _from_buildah("oci", ":1", CONTENT)),
    "`buildah push … oci-archive:`": (CONTENT, _from_buildah("oci-archive", ":1", CONTENT)),
    "`buildah push … docker-archive:`": (IMAGE_ID, _from_buildah("docker-archive", ":app:1", IMAGE_ID, NAME)),
    "`buildah push … dir:`": (IMAGE_ID, _from_buildah("dir", "", IMAGE_ID)),
    "`ctr images export`": (MANIFEST, _from_containerd),
    "`docker save`": (IMAGE_ID, _from_docker),
    "`umoci new`, `insert`": (MANIFEST, _from_umoci),
}
