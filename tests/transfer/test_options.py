"""PullOptions: an impossible combination has no value, and every kind of pull obeys the required signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.errors import SignatureError, UsageError
from ociexport.images.keys import VerificationKey
from ociexport.images.signatures import SignaturePolicy
from ociexport.images.source import ImageSource
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT
from ociexport.transfer.copy import copy_image
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.plan import plan_pull
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import member
from tests.support.signing import pem_of

KEY = ec.generate_private_key(ec.SECP256R1())
POLICY = SignaturePolicy((VerificationKey.parse(pem_of(KEY), "cosign.pub"),))
UNSIGNED = build_image([[member("a", b"1")]])


@pytest.mark.parametrize("jobs", [0, 65])
def test_number_of_jobs_is_limited(jobs: int) -> None:
    with pytest.raises(UsageError) as caught:
        PullOptions(AMD64, jobs)
    assert str(caught.value) == f"jobs: expected 1 to 64, got {jobs}"


@pytest.mark.parametrize("is_legacy", [False, True])
def test_referrers_are_about_the_published_manifest_only(is_legacy: bool) -> None:
    with pytest.raises(UsageError) as caught:
        PullOptions(AMD64, referrers=True, legacy=is_legacy, decompress=not is_legacy)
    assert str(caught.value) == "referrers: expected neither decompressed layers nor a legacy archive"
    assert caught.value.hint == "signatures and other referrers name the manifest as published"


def into_layout(source: ImageSource, place: Path, options: PullOptions) -> object:
    return copy_image(source, ImageLayout(place / "layout"), options)


def into_archive(source: ImageSource, place: Path, options: PullOptions) -> object:
    return copy_to_archive([source], str(place / "a.tar"), options)


def as_plan(source: ImageSource, place: Path, options: PullOptions) -> object:
    return plan_pull([source], str(place / "a.tar"), options, SILENT)


@pytest.mark.parametrize("pull", [into_layout, into_archive, as_plan])
def test_every_kind_of_pull_requires_the_signature(
    tmp_path: Path, pull: Callable[[ImageSource, Path, PullOptions], object]
) -> None:
    with pytest.raises(SignatureError, match=r"expected a signature by the key in 'cosign\.pub'"):
        pull(UNSIGNED.source("1"), tmp_path, PullOptions(AMD64, signatures=POLICY))
    assert list(tmp_path.iterdir()) == []
