"""The images that a merge may name: those of a bundle, and those that wait in the layout since an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.prepare import PreparedImage
from ociexport.images.source import BlobOpener, ImageName, ImageSource
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field, replace
from ociexport.storage.bundle import Bundle, replaced_by, with_replaced
from ociexport.storage.bundle_recipes import BundleRecipe
from ociexport.storage.bundle_volume import BundleVolume, PlacedBlob
from ociexport.storage.index import ListedSource, named, shown_name
from ociexport.storage.layout.documents import BUNDLE_FILE, INDEX_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.pending import PendingImage, read_pending
from ociexport.storage.layout.ranges import CollectedRange
from ociexport.transfer.bundle.contents import Contents, LayoutContents
from ociexport.transfer.bundle.present import read_present


@dataclass(frozen=True, slots=True)
class Incoming:
    """One image that may be named.

    Args:
        bundle: name of the bundle that it came in.
        entry: its entry in ``index.json``, with its names, and the digests that it replaces.
        image: its documents and all its blobs; None if its own manifest is not there.
        absent: documents that should be there and are not.
        holds: whether the bundle has a blob.
        opener: opens the blobs of the bundle.
        owners: by blob, the names of the bundles that should have it; for any other blob it is ``bundle``.
        volume: the volume that the image came in; its other blobs should be in the other volumes.
        is_pending: whether it waits since an earlier merge.
        recipes: of its layers that the bundle brings as recipes.
    """

    bundle: str
    entry: Descriptor
    name: ImageName
    image: PreparedImage | None
    absent: tuple[Digest, ...]
    holds: Callable[[Descriptor], bool]
    opener: BlobOpener
    owners: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict)
    volume: BundleVolume | None = None
    is_pending: bool = False
    recipes: Mapping[Digest, BundleRecipe] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return shown_name(self.entry, self.name)

    @property
    def blobs(self) -> tuple[BlobToFetch, ...]:
        """The blobs that it needs: all but foreign layers that the bundle does not have either."""
        if self.image is None:
            return ()
        return tuple(
            blob for blob in self.image.blobs if not _is_foreign(blob.descriptor) or self.holds(blob.descriptor)
        )

    def without(self, made: Container[Digest]) -> Incoming:
        """Return the image without the blobs that were just made, so that they are not hashed again."""
        if self.image is None:
            return self
        blobs = tuple(blob for blob in self.image.blobs if blob.descriptor.digest not in made)
        return replace(self, image=self.image._replace(blobs=blobs))

    def owners_of(self, digest: Digest, there: Sequence[CollectedRange] = ()) -> tuple[str, ...]:
        """Return the names of the bundles that should have a blob or document.

        Args:
            there: the ranges of it that are there already; the volumes that these came from have no others.
        """
        volume, placed = self.volume, self._placed(digest)
        if volume is None or placed is None:
            return self.owners.get(digest, (self.bundle,))
        done = {one.volume for one in there if one.set_id == volume.set_id}
        numbers = [number for number in placed.volumes if number not in done] or placed.volumes
        return tuple(volume.name_of(number, self.bundle) for number in numbers)

    def places(self, digest: Digest) -> bool:
        """Whether the image came in volumes, and one of these should have a blob."""
        return self._placed(digest) is not None

    def is_cut(self, digest: Digest) -> bool:
        """Whether several volumes should have ranges of a blob."""
        placed = self._placed(digest)
        return placed is not None and placed.is_cut

    def _placed(self, digest: Digest) -> PlacedBlob | None:
        if self.volume is None:
            return None
        return next((blob for blob in self.volume.blobs if blob.digest == digest), None)


def read_bundle_images(contents: Contents, bundle: Bundle | None) -> list[Incoming]:
    """Return the images of a bundle, or of any layout or archive.

    Args:
        bundle: its ``bundle.json``; None if it has none.

    Raises:
        NotFoundError, InvalidImageError: it can't be read, or a document in it is damaged.
    """
    images = [_of_source(source, contents, bundle) for source in contents.sources()]
    if bundle is not None and bundle.volume is not None:
        listed = {(image.name.full or image.name.tag, image.entry.digest) for image in images}
        # All volumes list the same images, so a difference is damage, and another volume has the true list.
        if listed != {(one.name, one.digest) for one in bundle.images}:
            raise InvalidImageError(
                f"images: expected those in {BUNDLE_FILE}, got others", where=f"{contents.place}: {INDEX_FILE}"
            )
    return images


def read_pending_images(layout: ImageLayout) -> list[Incoming]:
    """Return the images that wait in ``layout``; their manifests are there."""
    contents = LayoutContents(layout.path)
    images = []
    for pending in read_pending(layout.directory):
        source = ListedSource(layout.path, layout, pending.descriptor)
        one = _of_source(source, contents, None, pending.owners)
        images.append(replace(one, bundle=pending.bundle, owners=pending.owners, is_pending=True))
    return images


def to_pending(incoming: Incoming, owners: Mapping[Digest, tuple[str, ...]]) -> PendingImage:
    """Return what is remembered of an image that lacks some blobs, each with the bundles that should have it."""
    return PendingImage(incoming.entry, incoming.bundle, owners)


def each_of_a_set_once(images: Sequence[Incoming]) -> list[Incoming]:
    """Return ``images`` without those that an earlier volume of the same set has too, as every volume has all."""
    once: dict[tuple[object, ...], Incoming] = {}
    for number, image in enumerate(images):
        key = (image.volume.set_id, image.shown, image.entry.digest) if image.volume is not None else (number,)
        once.setdefault(key, image)
    return list(once.values())


def in_order(images: Sequence[Incoming]) -> list[Incoming]:
    """Return ``images`` with each after those of the same name that it replaces, so the newest is named last."""
    called: dict[str, list[Incoming]] = {}
    for image in images:
        called.setdefault(image.shown, []).append(image)
    following = {name: iter(_oldest_first(group)) for name, group in called.items()}
    return [next(following[image.shown]) for image in images]


def _oldest_first(images: Sequence[Incoming]) -> Iterator[Incoming]:
    """Yield the images of one name; two that say nothing of each other stay in their order."""
    waiting = list(images)
    while waiting:
        oldest = next((one for one in waiting if not any(_replaces(one, other) for other in waiting)), waiting[0])
        waiting.remove(oldest)
        yield oldest


def is_outdated(image: Incoming, there: Descriptor | None) -> bool:
    """Whether the layout has an entry of the same name, ``there``, that was made after ``image``.

    An image that says itself that it replaces that entry is later: a name was moved back on purpose.
    """
    if there is None or there.digest == image.entry.digest:
        return False
    return image.entry.digest in replaced_by(there) and there.digest not in replaced_by(image.entry)


def is_replaced(old: Incoming, complete: Sequence[Incoming]) -> bool:
    """Whether the name of ``old``, which is incomplete, belongs to a later one of the ``complete`` images of that name.

    An image that waits since an earlier merge is given up if its name comes again, with an image that it does not
    replace.
    """
    return any(
        _replaces(new, old) or (old.is_pending and not new.is_pending and not _replaces(old, new)) for new in complete
    )


def _replaces(new: Incoming, old: Incoming) -> bool:
    return old.entry.digest != new.entry.digest and old.entry.digest in replaced_by(new.entry)


def _is_foreign(layer: Descriptor) -> bool:
    return bool(layer.urls) or layer.media_type in mediatypes.FOREIGN_LAYERS


def _of_source(
    source: ImageSource, contents: Contents, bundle: Bundle | None, awaited: Container[Digest] = frozenset()
) -> Incoming:
    """Return an image of ``contents``; ``awaited`` are blobs that it lacked in an earlier merge."""
    documents = {blob.digest for blob in bundle.documents} if bundle is not None else set()
    owners = {blob.digest: blob.since for blob in bundle.expected if blob.since} if bundle is not None else {}
    absent: tuple[Digest, ...] = ()
    image = None
    needed = _told_by(bundle) if bundle is not None else awaited
    try:
        there = read_present(source, lambda blob: contents.holds(blob) or blob.digest in needed)
    except NotFoundError:
        if not isinstance(source, ListedSource):
            raise
        entry, absent = source.descriptor, (source.descriptor.digest,)
    else:
        image, entry = there.image, there.image.listed
        # An index may list manifests that were never copied; a bundle says which were.
        absent = tuple(digest for digest in there.absent if digest in documents)
    name = source.image_name
    called = name.full or name.tag
    told = bundle.images if bundle is not None and called is not None else ()
    before = [digest for one in told if one.name == called for digest in one.replaces]
    layers = {blob.descriptor.digest for blob in image.blobs} if image is not None else set()
    made = bundle.recipes if bundle is not None else ()
    return Incoming(
        bundle=contents.place,
        entry=named(with_replaced(entry, before), name),
        name=name,
        image=image,
        absent=absent,
        holds=contents.holds,
        opener=contents.opener,
        owners=owners,
        volume=bundle.volume if bundle is not None else None,
        recipes={one.layer.digest: one for one in made if one.layer.digest in layers},
    )


def _told_by(bundle: Bundle) -> frozenset[Digest]:
    """Return the blobs that the images of a bundle need, as its ``bundle.json`` says, wherever they are."""
    placed = frozenset(blob.digest for blob in bundle.volume.blobs) if bundle.volume is not None else frozenset()
    return frozenset(blob.digest for blob in bundle.blobs) | bundle.expected_digests | bundle.made_digests | placed
