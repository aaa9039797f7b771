"""Layers that other programs encrypted or compressed in their own way: named, or read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import ociexport
from ociexport.errors import UnsupportedMediaTypeError
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.image_builder import AMD64, Json, build_image, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.system_parts import require, run

TAR = tar_of([member("a", b"some content " * 1000)])


def test_image_that_skopeo_encrypted_is_named_and_unpacks_once_decrypted(tmp_path: Path) -> None:
    require("skopeo", "openssl")
    write_layout(tmp_path / "plain", {"1": build_image([TAR])})
    run("openssl", "genrsa", "-out", tmp_path / "key.pem", "2048")
    run("openssl", "rsa", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "public.pem")
    copy = ("skopeo", "--insecure-policy", "copy")
    plain, secret, again = (f"oci:{tmp_path}/{name}:1" for name in ("plain", "secret", "again"))
    run(*copy, "--encryption-key", f"jwe:{tmp_path}/public.pem", plain, secret)
    ociexport.pull(secret, tmp_path / "copy", platform=AMD64)
    named = f"expected a tar, got an encrypted layer, of media type '{mediatypes.OCI_LAYER_GZIP}+encrypted'"
    for name in (secret, str(tmp_path / "copy")):
        with pytest.raises(UnsupportedMediaTypeError) as caught:
            ociexport.unpack(name, tmp_path / "rootfs", platform=AMD64)
        assert caught.value.message == named
        wrong = [finding.message for finding in ociexport.verify(name, deep=True).findings if finding.is_wrong]
        assert wrong == [named]
    run(*copy, "--decryption-key", tmp_path / "key.pem", secret, again)
    assert ociexport.unpack(again, tmp_path / "rootfs", platform=AMD64).entries == 1


@pytest.mark.parametrize("arguments", [("-3",), ("--long=27",), ("--long=31",), ("--ultra", "-22", "--long=31")])
@pytest.mark.parametrize("known_size", [False, True])
def test_layer_that_zstd_compressed_is_read(tmp_path: Path, arguments: tuple[str, ...], known_size: bool) -> None:
    require("zstd")
    (tmp_path / "tar").write_bytes(TAR)
    words = ["zstd", "-q", "-c", *arguments, *([str(tmp_path / "tar")] if known_size else [])]
    stored = subprocess.run(words, input=TAR, capture_output=True, check=True, timeout=60).stdout

    def edit(config: Json) -> None:
        config["rootfs"]["diff_ids"] = [str(Digest.of(TAR))]

    image = build_image([stored], compression="plain", edit_config=edit)
    assert ociexport.unpack(image.source(), tmp_path / "rootfs", platform=AMD64).tar_bytes == len(TAR)
    assert ociexport.verify(image.source(), deep=True).findings == ()
    # An archive may be compressed so as a whole.
    write_layout(tmp_path / "layout", {"1": image})
    with (
        (tmp_path / "a.tar.zst").open("wb") as file,
        subprocess.Popen(["tar", "-C", str(tmp_path / "layout"), "-cf", "-", "."], stdout=subprocess.PIPE) as tar,
    ):
        subprocess.run(["zstd", "-q", "-c", *arguments], stdin=tar.stdout, stdout=file, check=True, timeout=60)
    found = ociexport.inspect(str(tmp_path / "a.tar.zst"))
    assert json.loads(found.top.raw)["layers"][0]["size"] == len(stored)
