"""The images of a merge whose layers come as recipes: made from the older layers of the layout, or left out as a whole.

A recipe needs its bases in the layout first, and another recipe may make one of them. So the images are tried in turn
until none is left that can be made. Of an image that can't be made nothing stays, and nothing is remembered: its
bundle has to come again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ociexport.errors import InvalidImageError, NotFoundError, OciexportError, printable
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.life_cycle import LayoutUse
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.delta.rebuild import BaseError, rebuild_layer
from ociexport.transfer.bundle.incoming import Incoming
from ociexport.transfer.bundle.readable import Readable


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of the layers that come as recipes.

    Args:
        made: the sizes of those that were made.
        images: that have all layers that come as recipes; their other blobs may be missing.
        failures: of the other images: why a layer can't be made.
    """

    made: Mapping[Digest, int]
    images: tuple[Incoming, ...]
    failures: Mapping[Digest, str]


def rebuild(images: Sequence[Incoming], layout: ImageLayout, use: LayoutUse, progress: Progress) -> Rebuilt:
    """Make the layers of ``images`` that come as recipes, as far as their bases are in ``layout``.

    Args:
        images: of all bundles.

    Raises:
        OSError: the disk or file system.
    """
    made: dict[Digest, int] = {}
    failures: dict[Digest, str] = {}
    done: list[Incoming] = []
    waiting = [image for image in images if image.recipes]
    with progress.phase("making layers", sum(_sizes_of(waiting).values())):
        is_moving = True
        while waiting and is_moving:
            failures = {}
            left: list[Incoming] = []
            for image in waiting:
                failed = _make_layers(image, images, layout, made, progress)
                failures |= failed
                (left if failed else done).append(image)
            is_moving = len(left) < len(waiting)
            waiting = left
    kept = {digest for image in done for digest in image.recipes}
    use.discard(made.keys() - kept)
    return Rebuilt({digest: size for digest, size in made.items() if digest in kept}, tuple(done), failures)


def would_rebuild(images: Sequence[Incoming], layout: ImageLayout, added: Collection[Digest]) -> Rebuilt:
    """Return what `rebuild` would do as far as that is known without reading a blob: whether each base is there.

    Args:
        added: blobs that the merge would bring before, also those whose ranges are in several volumes.
    """
    made: dict[Digest, int] = {}
    failures: dict[Digest, str] = {}
    done: list[Incoming] = []
    coming = {blob.descriptor.digest for image in images for blob in image.blobs if image.holds(blob.descriptor)}
    coming.update(added)
    for image in images:
        failed: dict[Digest, str] = {}
        for digest, recipe in image.recipes.items():
            if layout.has_blob(recipe.layer) or digest in coming:
                continue
            try:
                for base in recipe.bases:
                    if not any(one in coming or one in made or _is_there(layout, one) for one in base.all_digests):
                        raise BaseError("not there", base)
            except BaseError as error:
                failed[digest] = _reason_of(error, image)
            else:
                made[digest] = recipe.layer.size
        failures |= failed
        if image.recipes and not failed:
            done.append(image)
    return Rebuilt(made, tuple(done), failures)


def _make_layers(
    image: Incoming, images: Sequence[Incoming], layout: ImageLayout, made: dict[Digest, int], progress: Progress
) -> dict[Digest, str]:
    """Make the layers of one image, and add their sizes to ``made``; return why others can't be made."""
    failed = {}
    for digest, recipe in image.recipes.items():
        if digest in made or layout.has_blob(recipe.layer) or any(one.holds(recipe.layer) for one in images):
            continue
        try:
            rebuild_layer(recipe, Readable(image.opener, image.bundle), layout, progress)
        except (InvalidImageError, NotFoundError) as error:
            failed[digest] = _reason_of(error, image)
        else:
            made[digest] = recipe.layer.size
    return failed


def _reason_of(error: OciexportError, image: Incoming) -> str:
    """Return why a layer can't be made, and what helps."""
    if isinstance(error, BaseError):
        holders = " or ".join(map(printable, error.since))
        return f"{error}{f', {holders} should have it' if holders else ''}; merge {image.bundle} again with it"
    return f"{error}; merge {image.bundle} again when it is whole"


def _is_there(layout: ImageLayout, digest: Digest) -> bool:
    try:
        layout.open_file(digest).close()
    except (NotFoundError, InvalidImageError):
        return False
    return True


def _sizes_of(images: Sequence[Incoming]) -> dict[Digest, int]:
    return {recipe.layer.digest: recipe.layer.size for image in images for recipe in image.recipes.values()}
