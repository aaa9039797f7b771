"""images_of(), images_to_push(): the images of the sources that a user names, and their names at the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from ociexport.errors import UsageError, counted, printable
from ociexport.images.choose import PlatformChoice
from ociexport.images.source import ImageName, ImageSource
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.reference import ImageReference, as_path
from ociexport.storage.index import main_images, shown_name
from ociexport.transfer.push_names import MapRule, PushTarget, name_at
from ociexport.transfer.sources.list_names import list_layout_images
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    RegistryName,
    RemoteLayoutName,
    SourceName,
)
from ociexport.transfer.sources.open import SourceOpener

SourceFactory = Callable[[SourceName], ImageSource]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source, before it has a name at the registry.

    Args:
        source: of this image alone.
        shown: the image in messages.
        name: at the source.
        digest: None if it is not known without a request.
        platforms: those to push; None for those of the whole run.
        locked: the digest that the source must have now; None for any.
    """

    source: SourceName
    shown: str
    name: ImageName
    digest: Digest | None
    platforms: PlatformChoice | None = None
    locked: Digest | None = None


@dataclass(frozen=True, slots=True)
class ImageToPush:
    """One image to push.

    Args:
        image: at its source.
        destination: its name at the registry; without a tag, it is stored under its digest only.
    """

    image: SourceImage
    destination: ImageReference

    @property
    def source(self) -> SourceName:
        """The source, of this image alone."""
        return self.image.source

    @property
    def shown(self) -> str:
        """The image in messages."""
        return self.image.shown

    @property
    def name(self) -> ImageName:
        """The names at the source."""
        return self.image.name

    @property
    def name_there(self) -> ImageName:
        """The names of the copy."""
        return ImageName(self.destination.tag, str(self.destination))

    @property
    def full_name(self) -> str:
        """The name at the source in full, or else the image as messages name it."""
        return self.name.full or self.shown


def images_to_push(
    images: Sequence[SourceImage],
    target: PushTarget,
    rules: Sequence[MapRule],
    warn: Callable[[str], None] | None = None,
) -> list[ImageToPush]:
    """Return the images with their names at the registry, in order; no registry is asked.

    One that is listed twice is returned twice, as one object.

    Args:
        warn: gets a line if a rule matches no image; None if that is an error.

    Args:
        opener: fetches the list of a layout elsewhere.

    Raises:
        UsageError: two images would get one name, or an image has none that could be kept.
    """
    if target.tag is not None and len(images) != 1:
        raise UsageError(
            f"{target}: expected one image for one name, got {counted(len(images), 'image')}",
            hint="ociexport push SRC REGISTRY/PREFIX sends all, each by its own name",
        )
    known: dict[ImageReference, ImageToPush] = {}
    named = []
    unused = set(rules)
    for image in images:
        destination, rule = name_at(target, rules, image.name, image.digest, image.shown)
        if rule is not None:
            unused.discard(rule)
        other = known.setdefault(destination, ImageToPush(image, destination))
        if other.image is not image and not _is_same(other.image, image):
            hint = "--map PATTERN=PATH gives one of them another name"
            if other.image.shown == image.shown:
                hint = "platform=linux/amd64,linux/arm64 in one line of a list takes several platforms of an image"
            raise UsageError(
                f"{destination}: expected one image with this name, got two: {other.shown} and {image.shown}", hint=hint
            )
        named.append(other)
    if unused:
        texts = ", ".join(sorted(rule.text for rule in unused))
        message = f"--map {texts}: expected a pattern that an image matches, there is none"
        if warn is None:
            raise UsageError(message)
        warn(message)
    return named


def _is_same(one: SourceImage, other: SourceImage) -> bool:
    is_pinned = one.digest is not None and one.digest == other.digest
    names = [image.name.full or image.shown for image in (one, other)]
    return is_pinned and names[0] == names[1] and one.platforms == other.platforms


def images_of(name: SourceName, open_source: SourceFactory, local: SourceOpener) -> Iterator[SourceImage]:
    """Yield the images of a source; no registry is asked.

    A layout or an archive without an image's name stands for all its images.

    Args:
        local: opens what is on this machine for ``open_source``; it reads a layout or an archive once for all images.

    Raises:
        NotFoundError, InvalidImageError: a layout or archive is missing or broken.
    """
    if isinstance(name, RegistryName):
        reference = name.reference
        yield SourceImage(name, str(reference), name_of_reference(reference), reference.digest)
        return
    if isinstance(name, DirectoryName) or name.image is not None or name.path == "-":
        with closing(open_source(name)) as source:
            yield SourceImage(name, source.display_name, source.image_name, source.fetch_manifest().digest)
        return
    local.name_each(name, everything=True)
    images = list_layout_images(name, local)
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
        typed = name.path if isinstance(name, RemoteLayoutName) else as_path(name.path)
        shown = f"{typed}:{printable(shown_name(descriptor, known))}"
        yield SourceImage(replace(name, image=choice), shown, known, descriptor.digest)


def name_of_reference(reference: ImageReference) -> ImageName:
    """Return the names of an image in a registry: those with the tag, if it has one."""
    tag = reference.tag
    return ImageName(tag, f"{reference.name}:{tag}" if tag is not None else str(reference))
