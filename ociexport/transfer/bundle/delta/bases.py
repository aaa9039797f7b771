"""The older layers on the near side: those of each HAVE whose bytes can be read here.

A layout, an archive or an image in a registry gives bytes. A list of digests, a receipt and other documents only tell
what the far side has, and an earlier update lacks what it leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager

from ociexport.errors import InvalidImageError, NotFoundError, UnsupportedMediaTypeError
from ociexport.images.choose import PlatformChoice
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.source import BlobOpener, ImageName, ImageSource
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.bundle.contents import Contents, open_contents
from ociexport.transfer.bundle.present import read_present
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    SourceName,
    has_transport,
    parse_source_name,
)


class BaseLayer(NamedTuple):
    """An older layer whose bytes can be read here."""

    diff_id: Digest
    descriptor: Descriptor
    source: BlobOpener

    def open(self) -> ByteStream:
        """Return its bytes as stored; the caller closes them."""
        return self.source.open_blob(self.descriptor)


class BaseImage(NamedTuple):
    """An older image: its layers, lowest first; None for one whose bytes are not here."""

    name: ImageName
    platform: Platform | None
    layers: tuple[BaseLayer | None, ...]


class Bases(NamedTuple):
    """All older images.

    Args:
        digests: by diff_id, the digests under which any HAVE has a layer.
        since: by diff_id, the names of the HAVEs that have the layer.
        silent: HAVEs that give no bytes.
    """

    images: tuple[BaseImage, ...]
    digests: Mapping[Digest, tuple[Digest, ...]]
    since: Mapping[Digest, tuple[str, ...]]
    silent: tuple[str, ...]


class HaveBytes(NamedTuple):
    """Where the bytes of older layers are.

    Args:
        texts: the HAVEs, as `ociexport.transfer.bundle.have.read_have` reads them.
        opener: opens a source; the caller closes it.
        choice: the platforms that the far side has of an image in a registry.
    """

    texts: Sequence[str]
    opener: Callable[[SourceName], ImageSource]
    choice: PlatformChoice | Platform


@contextmanager
def open_bases(have: HaveBytes, progress: Progress) -> Iterator[Bases]:
    """Give the older images; their layers can be opened within the ``with`` block.

    Raises:
        NotFoundError, RegistryError, InvalidImageError: a HAVE can't be read.
    """
    with ExitStack() as stack:
        images: list[BaseImage] = []
        digests: dict[Digest, dict[Digest, None]] = {}
        since: dict[Digest, dict[str, None]] = {}
        silent = []
        for text in have.texts:
            found = list(_read(text, have, stack))
            if not any(layer is not None for image in found for layer in image.layers):
                silent.append(text)
            for layer in (layer for image in found for layer in image.layers if layer is not None):
                digests.setdefault(layer.diff_id, {})[layer.descriptor.digest] = None
                since.setdefault(layer.diff_id, {})[_name_of(text)] = None
            images += found
        for text in silent:
            progress.say(f"since {text}: tells what is there and gives no bytes, so no recipe is made from it")
        yield Bases(
            tuple(images),
            {diff_id: tuple(found) for diff_id, found in digests.items()},
            {diff_id: tuple(names) for diff_id, names in since.items()},
            tuple(silent),
        )


def _name_of(text: str) -> str:
    """Return the name of a HAVE, as ``bundle.json`` has it."""
    return os.path.basename(os.path.normpath(text)) if os.path.lexists(text) else text


def _read(text: str, have: HaveBytes, stack: ExitStack) -> Iterator[BaseImage]:
    contents = _open_contents(text, stack)
    if contents is not None:
        for source in contents.sources():
            try:
                image = read_present(source).image
            except (NotFoundError, UnsupportedMediaTypeError):
                continue  # listed only, or of a kind that has no layers
            yield from _images_of(image, contents.holds)
    elif text != "-" and not os.path.lexists(text):
        name = parse_source_name(text)
        source = stack.enter_context(closing(have.opener(name)))
        if isinstance(name, RegistryName):
            yield from _images_of(prepare_image(source, have.choice, None, SILENT), lambda _: True)
        else:
            yield from _images_of(read_present(source).image, lambda _: True)


def _open_contents(text: str, stack: ExitStack) -> Contents | None:
    """Return the layout or archive that ``text`` names as a whole; None for anything else."""
    path = text
    if text != "-" and has_transport(text):
        name = parse_source_name(text)
        if not isinstance(name, LayoutName | ArchiveName | DirectoryName) or name.image is not None:
            return None
        path = name.path
    if not os.path.isdir(path) and not os.path.isfile(path):
        return None
    try:
        contents = stack.enter_context(closing(open_contents(path)))
        contents.sources()
    except (InvalidImageError, NotFoundError):
        return None  # a document, which `read_have` has read
    return contents


def _images_of(image: PreparedImage, holds: Callable[[Descriptor], bool]) -> Iterator[BaseImage]:
    for one in image.manifests:
        if one.config is None:
            continue
        layers = [
            BaseLayer(layer.diff_id, layer.descriptor, image.source) if holds(layer.descriptor) else None
            for layer in pair_layers(one.manifest, one.config)
        ]
        yield BaseImage(image.name, one.platform, tuple(layers))
