"""Applying a recipe: the layer's tar, from the tars of older layers and the bytes that travelled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, counted
from ociexport.transfer.bundle.delta.recipe import Range, Recipe, inflate_frame, read_exactly

if TYPE_CHECKING:
    from ociexport.spec.digest import ByteStream

_COPY_BYTES = 1024**2


def apply_recipe(recipe: Recipe, batches: ByteStream, bases: Sequence[int], *, where: str) -> Iterator[bytes]:
    """Yield the bytes of the layer's tar; the caller verifies its diff_id.

    Args:
        recipe: the head of the recipe.
        batches: the rest of it.
        bases: open files, each with the tar that `Recipe.bases` names at this place, and of its size.
        where: the recipe's name in messages.

    Raises:
        InvalidImageError: a batch is damaged, or the recipe ends too soon.
        OSError: a file can't be read.
    """
    new = _new_bytes(recipe, batches, bases, where)
    left = memoryview(b"")
    for step in recipe.steps:
        if isinstance(step, Range):
            yield from _copy(bases[step.base], step.offset, step.length, where)
            continue
        missing = step
        while missing:
            if not left:
                left = memoryview(next(new))
            piece, left = left[:missing], left[missing:]
            missing -= len(piece)
            yield bytes(piece)
    if batches.read(1):
        raise InvalidImageError("expected the end of the recipe, got more bytes", where=where)


def _new_bytes(recipe: Recipe, batches: ByteStream, bases: Sequence[int], where: str) -> Iterator[bytes]:
    for number, batch in enumerate(recipe.batches, 1):
        name = f"{where}: batch {number}"
        prefix = b"".join(b"".join(_copy(bases[one.base], one.offset, one.length, name)) for one in batch.prefix)
        data = inflate_frame(read_exactly(batches, batch.stored_bytes, name), batch.size, prefix, name)
        if len(data) != batch.size:
            raise InvalidImageError(f"expected {counted(batch.size, 'byte')}, got {len(data)}", where=name)
        yield data


def _copy(fd: int, offset: int, length: int, where: str) -> Iterator[bytes]:
    end = offset + length
    while offset < end:
        piece = os.pread(fd, min(_COPY_BYTES, end - offset), offset)
        if not piece:
            raise InvalidImageError(
                f"expected {counted(end - offset, 'more byte')} in the base, got its end", where=where
            )
        offset += len(piece)
        yield piece
