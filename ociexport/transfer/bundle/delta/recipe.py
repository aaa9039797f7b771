"""The format of a recipe, which makes a layer's tar from the tars of older layers and the bytes that are new.

The file is `MAGIC`, the length of the head in eight bytes, the head, and the batches. The head is a zstd frame of JSON:

    {"diffId": "sha256:…", "size": 4096, "bases": [{"diffId": "sha256:…", "size": 8192}],
     "steps": [[0, 512, 1024], [3072]], "batches": [[500, 3072, [[0, 2048, 4096]]]]}

A step of three numbers copies: base, offset, length. A step of one number takes that many new bytes. The new bytes are
in the batches: each is one zstd frame, with its stored bytes, its bytes, and the ranges of the bases that are its
prefix. A batch is small, so a recipe needs little memory, whatever the size of the layer.

Nothing in a recipe is believed: every range lies within its base, all sums are right, and who applies it verifies the
diff_id of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ociexport.errors import InvalidDigestError, InvalidImageError, LimitExceededError, counted
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object, type_name
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import MAX_SIZE
from ociexport.system.zstd import zstd

if TYPE_CHECKING:
    from ociexport.spec.digest import ByteStream

MEDIA_TYPE = "application/vnd.ociexport.layer.recipe.v1"
MAGIC = b"ociexport recipe 1\n"
_LENGTH_BYTES = 8
# A layer of 10 GB in which every file is new has a head of 10 MB. Its JSON takes ten times as much memory.
MAX_HEAD_BYTES = 8 * 1024**2
# A batch and its prefix are in memory at the same time. Twice what we write, so that others may choose.
MAX_BATCH_BYTES = 8 * 1024**2
MAX_PREFIX_BYTES = 16 * 1024**2


class Range(NamedTuple):
    """Some bytes of a base.

    Args:
        base: the index in `Recipe.bases`.
        offset: of the first byte.
        length: in bytes.
    """

    base: int
    offset: int
    length: int


class Batch(NamedTuple):
    """Some of the new bytes, compressed as one zstd frame.

    Args:
        stored_bytes: the length of the frame.
        size: the length of the new bytes.
        prefix: what the frame's window begins with.
    """

    stored_bytes: int
    size: int
    prefix: tuple[Range, ...]


class Base(NamedTuple):
    """A layer's tar that a recipe copies from."""

    diff_id: Digest
    size: int


# A range to copy, or the number of new bytes.
Step = Range | int


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe's head says.

    Attributes:
        diff_id: of the tar that it makes.
        size: of that tar in bytes.
        bases: the tars that it needs.
        steps: copies and new bytes, in the order of the tar.
        batches: the new bytes.
    """

    diff_id: Digest
    size: int
    bases: tuple[Base, ...]
    steps: tuple[Step, ...]
    batches: tuple[Batch, ...]

    def encode(self) -> bytes:
        """Return the beginning of the file, to be followed by the batches.

        Raises:
            LimitExceededError: there are too many steps.
        """
        import json  # noqa: PLC0415 - start-up: reading needs only the parser

        head = json.dumps(
            {
                "diffId": str(self.diff_id),
                "size": self.size,
                "bases": [{"diffId": str(base.diff_id), "size": base.size} for base in self.bases],
                "steps": [list(step) if isinstance(step, Range) else [step] for step in self.steps],
                "batches": [[one.stored_bytes, one.size, list(map(list, one.prefix))] for one in self.batches],
            },
            separators=(",", ":"),
        ).encode()
        if len(head) > MAX_HEAD_BYTES:
            raise LimitExceededError(f"recipe: expected a head of at most {MAX_HEAD_BYTES} bytes, got {len(head)}")
        frame = zstd.compress(head, 9)
        return MAGIC + len(frame).to_bytes(_LENGTH_BYTES, "big") + frame


def read_recipe(stream: ByteStream, *, where: str) -> Recipe:
    """Return the head of a recipe; the batches are the rest of ``stream``.

    Raises:
        InvalidImageError: it is no recipe, or contradicts itself.
        LimitExceededError: its head is too large.
    """
    begin = read_exactly(stream, len(MAGIC) + _LENGTH_BYTES, where)
    if not begin.startswith(MAGIC):
        raise InvalidImageError("expected a recipe, got other bytes", where=where)
    length = int.from_bytes(begin[len(MAGIC) :], "big")
    if length > MAX_HEAD_BYTES:
        raise LimitExceededError(f"head: expected at most {MAX_HEAD_BYTES} bytes, got {length}", where=where)
    raw = inflate_frame(read_exactly(stream, length, where), MAX_HEAD_BYTES, None, f"{where}: head")
    return _parse(parse_json_object(raw, where=where))


def read_exactly(stream: ByteStream, count: int, where: str) -> bytes:
    """Return the next ``count`` bytes of a recipe.

    Raises:
        InvalidImageError: it ends before.
    """
    pieces = []
    missing = count
    while missing:
        piece = stream.read(missing)
        if not piece:
            raise InvalidImageError(f"expected {counted(missing, 'more byte')}, got the end of the recipe", where=where)
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def inflate_frame(frame: bytes, most: int, prefix: bytes | None, where: str) -> bytes:
    """Return the bytes of one zstd frame.

    Raises:
        InvalidImageError: it is damaged, is not one whole frame, or holds more than ``most`` bytes.
    """
    decompressor = zstd.ZstdDecompressor(
        zstd_dict=zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None,
        options={zstd.DecompressionParameter.window_log_max: (MAX_BATCH_BYTES + MAX_PREFIX_BYTES).bit_length()},
    )
    try:
        data = decompressor.decompress(frame, most + 1)
    except zstd.ZstdError as error:
        raise InvalidImageError(f"zstd: {error}", where=where) from error
    if len(data) > most:
        raise LimitExceededError(f"expected at most {counted(most, 'byte')}, got more", where=where)
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidImageError("expected one zstd frame, got a part of one, or more", where=where)
    return data


def _parse(document: JsonObject) -> Recipe:
    bases = tuple(_parse_base(base) for base in document.objects("bases"))
    steps, batches = (_list(document.members.get(key), key, document) for key in ("steps", "batches"))
    recipe = Recipe(
        _digest(document),
        _size(document),
        bases,
        tuple(_parse_step(item, bases, document) for item in steps),
        tuple(_parse_batch(item, bases, document) for item in batches),
    )
    lengths = [step.length if isinstance(step, Range) else step for step in recipe.steps]
    if sum(lengths) != recipe.size:
        raise document.error("steps", f"expected {counted(recipe.size, 'byte')} in all, got {sum(lengths)}")
    new = sum(step for step in recipe.steps if not isinstance(step, Range))
    in_batches = sum(batch.size for batch in recipe.batches)
    if new != in_batches:
        raise document.error("batches", f"expected {counted(new, 'new byte')}, as in the steps, got {in_batches}")
    return recipe


def _parse_base(document: JsonObject) -> Base:
    return Base(_digest(document), _size(document))


def _digest(document: JsonObject) -> Digest:
    text = document.text("diffId")
    try:
        return Digest.parse(text)
    except InvalidDigestError as error:
        raise document.error("diffId", str(error)) from error


def _size(document: JsonObject) -> int:
    return _number(document.integer("size"), MAX_SIZE, "size", document)


def _parse_step(item: object, bases: tuple[Base, ...], document: JsonObject) -> Step:
    numbers = _list(item, "steps", document)
    if len(numbers) == 1:
        return _number(numbers[0], MAX_SIZE, "steps", document, least=1)
    return _parse_range(numbers, bases, "steps", document)


def _parse_batch(item: object, bases: tuple[Base, ...], document: JsonObject) -> Batch:
    parts = _list(item, "batches", document)
    if len(parts) != 3:
        raise document.error("batches", f"expected 3 values, got {len(parts)}")
    stored_bytes = _number(parts[0], 2 * MAX_BATCH_BYTES, "batches", document, least=1)
    size = _number(parts[1], MAX_BATCH_BYTES, "batches", document, least=1)
    ranges = _list(parts[2], "batches", document)
    prefix = tuple(_parse_range(_list(one, "batches", document), bases, "batches", document) for one in ranges)
    _number(sum(one.length for one in prefix), MAX_PREFIX_BYTES, "batches", document)
    return Batch(stored_bytes, size, prefix)


def _parse_range(numbers: list[Any], bases: tuple[Base, ...], key: str, document: JsonObject) -> Range:
    if len(numbers) != 3:
        raise document.error(key, f"expected 3 numbers, got {len(numbers)}")
    base = _number(numbers[0], len(bases) - 1, key, document)
    offset = _number(numbers[1], bases[base].size, key, document)
    return Range(base, offset, _number(numbers[2], bases[base].size - offset, key, document, least=1))


def _list(value: object, key: str, document: JsonObject) -> list[Any]:
    if not isinstance(value, list):
        raise document.error(key, f"expected a list, got {type_name(value)}")
    return value


def _number(value: object, most: int, key: str, document: JsonObject, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise document.error(key, f"expected a number from {least} to {most}, got {value!r}")
    return value
