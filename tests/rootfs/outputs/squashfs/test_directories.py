"""The list of names in a directory of a squashfs, and its index."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, EntryType
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.squashfs.directories import list_names
from ociexport.rootfs.outputs.squashfs.metadata import METADATA_BYTES

FIFO = IMPLIED_DIRECTORY._replace(type=EntryType.FIFO)
# Number of the node, start of its inode's block and offset there.
INODES = st.tuples(
    st.one_of(st.integers(0, 70_000), st.integers(32_766, 32_769)), st.sampled_from([0, 8194]), st.integers(0, 8191)
)


def read_list(listed: bytes) -> tuple[list[tuple[bytes, int, int]], list[int]]:
    """Return name, number and reference of each entry, and where the runs begin."""
    names, runs, at = [], [], 0
    while at < len(listed):
        runs.append(at)
        count, block, base = struct.unpack_from("<III", listed, at)
        assert count < 256
        at += 12
        for _ in range(count + 1):
            offset, difference, kind, length = struct.unpack_from("<HhHH", listed, at)
            assert kind == 6
            names.append((listed[at + 8 : at + 9 + length], base + difference, block << 16 | offset))
            at += 9 + length
    return names, runs


@settings(max_examples=50)
@given(st.lists(INODES, min_size=1, max_size=30), st.integers(1, 60), st.integers(1, 255), st.integers(0, 20_000))
def test_every_name_is_found_by_the_index(
    inodes: list[tuple[int, int, int]], times: int, name_bytes: int, begin: int
) -> None:
    """squashfs.rst, 3.3: a run has at most 256 names, and inodes of one block, near in number."""
    repeated = inodes * times
    references = {number: block << 16 | offset for number, block, offset in repeated}
    children = [
        ((b"%05d" % place).ljust(name_bytes, b"x"), FlatNode(number, FIFO, None))
        for place, (number, _, _) in enumerate(repeated)
    ]
    listed, index = list_names(children, [references.get(number, 0) for number in range(70_001)], begin)
    names, runs = read_list(bytes(listed))
    assert names == [(name, node.number + 1, references[node.number]) for name, node in children]
    assert [indexed.offset for indexed in index if indexed.offset not in runs] == []
    starts = {run: read_list(bytes(listed[run:]))[0][0][0] for run, _ in index}
    assert [starts[run] for run, _ in index] == [name for _, name in index]
    # One for each metadata block in which an entry begins, but the first.
    blocks = [(begin + run) // METADATA_BYTES for run, _ in index]
    assert blocks == sorted(set(blocks))
    last_block = (begin + len(listed) - 1) // METADATA_BYTES
    assert last_block - 1 <= (blocks[-1] if blocks else begin // METADATA_BYTES) <= last_block


def test_empty_directory_has_an_empty_list() -> None:
    assert list_names([], [], 100) == (bytearray(), [])
