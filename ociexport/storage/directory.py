"""ImageDirectory: skopeo's ``dir:``, one image as the files of a directory; a source.

``manifest.json`` is the manifest or index byte for byte. Blobs are called by their hex digits, and the manifests of an
index ``<hex>.manifest.json``. The image has no name. skopeo, buildah and ``podman save --format docker-dir`` write such
directories.

With `copy --referrers`, what refers to the image is there too, where skopeo does not look for it: referrers as the
manifests of an index are, and what has one of cosign's tags as ``<tag>.manifest.json``.

Spec: containers-transports(5), "dir:path".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO

from ociexport.errors import InvalidImageError, NotFoundError, UnsupportedMediaTypeError, locating, quoted
from ociexport.images.budget import DocumentBudget
from ociexport.images.resolve import read_small_blob, verify_manifest_size
from ociexport.images.source import ImageName, ReceivedManifest, embedded_document
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.digested_bytes import digested_bytes
from ociexport.spec.manifest import parse_document
from ociexport.storage.index import ListedImage, artifact_type_of
from ociexport.storage.layout_directory import LayoutDirectory

_MANIFEST_FILE = "manifest.json"
_DOCUMENT_SUFFIX = ".manifest.json"
_VERSION_FILE = "version"
_VERSION_PREFIX = "Directory Transport Version: "
# The content of the version file that a writer of this format writes.
DIRECTORY_VERSION = f"{_VERSION_PREFIX}1.1\n"
_MAX_VERSION_BYTES = 1024
_NO_NAME = ImageName(None, None)


class ImageDirectory:
    """The image in a directory; an `ImageSource`.

    Args:
        path: of the directory.

    Raises:
        NotFoundError: the directory does not exist, or contains no image.
        UnsupportedMediaTypeError: it is of a later version.
    """

    image_name = _NO_NAME

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = LayoutDirectory(path)
        self._subjects: list[tuple[Digest, Descriptor]] | None = None
        if not os.path.isdir(path):
            raise NotFoundError(f"{quoted(path)}: expected a directory of an image, there is no such directory")
        self._verify_version()

    @property
    def display_name(self) -> str:
        """The directory's path."""
        return self.path

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return ``manifest.json``, or the manifest with ``descriptor`` of an index, verified."""
        if descriptor is None:
            raw = self._read_manifest()
            with locating(self.path):
                return ReceivedManifest(raw, None, Digest.of(digested_bytes(raw, None)))
        if (embedded := embedded_document(descriptor)) is not None:
            return embedded
        with locating(self.path):
            raw = read_small_blob(self, descriptor, MAX_MANIFEST_BYTES, f"manifest {descriptor.digest}")
        return ReceivedManifest(raw, descriptor.media_type, descriptor.digest)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the file of a blob, or of a manifest of an index, from ``offset`` on."""
        digest = descriptor.digest
        # Layers were called .tar until version 1.1. A digest that is not SHA-256 may have its algorithm in the name.
        names = (
            digest.encoded,
            f"{digest.encoded}.manifest.json",
            f"{digest.encoded}.tar",
            f"{digest.algorithm}-{digest.encoded}",
        )
        for name in names:
            file = self._open(name)
            if file is not None:
                file.seek(offset)
                return file
        raise NotFoundError(f"{self.path}: blob {digest}: not in the directory")

    def read_images(self) -> list[ListedImage]:
        """Return the only image, which has no name."""
        raw = self._read_manifest()
        return [(Descriptor("", Digest.of(raw), len(raw)), _NO_NAME)]

    def fetch_tagged(self, tag: str) -> Iterator[ReceivedManifest]:
        """Yield the document with one of cosign's tags; see `CompanionSource`."""
        raw = self._read_document(tagged_file(tag))
        if raw is not None:
            yield ReceivedManifest(raw, None, Digest.of(raw))

    def fetch_referrers(self, digest: Digest, budget: DocumentBudget) -> Iterator[Descriptor]:
        """Yield descriptors of the documents in the directory whose subject is ``digest``; see `CompanionSource`."""
        if self._subjects is None:
            self._subjects = list(self._find_subjects(budget))
        yield from (referrer for subject, referrer in self._subjects if subject == digest)

    def _find_subjects(self, budget: DocumentBudget) -> Iterator[tuple[Digest, Descriptor]]:
        """Yield each document that has a subject, and the subject's digest; a file that is no document is skipped."""
        for name in sorted(self._directory.list_names("")):
            encoded, suffix, rest = name.partition(_DOCUMENT_SUFFIX)
            if not suffix or rest or "." in encoded:  # cosign's tags have dots
                continue
            raw = None
            with suppress(InvalidImageError):
                raw = self._read_document(name)
            if raw is None:
                continue
            budget.take(raw)
            with suppress(InvalidImageError):
                document = parse_document(raw, None, Digest.of(raw))
                if document.subject is not None:
                    described = Descriptor(
                        document.media_type,
                        document.digest,
                        len(raw),
                        artifact_type=artifact_type_of(document),
                        annotations=document.annotations,
                    )
                    yield document.subject.digest, described

    def close(self) -> None:
        """Nothing stays open."""

    def _read_document(self, name: str) -> bytes | None:
        """Return a document that is not the image's own; None if there is none, or it is too large for one."""
        file = self._open(name)
        if file is None:
            return None
        with file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        return raw if len(raw) <= MAX_MANIFEST_BYTES else None

    def _read_manifest(self) -> bytes:
        file = self._open(_MANIFEST_FILE)
        if file is None:
            raise NotFoundError(f"{self.path}: expected the directory of an image, got no {_MANIFEST_FILE} in it")
        with file:
            verify_manifest_size(os.fstat(file.fileno()).st_size, self.path)
            return file.read(MAX_MANIFEST_BYTES)

    def _verify_version(self) -> None:
        file = self._open(_VERSION_FILE)
        if file is None:  # the oldest version
            return
        with file:
            text = file.read(_MAX_VERSION_BYTES).decode("utf-8", "replace").strip()
        if not text.startswith(f"{_VERSION_PREFIX}1."):
            raise UnsupportedMediaTypeError(
                f"expected {quoted(f'{_VERSION_PREFIX}1.…')}, got {quoted(text)}",
                where=os.path.join(self.path, _VERSION_FILE),
            )

    def _open(self, name: str) -> FileIO | None:
        """Return a file of the directory, unbuffered; None if it does not exist. The caller closes it."""
        try:
            return self._directory.open_file(name)
        except FileNotFoundError:
            return None


def document_file(digest: Digest) -> str:
    """Return the name of a document that is not the image's own."""
    name = digest.encoded if digest.algorithm == "sha256" else f"{digest.algorithm}-{digest.encoded}"
    return f"{name}{_DOCUMENT_SUFFIX}"


def tagged_file(tag: str) -> str:
    """Return the name of a document that has one of cosign's tags."""
    return f"{tag}{_DOCUMENT_SUFFIX}"


def is_image_directory(path: str) -> bool:
    """Whether ``path`` is such a directory, judged by two names in it; the files are checked when they are read."""
    return all(LayoutDirectory(path).has(name) for name in (_VERSION_FILE, _MANIFEST_FILE))
