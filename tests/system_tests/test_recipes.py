"""docs/guide/recipes.md: each recipe works unchanged."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from tests.support.document_blocks import Block, blocks_of, workplace
from tests.support.system_parts import require, run

pytestmark = pytest.mark.system

_RECIPES = {
    heading: list(blocks)
    for heading, blocks in groupby(blocks_of("docs/guide/recipes.md", "sh"), lambda block: block.heading)
}
# The programs that a recipe needs, besides a shell and its tools.
_PROGRAMS = {
    "A chroot": ["chroot"],
    "bubblewrap": ["bwrap"],
    "systemd-nspawn": ["systemd-nspawn"],
    "runc": ["runc"],
    "Firecracker": ["e2fsck"],
    "A read-only root that the kernel verifies": ["veritysetup"],
    "An initramfs": ["cpio"],
    "systemd-nspawn from a disk image": ["unsquashfs"],
    "krunvm": ["buildah"],
    "Incus": ["tar"],
    "WSL": ["tar"],
    "Other programs' file systems, from a tar": ["sqfstar", "unsquashfs"],
    "Over an air gap, as a registry": ["podman", "skopeo"],
    "Over an air gap, as an archive, and back": ["podman", "skopeo", "sha256sum"],
    "Weekly updates over an air gap": ["podman", "sha256sum"],
    "CI without docker": [],
    "Mirrors": [],
    "Only what is signed": [],
}
_NEED_ROOT = {
    "A chroot",
    "systemd-nspawn",
    "krunvm",
    "runc",
    "Over an air gap, as a registry",
    "Over an air gap, as an archive, and back",
    "Weekly updates over an air gap",
}
# Output that shows that the recipe worked.
_SHOWN = {
    "A chroot": 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nDebian GNU/Linux 12\n',
    "bubblewrap": 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nDebian GNU/Linux 12\n',
    "systemd-nspawn": 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\n',
    "Other programs' file systems, from a tar": "drwxr-xr-x 0/0 ",
    "An initramfs": "etc/os-release\n",
    "systemd-nspawn from a disk image": "drwxr-xr-x 0/0 ",
    "Incus": 'architecture: "',
    "WSL": "etc/os-release\n",
    "CI without docker": "app 1\n",
}


@pytest.mark.parametrize("heading", _RECIPES)
def test_recipe_works(heading: str, tmp_path: Path) -> None:
    require("bash", "busybox", *_PROGRAMS[heading], root=heading in _NEED_ROOT)
    with workplace(tmp_path) as place:
        printed = "".join(place.run(block) for block in _RECIPES[heading])
    assert _SHOWN.get(heading, "") in printed


def test_only_what_is_new_goes_over_the_gap(tmp_path: Path) -> None:
    """The update has the second image's layer, but not the layer that both images share."""
    require("bash", "busybox", "tar")
    block = _RECIPES["Weekly updates over an air gap"][0]
    with workplace(tmp_path) as place:
        place.run(Block(block.document, block.heading, "sh", f"{block.text}tar --list --file week2.tar >new.txt\n"))
        listed = (place.directory / "new.txt").read_text().splitlines()
        everything = run("tar", "--list", "--file", place.directory / "week1.tar").splitlines()
    shared = {name for name in everything if name.startswith("blobs/") and not name.endswith("/")} & set(listed)
    assert "bundle.json" in listed
    assert shared == set()
