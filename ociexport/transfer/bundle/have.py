"""read_have(): from what a user names as HAVE to what the far side has. Its content tells what it is.

A layout, an archive, an earlier update or a ``dir:`` is read here; documents and lines are read in `have_documents`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack, closing
from io import FileIO
from itertools import takewhile

from ociexport.errors import (
    InvalidImageError,
    NotFoundError,
    OciexportError,
    UnsupportedMediaTypeError,
    UsageError,
    counted,
    printable,
    quoted,
)
from ociexport.images.choose import PlatformChoice
from ociexport.images.holdings import HeldLayer, Holdings
from ociexport.images.prepare import PreparedImage, PreparedManifest, prepare_image
from ociexport.images.source import ImageSource
from ociexport.images.wanted_blobs import BlobToFetch, open_stream
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import CHUNK_BYTES, Digest, VerifyingReader
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.bundle import Bundle, replaced_by
from ociexport.system.compression import MAGIC_BYTES, is_compressed
from ociexport.system.content import LOOKED_AT_BYTES, is_meant_as_tar
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.temporary_files import append_whole, open_temporary_file
from ociexport.transfer.bundle.contents import ArchiveContents, Contents, SingleContents, open_contents
from ociexport.transfer.bundle.have_documents import MAX_HAVE_BYTES, names_in, read_document
from ociexport.transfer.bundle.present import read_present
from ociexport.transfer.lists.lock import is_lock_line, parse_lock_line
from ociexport.transfer.sources.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    SourceName,
    has_transport,
    parse_source_name,
)

# A missing file with such a name is not taken for an image reference.
_FILE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".json", ".jsonl", ".txt", ".lock", ".list")

# Opens a source that is named as `ociexport.transfer.sources.names` reads it; the caller closes it.
Opener = Callable[[SourceName], ImageSource]


def read_have(
    text: str,
    opener: Opener,
    choice: PlatformChoice | Platform,
    progress: Progress = SILENT,
    *,
    to_prove: Collection[Digest] = (),
) -> Holdings:
    """Return what the far side has, as ``text`` tells: a path, a transport and a name, ``-``, or an image reference.

    Args:
        opener: opens an image reference, or one image of a layout or archive.
        choice: the platforms that the far side has of an image reference.
        progress: gets a line that says what was read.
        to_prove: digests or diff_ids of layers that count only if their bytes, where HAVE holds them, are right.

    Raises:
        UsageError: a line or a document is none that tells what is there; the message names it.
        NotFoundError, RegistryError, InvalidImageError: it is not there, or can't be read.
    """
    try:
        holdings = _read(text, opener, choice, to_prove)
    except InvalidImageError as error:
        error.hint = error.hint or f"{printable(text)} was given as what the far side has"
        raise
    say_holdings(text, holdings, progress)
    return holdings


def say_holdings(text: str, holdings: Holdings, progress: Progress) -> None:
    """Say how much ``text`` tells of the far side."""
    layers = {layer for chain in holdings.chains for layer in chain}
    known = {digest for layer in layers for digest in layer if digest is not None} | holdings.blobs | holdings.loose
    progress.say(f"since {text}: {counted(len(known), 'digest')}, {counted(len(holdings.chains), 'image')}")


def _read(text: str, opener: Opener, choice: PlatformChoice | Platform, to_prove: Collection[Digest]) -> Holdings:
    if text == "-":
        return _read_stream(FileIO(0, closefd=False), text, "standard input", to_prove, opener)
    name = os.path.basename(os.path.normpath(text))
    if not has_transport(text) and _is_stream(text):
        with FileIO(text) as file:
            return _read_stream(file, text, name, to_prove, opener)
    if not has_transport(text) and os.path.isdir(text) and _is_images(text):
        with closing(open_contents(text)) as contents:
            return holdings_of(contents, name, to_prove)
    if not has_transport(text) and text.endswith(_FILE_SUFFIXES):
        raise NotFoundError(f"HAVE {quoted(text)}: expected a file, there is no such file")
    return _read_source(text, opener, choice, to_prove)


def _read_source(
    text: str, opener: Opener, choice: PlatformChoice | Platform, to_prove: Collection[Digest]
) -> Holdings:
    source_name = parse_source_name(text)
    if isinstance(source_name, LayoutName | ArchiveName | DirectoryName) and source_name.image is None:
        with closing(open_contents(source_name.path)) as contents:
            return holdings_of(contents, os.path.basename(os.path.normpath(source_name.path)), to_prove)
    with closing(opener(source_name)) as source:
        if isinstance(source_name, RegistryName):
            image = prepare_image(source, choice, None, SILENT)
            return _united(source.display_name, [image], lambda _: True, None)
        return holdings_of(SingleContents(source), source.display_name, to_prove)


def _read_stream(file: FileIO, text: str, name: str, to_prove: Collection[Digest], opener: Opener) -> Holdings:
    """Return what a file or a pipe tells: an archive, a document, or lines."""
    with ExitStack() as stack:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or file.tell():
            file = stack.enter_context(_spooled(file))
        if _is_archive(os.pread(file.fileno(), LOOKED_AT_BYTES, 0)):
            members = ArchiveMembers.over(FileIO(os.dup(file.fileno())), text)
            return holdings_of(stack.enter_context(closing(ArchiveContents(members))), name, to_prove)
        raw = b""
        while len(raw) <= MAX_HAVE_BYTES and (chunk := os.pread(file.fileno(), CHUNK_BYTES, len(raw))):
            raw += chunk
    first = raw[: raw.find(b"\n") if b"\n" in raw else len(raw)].decode("utf-8", "replace").strip()
    if is_lock_line(first):
        return _read_lock(raw.decode("utf-8", "replace"), f"HAVE {quoted(text)}", name, opener)
    return read_document(raw, f"HAVE {quoted(text)}", name)


def _read_lock(text: str, where: str, name: str, opener: Opener) -> Holdings:
    """Return what a lock file names: each image's documents are read from its source, which names the layers.

    Raises:
        UsageError: a line is none of a lock file.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            locked = parse_lock_line(line)
        except OciexportError as error:
            raise UsageError(f"{where}: line {number}: expected a line of a lock file: {error}") from error
        source_name = parse_source_name(locked.source)
        if isinstance(source_name, RegistryName):
            source_name = RegistryName(source_name.reference.with_digest(locked.digest))
        with closing(opener(source_name)) as source:
            image = prepare_image(source, locked.choice, None, SILENT)
            found.append((_united(name, [image], lambda _: True, None), locked))
    names = {locked.name: held.names.get(locked.name, (locked.listed,)) for held, locked in found}
    return Holdings(
        name,
        frozenset(digest for held, _ in found for digest in held.blobs),
        tuple(dict.fromkeys(chain for held, _ in found for chain in held.chains)),
        frozenset(),
        names,
    )


def _is_archive(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a tar, or compressed."""
    return is_meant_as_tar(head) or is_compressed(head[:MAGIC_BYTES])


def _spooled(stream: FileIO) -> FileIO:
    """Return a temporary file with all bytes of an archive, or as many of other bytes as a document may have."""
    copy = open_temporary_file()
    try:
        while chunk := stream.read(CHUNK_BYTES):
            append_whole(copy, chunk)
            if copy.tell() > MAX_HAVE_BYTES and not _is_archive(os.pread(copy.fileno(), LOOKED_AT_BYTES, 0)):
                break
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _is_stream(path: str) -> bool:
    """Whether a file or a pipe has this name."""
    return os.path.exists(path) and not os.path.isdir(path)


def _is_images(path: str) -> bool:
    """Whether a directory holds images, or a user typed it as only a path can be typed."""
    names = ("oci-layout", "index.json", "version", "bundle.json")
    return any(os.path.lexists(os.path.join(path, name)) for name in names) or path.startswith((".", "/"))


def holdings_of(contents: Contents, name: str, to_prove: Collection[Digest] = ()) -> Holdings:
    """Return what a far side has that has these contents; of a bundle, also what it expects or makes there.

    Args:
        to_prove: digests or diff_ids of layers that count only if their bytes are read and right.

    Raises:
        NotFoundError, InvalidImageError: they are no images, or a document is damaged.
    """
    bundle = contents.read_bundle()
    expected = bundle.expected_digests | bundle.made_digests if bundle is not None else frozenset()
    images = []
    for source in contents.sources():
        try:
            images.append(read_present(source).image)
        except (NotFoundError, UnsupportedMediaTypeError):
            continue  # listed only, or of a kind that has no layers
    layers = [layer for image in images for one in image.manifests for layer in _layers_of(one)]
    doubtful = {layer.digest for layer in layers if not {layer.digest, layer.diff_id}.isdisjoint(to_prove)}
    intact: dict[Digest, bool] = {}

    def has(blob: BlobToFetch) -> bool:
        digest = blob.descriptor.digest
        if not contents.holds(blob.descriptor):
            return digest in expected
        if digest in doubtful and digest not in intact:
            intact[digest] = _is_intact(blob)
        return intact.get(digest, True)

    return _united(name, images, has, bundle)


def _united(
    name: str, images: Iterable[PreparedImage], has: Callable[[BlobToFetch], bool], bundle: Bundle | None
) -> Holdings:
    blobs: set[Digest] = set()
    chains: dict[tuple[HeldLayer, ...], None] = {}
    names: dict[str, tuple[Digest, ...]] = {}
    for image in images:
        there = {blob.descriptor.digest for blob in image.blobs if blob.content is not None or has(blob)}
        blobs |= there | {document.digest for document in image.documents}
        for one in image.manifests:
            # Up to the first layer that is missing.
            chain = tuple(takewhile(lambda layer: layer.digest in there, _layers_of(one)))  # noqa: B023 - used at once
            chains |= {chain: None} if chain else {}
        called = image.name.full or image.name.tag
        if called is not None:
            names[called] = (image.listed.digest, *replaced_by(image.listed))
    if bundle is not None:
        names |= names_in(bundle)
    return Holdings(name, frozenset(blobs), tuple(chains), frozenset(), names)


def _layers_of(one: PreparedManifest) -> list[HeldLayer]:
    """Return the layers of a manifest, lowest first; of an artifact without diff_ids."""
    if one.config is not None:
        return [HeldLayer(layer.descriptor.digest, layer.diff_id) for layer in pair_layers(one.manifest, one.config)]
    return [HeldLayer(layer.digest, None) for layer in one.manifest.layers]


def _is_intact(blob: BlobToFetch) -> bool:
    descriptor = blob.descriptor
    try:
        with VerifyingReader(open_stream(blob, 0), descriptor.digest, descriptor.size, subject="") as reader:
            while reader.read(CHUNK_BYTES):
                pass
    except (NotFoundError, InvalidImageError):
        return False
    return True
