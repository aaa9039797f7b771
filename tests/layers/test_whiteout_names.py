"""whiteouts: which names hide entries of lower layers, and what they hide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.layers.paths import ImagePath
from ociexport.layers.whiteouts import WHITEOUT_PREFIX, Whiteout, WhiteoutKind, parse_whiteout


@pytest.mark.parametrize(
    ("path", "kind", "hidden"),
    [
        (b".wh.a", WhiteoutKind.PLAIN, b"a"),
        (b"d/e/.wh.a", WhiteoutKind.PLAIN, b"d/e/a"),
        (b"d/.wh.a.wh.b", WhiteoutKind.PLAIN, b"d/a.wh.b"),
        (b"d/.wh....", WhiteoutKind.PLAIN, b"d/..."),
        (b".wh..wh..opq", WhiteoutKind.OPAQUE, b""),
        (b"d/.wh..wh..opq", WhiteoutKind.OPAQUE, b"d"),
        (b".wh..wh.plnk/1.2", WhiteoutKind.AUFS_LINK, b".wh..wh.plnk/1.2"),
        (b".wh..wh.plnk", WhiteoutKind.BOOKKEEPING, b".wh..wh.plnk"),
        (b".wh..wh.orph/x", WhiteoutKind.BOOKKEEPING, b".wh..wh.orph/x"),
        (b"d/.wh..wh.aufs", WhiteoutKind.BOOKKEEPING, b"d/.wh..wh.aufs"),
    ],
)
def test_names_of_whiteouts(path: bytes, kind: WhiteoutKind, hidden: bytes) -> None:
    """image-spec layer.md, "Whiteouts" and "Opaque Whiteout"; aufs(5) for the rest."""
    assert parse_whiteout(ImagePath(path), is_file=True) == Whiteout(kind, ImagePath(hidden))


@pytest.mark.parametrize("path", [b"a", b"d/a.wh.b", b".wh.d/a", b"wh.a", b".WH.a", b".whx"])
def test_other_names_hide_nothing(path: bytes) -> None:
    assert parse_whiteout(ImagePath(path), is_file=True) is None


@pytest.mark.parametrize("path", [b".wh.", b"d/.wh.", b".wh..", b"d/.wh..."])
def test_whiteout_of_nothing_is_refused(path: bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"^whiteout: expected a name after '\.wh\.', got none$"):
        parse_whiteout(ImagePath(path), is_file=True)


@given(st.lists(st.sampled_from([b"a", b".wh.a", b".wh..wh.x", b".wh..wh..opq", b"b.wh."]), min_size=1, max_size=4))
def test_prefix_is_in_every_whiteout(parts: list[bytes]) -> None:
    """`LayerApplier` asks only about names that have the prefix."""
    path = ImagePath(b"/".join(parts))
    if parse_whiteout(path, is_file=True) is not None:
        assert path.find(WHITEOUT_PREFIX) >= 0
