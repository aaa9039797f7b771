"""JSON that takes as much memory as possible: small values, wide characters, distinct names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ociexport.spec.json_fields import MAX_JSON_VALUES

DIGEST = b"sha256:" + b"0" * 64
# By kind: a function from an item's number to the item.
ITEMS: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda number: b"[]",
    "lists of one": lambda number: b"[0]",
    "empty objects": lambda number: b"{}",
    "objects of one": lambda number: b'{"%06x":0}' % number,
    "the same name twice": lambda number: b'{"a":0,"a":%d}' % number,
    "large objects": lambda number: b"{%b}" % b",".join(b'"%06x%d":0' % (number, part) for part in range(6)),
    "deep lists": lambda number: b"[" * 200 + b"]" * 200,
    "deep objects": lambda number: b'{"":' * 200 + b"0" + b"}" * 200,
    "texts": lambda number: b'"%06x"' % number,
    "wide texts": lambda number: '"\U0001f600a"'.encode(),
    "escaped texts": lambda number: rb'"\ud83d\ude00a"',
    "half surrogates": lambda number: rb'"\ud800a"',
    "integers": lambda number: b"%d" % (number + 1000),
    "fractions": lambda number: b"1.5",
    "descriptors": lambda number: b'{"digest":"%b","size":%d}' % (DIGEST, number),
    "named descriptors": lambda number: (
        b'{"digest":"%b","size":0,"annotations":{"org.opencontainers.image.ref.name":"a/%06x"}}' % (DIGEST, number)
    ),
    "history": lambda number: b'{"created_by":"%06x"}' % number,
    "saved images": lambda number: b'{"Config":"%06x","Layers":[],"RepoTags":["a:%06x"]}' % (number, number),
    "repositories": lambda number: b'{"Config":"c","Layers":null,"RepoTags":["%06x"]}' % number,
}
# Characters of one long text that fills a document up to its limit.
FILLERS = {
    "plain": b"x",
    "wide": "\U0001f600".encode(),
    "wide at its end": b"x",
    "escaped": rb"\u0100",
    "escaped pairs": rb"\ud83d\ude00",
    "half surrogates": rb"\ud800",
}


def worst_lists(max_values: int = MAX_JSON_VALUES) -> Iterator[tuple[str, bytes]]:
    """Yield lists with as many values as allowed, and the kind of their values."""
    for name, item in ITEMS.items():
        weight = sum(map(item(0).count, (b",", b":", b"[", b"{"))) + 1
        yield name, b"[" + b",".join(map(item, range((max_values - 20) // weight))) + b"]"


def too_many_values(size: int) -> bytes:
    """Return a list of empty lists of ``size`` bytes."""
    return b"[" + b"[]," * ((size - 4) // 3) + b"0]"


def filler(name: str, size: int) -> bytes:
    """Return one text of about ``size`` bytes."""
    end = "\U0001f600".encode() if name == "wide at its end" else b""
    return b'"%b%b"' % (FILLERS[name] * ((size - 8) // len(FILLERS[name])), end)
