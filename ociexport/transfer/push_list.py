"""images_to_push(): the images of the sources that a user names, each with its name at the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from ociexport.errors import UsageError, counted, printable
from ociexport.images.source import ImageName, ImageSource
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import ImageReference, as_path
from ociexport.storage.index import main_images, shown_name
from ociexport.transfer.push_names import MapRule, PushTarget, name_at
from ociexport.transfer.sources.list_names import list_local_images
from ociexport.transfer.sources.names import ArchiveName, DirectoryName, LayoutName, RegistryName, SourceName

SourceFactory = Callable[[SourceName], ImageSource]


@dataclass(frozen=True, slots=True)
class ImageToPush:
    """One image to push.

    Args:
        source: of this image alone.
        shown: the image in messages.
        name: at the source.
        destination: its name at the registry; without a tag, it is stored under its digest only.
    """

    source: SourceName
    shown: str
    name: ImageName
    destination: ImageReference

    @property
    def name_there(self) -> ImageName:
        """The names of the copy."""
        return ImageName(self.destination.tag, str(self.destination))

    @property
    def full_name(self) -> str:
        """The name at the source in full, or else the image as messages name it."""
        return self.name.full or self.shown


def images_to_push(
    names: Sequence[SourceName], target: PushTarget, rules: Sequence[MapRule], open_source: SourceFactory
) -> list[ImageToPush]:
    """Return the images, in order; no registry is asked.

    A layout or an archive without an image's name stands for all its images.

    Raises:
        UsageError: two images would get one name, or an image has none that could be kept.
        NotFoundError, InvalidImageError: a layout or archive is missing or broken.
    """
    listed = [one for name in names for one in _images_of(name, open_source)]
    if target.tag is not None and len(listed) != 1:
        raise UsageError(
            f"{target}: expected one image for one name, got {counted(len(listed), 'image')}",
            hint="without a tag, images get their names below a prefix",
        )
    found: dict[ImageReference, tuple[ImageToPush, Digest | None]] = {}
    unused = set(rules)
    for source, shown, name, digest in listed:
        destination, rule = name_at(target, rules, name, digest, shown)
        if rule is not None:
            unused.discard(rule)
        image = ImageToPush(source, shown, name, destination)
        other, its_digest = found.setdefault(destination, (image, digest))
        if other is not image and not (
            other.full_name == image.full_name and digest is not None and digest == its_digest
        ):
            raise UsageError(
                f"{destination}: expected one image with this name, got two: {other.shown} and {shown}",
                hint="--map PATTERN=PATH gives one of them another name",
            )
    if unused:
        texts = ", ".join(sorted(rule.text for rule in unused))
        raise UsageError(f"--map {texts}: expected a pattern that an image matches, there is none")
    return [image for image, _ in found.values()]


def _images_of(
    name: SourceName, open_source: SourceFactory
) -> Iterator[tuple[SourceName, str, ImageName, Digest | None]]:
    """Yield the source, the shown name, the names and the digest of each image; the digest only if it is known."""
    if isinstance(name, RegistryName):
        reference = name.reference
        full = f"{reference.name}:{reference.tag}" if reference.tag is not None else str(reference)
        yield name, str(reference), ImageName(reference.tag, full), reference.digest
        return
    if isinstance(name, DirectoryName) or name.image is not None or name.path == "-":
        with closing(open_source(name)) as source:
            yield name, source.display_name, source.image_name, source.fetch_manifest().digest
        return
    images = list_local_images(name)
    kept = {id(image) for image in main_images(images)}
    seen: set[str] = set()
    for position, image in enumerate(images):
        descriptor, known = image
        choice = known.full or known.tag
        if id(image) not in kept or choice in seen:
            continue
        if choice is None:
            choice = f"@{position}" if isinstance(name, ArchiveName) else f"@{descriptor.digest}"
        seen.add(choice)
        one = ArchiveName(name.path, choice) if isinstance(name, ArchiveName) else LayoutName(name.path, choice)
        yield one, f"{as_path(name.path)}:{printable(shown_name(descriptor, known))}", known, descriptor.digest
