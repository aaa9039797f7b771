"""verity: the hash tree that veritysetup makes, at the end of the image or beside it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from ociexport.rootfs.outputs.verity import BLOCK_BYTES, Verity, write_verity
from ociexport.spec.digest import Digest
from tests.support.system_parts import require, run

DIGEST = Digest.of(b"config")
CHUNK = 256 * BLOCK_BYTES


def tree_of(image: Path, tree: Path | None = None) -> Verity:
    with open(image, "r+b") as file:
        if tree is None:
            return write_verity(file.fileno(), None, DIGEST)
        with open(tree, "w+b") as beside:
            return write_verity(file.fileno(), beside.fileno(), DIGEST)


@pytest.mark.system
@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300, 128 * 128, 128 * 128 + 1])
def test_tree_is_that_of_veritysetup(tmp_path: Path, blocks: int) -> None:
    """Byte for byte, also where a level has one hash more than a block holds."""
    require("veritysetup")
    image, theirs = tmp_path / "image", tmp_path / "theirs"
    with open(image, "wb") as file:
        os.ftruncate(file.fileno(), blocks * BLOCK_BYTES)  # with holes, zeros that are none, and other data
        os.pwrite(file.fileno(), b"\1" * 5000, 0) if blocks > 1 else None
        os.pwrite(file.fileno(), bytes(3 * CHUNK)[: (blocks - 1) * BLOCK_BYTES], BLOCK_BYTES)
        os.pwrite(file.fileno(), b"end", blocks * BLOCK_BYTES - 3)
    verity = tree_of(image, tmp_path / "ours")
    said = run("veritysetup", "format", f"--salt={verity.salt}", f"--uuid={verity.uuid}", image, theirs)
    assert re.search(r"^Root hash:\s+(\w+)$", said, re.MULTILINE)[1] == verity.root_hash  # type: ignore[index]
    assert (tmp_path / "ours").read_bytes() == theirs.read_bytes()
    appended = tree_of(image)
    assert (appended.root_hash, appended.hash_offset) == (verity.root_hash, blocks * BLOCK_BYTES)
    assert image.read_bytes()[appended.hash_offset :] == theirs.read_bytes()
    run("veritysetup", "verify", f"--hash-offset={appended.hash_offset}", image, image, verity.root_hash)
    if blocks == 300:
        with open(image, "r+b") as file:
            os.pwrite(file.fileno(), b"x", 200 * BLOCK_BYTES)
        words = ["veritysetup", "verify", f"--hash-offset={appended.hash_offset}", str(image), str(image)]
        assert subprocess.run([*words, verity.root_hash], capture_output=True, check=False).returncode != 0


def test_image_is_padded_to_whole_blocks(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 5000)
    verity = tree_of(image)
    salt = bytes.fromhex(verity.salt)
    digests = [hashlib.sha256(salt + block).digest() for block in (b"x" * 4096, (b"x" * 904).ljust(4096, b"\0"))]
    root = hashlib.sha256(salt + b"".join(digests).ljust(4096, b"\0")).hexdigest()
    assert (verity.root_hash, verity.salt, image.stat().st_size) == (root, DIGEST.encoded, 4 * 4096)


def test_arguments_name_the_devices() -> None:
    """Documentation/admin-guide/device-mapper/dm-init.rst, verity.rst; systemd-veritysetup-generator(8)."""
    appended = Verity("aa", "bb", "uuid", 300, 300 * 4096)
    assert appended.kernel_arguments("erofs") == (
        'dm-mod.create="root,,,ro,0 2400 verity 1 /dev/vda /dev/vda 4096 4096 300 301 sha256 aa bb" '
        "root=/dev/dm-0 rootfstype=erofs ro"
    )
    assert appended.systemd_arguments() == (
        "roothash=aa systemd.verity_root_data=/dev/vda systemd.verity_root_hash=/dev/vda "
        "systemd.verity_root_options=hash-offset=1228800 root=/dev/mapper/root ro"
    )
    beside = Verity("aa", "bb", "uuid", 300, 0)
    assert beside.table("/dev/a", "/dev/b") == "0 2400 verity 1 /dev/a /dev/b 4096 4096 300 1 sha256 aa bb"
    assert beside.systemd_arguments() == (
        "roothash=aa systemd.verity_root_data=/dev/vda systemd.verity_root_hash=/dev/vdb root=/dev/mapper/root ro"
    )


def test_costs_little_more_than_its_hashes(tmp_path: Path) -> None:
    """Issue 19: at most 2 processor seconds a GB, where SHA-256 takes about 0.7."""
    image = tmp_path / "image"
    data = os.urandom(CHUNK)
    image.write_bytes(data * 48)
    ours, plain = [], []
    for _ in range(2):
        began = time.process_time()
        tree_of(image, tmp_path / "tree")
        ours.append(time.process_time() - began)
        began = time.process_time()
        for _ in range(48):
            hashlib.sha256(data).digest()
        plain.append(time.process_time() - began)
    assert min(ours) < 2.5 * min(plain) + 0.05
