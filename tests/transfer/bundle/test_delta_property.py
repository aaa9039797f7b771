"""Whatever two images have in common, an update of recipes and the older image make the newer one."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.bundle.delta.bases import HaveBytes
from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions
from ociexport.transfer.bundle.merge import merge
from ociexport.transfer.bundle.select import ThinOptions
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.sources.open import SourceOpener
from ociexport.verification.verify import verify
from tests.support.deltas import by_another
from tests.support.image_builder import AMD64, BuiltImage, build_image
from tests.support.memory_source import Member, member
from tests.support.updates import NAME, blobs_in, have, noise, write_whole

CONTENTS = [b"", b"short", noise("a", 3_000), noise("b", 5_000), noise("a", 3_000) + b"tail", b"x" * 2_000]
names = st.sampled_from(["a", "lib/b-1.0", "lib/b-1.1", "c" * 120, "d"])
layers = st.dictionaries(names, st.sampled_from(CONTENTS), min_size=1, max_size=4)
stacks = st.lists(layers, min_size=1, max_size=3)


def members_of(layer: dict[str, bytes]) -> list[Member]:
    return [member(name, content) for name, content in sorted(layer.items())]


def built(stack: list[dict[str, bytes]], *, is_repeatable: bool) -> BuiltImage:
    return build_image(list(map(members_of, stack)), compress=None if is_repeatable else by_another)


@settings(max_examples=25, deadline=None)
@given(old=stacks, new=stacks, is_repeatable=st.booleans(), allows=st.booleans())
def test_an_update_and_the_older_image_make_the_newer_one(
    old: list[dict[str, bytes]], new: list[dict[str, bytes]], is_repeatable: bool, allows: bool
) -> None:
    before, after = built(old, is_repeatable=is_repeatable), built(new, is_repeatable=is_repeatable)
    with TemporaryDirectory() as directory, closing(SourceOpener()) as opener:
        place = Path(directory)
        base = write_whole(place / "v1", before)
        shutil.copytree(base, place / "far")
        delta = DeltaOptions(HaveBytes([str(base)], opener.open, AMD64), allows)
        options = PullOptions(AMD64, thin=ThinOptions(have(base), delta=delta))
        result = copy_image(after.source("2", f"{NAME}:2"), ImageLayout(place / "update"), options)
        whole = sum(layer.size for layer in after.layers)
        assert sum(file.stat().st_size for file in (place / "update" / "blobs").rglob("*")) < whole + 10_000
        assert verify(place / "update").is_right
        assert merge(place / "far", [str(place / "update")]).waiting == ()
        assert verify(place / "far", deep=True).is_right
        assert result.config_digest == after.config.digest
        if is_repeatable or not allows:
            assert (result.digest, after.all_digests - blobs_in(place / "far")) == (after.digest, set())
