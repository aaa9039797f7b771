"""Archives of ``docker save``, of all versions, as images with manifests.

Such an archive contains no manifest, so a new one is made. The config, and with it the image ID, is kept byte for byte;
layers are kept as they are stored, plain or compressed.

Spec: moby ``image/spec/v1.2.md``, "Combined Image JSON + Filesystem Changeset Format"; ``image/spec/v1.md`` for
archives of docker before 1.10, which have no config either.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from copy import copy
from io import BytesIO

from ociexport.errors import (
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    counted,
    locating,
    printable,
    quoted,
)
from ociexport.images.budget import DocumentBudget
from ociexport.images.make_manifest import compute_diff_id, layer_type_of, make_manifest
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.config import MAX_CONFIG_BYTES, parse_config
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest
from ociexport.spec.docker_v1 import MAX_V1_LAYERS, V1Document, config_from_v1, parse_v1_document
from ociexport.spec.json_fields import parse_json_as
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.numerals import number_up_to
from ociexport.spec.reference import ImageReference
from ociexport.storage.archive.file_names import DOCKER_MANIFEST_FILE, REPOSITORIES_FILE
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.index import ListedImage, choose_image
from ociexport.system.compression import MAGIC_BYTES, is_compressed
from ociexport.system.progress.protocol import Progress

# Ten thousand images fit.
_MAX_LIST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _SavedImage:
    """One image of ``manifest.json``: the names of its files, and its tags."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


class DockerArchiveSource:
    """One image of a docker archive, with a manifest made for it; an `ImageSource`.

    Args:
        members: of the archive; closed with the source.
        name: of the image.
        config: its bytes.
        layers: descriptors and file names, lowest first.
    """

    def __init__(
        self, members: ArchiveMembers, name: ImageName, config: bytes, layers: Sequence[tuple[Descriptor, str]]
    ) -> None:
        self._members = members
        self._config_bytes = config
        self._config = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))
        self._files = {descriptor.digest: file for descriptor, file in layers}
        self.image_name = name
        self._manifest = make_manifest(self._config, [descriptor for descriptor, _ in layers])

    @property
    def display_name(self) -> str:
        """The archive's path and the image's name."""
        name = self.image_name.full or f"@{self._config.digest}"
        return f"{self._members.place}:{printable(name)}"

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest that was made, the only one of the image."""
        if descriptor is not None and descriptor.digest != self._manifest.digest:
            raise NotFoundError(f"{self._members.place}: manifest {descriptor.digest}: not in the archive")
        return self._manifest

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the config's or a layer's bytes as stored, from ``offset`` on; the caller verifies and closes them."""
        if descriptor.digest == self._config.digest:
            return BytesIO(self._config_bytes[offset:])
        file = self._files.get(descriptor.digest)
        if file is None:
            raise NotFoundError(f"{self._members.place}: blob {descriptor.digest}: not in the archive")
        return self._members.open_file(file, offset)

    def called(self, name: ImageName) -> DockerArchiveSource:
        """Return the same image under another name."""
        other = copy(self)
        other.image_name = name
        return other

    def close(self) -> None:
        """Close the archive."""
        self._members.close()


def open_docker_image(members: ArchiveMembers, name: str | None, progress: Progress) -> DockerArchiveSource:
    """Return one image of an archive that has a ``manifest.json``.

    Args:
        name: ``alpine:3.20`` or a full name, ``@N`` (position in ``manifest.json``) or ``@sha256:…`` (the image ID);
            None if the archive has only one image.

    Raises:
        NotFoundError: no image matches; the message lists the existing names.
        UsageError: several images match.
        InvalidImageError: the files in the archive do not fit together.
    """
    where = f"{members.place}: {DOCKER_MANIFEST_FILE}"
    image, image_name = _choose(members, _read_docker_manifest(members), name)
    config = members.read(image.config, MAX_CONFIG_BYTES)
    with locating(members.place):
        diff_ids = parse_config(config).diff_ids
    if len(diff_ids) != len(image.layers):
        raise InvalidImageError(
            f"expected as many diff_ids as layers, got {counted(len(image.layers), 'layer')} "
            f"but {counted(len(diff_ids), 'diff_id')}",
            where=f"{where}: {quoted(image.config)}",
        )
    known: dict[str, Descriptor] = {}
    for file, diff_id in zip(image.layers, diff_ids, strict=True):
        if file not in known:
            known[file] = _describe_layer(members, file, diff_id)
    return _reported(DockerArchiveSource(members, image_name, config, [(known[f], f) for f in image.layers]), progress)


def open_docker_images(members: ArchiveMembers, progress: Progress) -> list[DockerArchiveSource]:
    """Return all images of an archive with a ``manifest.json``, one for each name; raises as `open_docker_image`."""
    sources = []
    for number, image in enumerate(_read_docker_manifest(members)):
        source = open_docker_image(members, f"@{number}", progress)
        names = dict.fromkeys(map(_image_name, image.tags)) or {source.image_name: None}
        sources += [source.called(name) for name in names]
    return sources


def open_v1_image(members: ArchiveMembers, name: str | None, progress: Progress) -> DockerArchiveSource:
    """Return one image of an archive that has only ``repositories``, as docker wrote before 1.10.

    The config is made as docker makes it for such an image: from the top layer's JSON, with computed diff_ids.
    Raises as `open_docker_image`.
    """
    chosen, image_name = _choose(members, _read_repositories(members), name)
    chain = _read_v1_chain(members, chosen.config.removesuffix("/json"))
    files = [f"{layer_id}/layer.tar" for layer_id, _ in chain]
    diff_ids = [_diff_id_of(members, file) for file in files]
    config = config_from_v1([document for _, document in chain], diff_ids)
    layers = [(_describe_layer(members, file, diff_id), file) for file, diff_id in zip(files, diff_ids, strict=True)]
    return _reported(DockerArchiveSource(members, image_name, config, layers), progress)


def list_docker_images(members: ArchiveMembers) -> list[ListedImage]:
    """Return the images of an archive that has a ``manifest.json``: image IDs and names."""
    return _listed(members, _read_docker_manifest(members), with_ids=True)[0]


def list_v1_images(members: ArchiveMembers) -> list[ListedImage]:
    """Return the images of an archive that has only ``repositories``: digests of their JSON, and names."""
    return _listed(members, _read_repositories(members), with_ids=True)[0]


def docker_files(members: ArchiveMembers) -> list[tuple[str, ...]]:
    """Return the names of the files of each image in ``manifest.json``, the config's first.

    Raises:
        InvalidImageError: ``manifest.json`` does not have docker's format.
    """
    return [(image.config, *image.layers) for image in _read_docker_manifest(members)]


def count_v1_images(members: ArchiveMembers) -> int:
    """Return how many images ``repositories`` lists, in an archive without ``manifest.json``; the first is ``@0``."""
    return len(_read_repositories(members))


def _reported(source: DockerArchiveSource, progress: Progress) -> DockerArchiveSource:
    made = source.fetch_manifest().digest
    progress.say(f"{source.display_name}: a docker archive contains no manifest, so a new one was made: {made}")
    return source


def _read_docker_manifest(members: ArchiveMembers) -> list[_SavedImage]:
    where = f"{members.place}: {DOCKER_MANIFEST_FILE}"
    raw = members.read(DOCKER_MANIFEST_FILE, _MAX_LIST_BYTES)
    # This document is a list; all others are objects.
    item = parse_json_as("images", raw, where=where)
    return [
        _SavedImage(image.text("Config"), image.texts("Layers"), image.texts("RepoTags"))
        for image in item.objects("images")
    ]


def _choose(members: ArchiveMembers, images: Sequence[_SavedImage], name: str | None) -> tuple[_SavedImage, ImageName]:
    """Return the image called ``name``, and its full name."""
    if name is not None and name.startswith("@") and (position := number_up_to(name[1:], len(images))) is not None:
        if position >= len(images):
            raise NotFoundError(f"{members.place}: expected an image at position {position}, there are {len(images)}")
        return images[position], _image_name(next(iter(images[position].tags), None))
    # Image IDs are computed only if ``name`` has one; most file names contain the image ID, but not all.
    listed, by_digest = _listed(members, images, with_ids=name is not None and "@" in name)
    found = choose_image(members.place, listed, name, typed=members.typed)
    if isinstance(found, Digest):
        raise NotFoundError(f"{members.place}: expected the image {found}, got an archive without it")
    names = [known for descriptor, known in listed if descriptor.digest == found.digest]
    requested = _image_name(name)
    return by_digest[found.digest], requested if requested in names else names[0]


def _listed(
    members: ArchiveMembers, images: Sequence[_SavedImage], *, with_ids: bool
) -> tuple[list[ListedImage], dict[Digest, _SavedImage]]:
    """Return ``images`` with their names, and by digest: the image ID, or one that only distinguishes them."""
    listed: list[ListedImage] = []
    by_digest: dict[Digest, _SavedImage] = {}
    for image in images:
        digest = Digest.of(members.read(image.config, MAX_CONFIG_BYTES) if with_ids else image.config.encode())
        by_digest[digest] = image
        descriptor = Descriptor(mediatypes.OCI_CONFIG, digest, members.size_of(image.config) if with_ids else 0)
        listed += [(descriptor, _image_name(tag)) for tag in image.tags or (None,)]
    return listed, by_digest


def _image_name(tag: str | None) -> ImageName:
    """Return the name in a RepoTag; a RepoTag that is not a valid reference is ignored."""
    if tag is None:
        return ImageName(None, None)
    try:
        reference = ImageReference.parse(tag)
    except InvalidReferenceError:
        return ImageName(None, None)
    return ImageName(reference.tag, str(reference))


def _describe_layer(members: ArchiveMembers, file: str, diff_id: Digest) -> Descriptor:
    """Return a descriptor of a layer as stored; a plain layer is verified against ``diff_id`` when it is read."""
    with closing(members.open_file(file)) as stream:
        head = stream.read(MAGIC_BYTES)
        media_type = layer_type_of(head)
        if not is_compressed(head):
            return Descriptor(media_type, diff_id, members.size_of(file))
        hasher = diff_id.new_hasher()
        while head:
            hasher.update(head)
            head = stream.read(CHUNK_BYTES)
    return Descriptor(media_type, Digest(diff_id.algorithm, hasher.hexdigest()), members.size_of(file))


def _diff_id_of(members: ArchiveMembers, file: str) -> Digest:
    with locating(f"{members.place}: {quoted(file)}"), closing(members.open_file(file)) as stream:
        return compute_diff_id(stream, members.size_of(file))


def _read_repositories(members: ArchiveMembers) -> list[_SavedImage]:
    """Return the images of ``repositories``, which maps names to tags, and tags to the top layer's ID."""
    where = f"{members.place}: {REPOSITORIES_FILE}"
    raw = members.read(REPOSITORIES_FILE, _MAX_LIST_BYTES)
    item = parse_json_as("repositories", raw, where=where)
    repositories = item.object("repositories")
    return [
        _SavedImage(f"{top}/json", (), (f"{repository}:{tag}",))
        for repository in item.keys_of("repositories")
        for tag, top in repositories.text_map(repository).items()
    ]


def _read_v1_chain(members: ArchiveMembers, top: str) -> list[tuple[str, V1Document]]:
    """Return the IDs and documents of an image's layers, lowest first."""
    chain: list[tuple[str, V1Document]] = []
    layer_id: str | None = top
    budget = DocumentBudget(f"{members.place}: layers of {quoted(top)}")
    while layer_id is not None:
        where = f"{members.place}: {quoted(f'{layer_id}/json')}"
        if len(chain) == MAX_V1_LAYERS:
            raise InvalidImageError(f"expected at most {MAX_V1_LAYERS} layers", where=where)
        raw = members.read(f"{layer_id}/json", MAX_CONFIG_BYTES)
        budget.take(raw)
        document = parse_v1_document(raw, where)
        # In this format each document has a layer, even if the document declares it empty.
        chain.append((layer_id, replace(document, is_empty=False)))
        layer_id = document.parent
    return chain[::-1]
