"""S3Layout: an OCI image layout in an object store, source and destination.

An object appears when it is whole. So a blob gets its key after all its bytes were verified, and ``index.json`` is
replaced last, with a condition: if another writer has changed it meanwhile, the store refuses, and the names are added
to its new content. A store without conditions can't keep two writers apart; that is said once, and ``index.json`` is
written only if it is unchanged at that moment.

Blobs that a failed copy left stay, since nobody knows whether another writer needs them.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING

from ociexport.errors import NotFoundError, OciexportError, RegistryError, UsageError, counted
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, ByteStream, Chunk, Digest, Verifier
from ociexport.storage.index import MAX_INDEX_BYTES, ListedImage
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, blob_name
from ociexport.storage.layout.documents import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_FILE_CONTENT,
    parse_raw_index,
    verify_layout_version,
    with_images,
)
from ociexport.storage.remote_layout import RemoteLayout
from ociexport.storage.s3.bucket import (
    Bucket,
    ConditionFailedError,
    ConditionUnknownError,
    MissingBucketError,
    S3Options,
)
from ociexport.system.progress.protocol import SILENT, Progress

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# Each attempt fails only if another writer has just succeeded.
_MAX_ATTEMPTS = 50
_MAX_PAUSE_SECONDS = 2.0
# The etag of no object: an MD5 has 32 digits.
_NO_ETAG = '"00000000000000000000000000000000"'
_BLOB_TYPE, _JSON_TYPE = "application/octet-stream", "application/json"
_ALONE = "so two writers can't be kept apart: let only one run at a time write to this layout"


class S3Layout(RemoteLayout):
    """A layout below a prefix of a bucket.

    Args:
        url: ``s3://BUCKET[/PREFIX]``.
        options: how the store is reached.
        progress: gets warnings.
    """

    takes_checks = True

    def __init__(self, url: str, options: S3Options | None = None, progress: Progress = SILENT) -> None:
        super().__init__(url.rstrip("/"), progress)
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(bucket, options or S3Options())
        self._has_conditions: bool | None = None
        self._is_usable = False
        self._index_lock = threading.Lock()
        self._pending: list[ListedImage] | None = None

    @property
    def path(self) -> str:
        """The URL, as messages name the place."""
        return self.url

    @property
    def host(self) -> str:
        """The bucket."""
        return f"s3://{self._bucket.name}"

    @property
    def credentials(self) -> str:
        """Where they are from; which key it is concerns the user's AWS configuration."""
        return "the holder of an access key (from the AWS configuration)"

    # As a source.

    def read_document(self, name: str, max_bytes: int) -> bytes:
        """Return a document of the layout; see `RemoteLayout`."""
        try:
            return self._bucket.read(self._prefix + name, max_bytes)[0]
        except MissingBucketError:
            raise
        except NotFoundError as error:
            raise NotFoundError(f"{self.url}: expected an OCI layout, got no {name} there") from error

    def open_file(self, descriptor: Descriptor, name: str, offset: int) -> ByteStream:
        """Return the bytes of a blob; after a broken connection a new one continues."""
        return self._bucket.open(self._prefix + name, descriptor.size, offset)

    def size_of_file(self, name: str, subject: str) -> int:
        """Return the size of an object."""
        size = self._bucket.size_of(self._prefix + name)
        if size is None:
            raise NotFoundError(f"{self.url}: {subject}: not in the layout")
        return size

    def explain(self, error: OciexportError, name: str | None) -> None:
        """Add nothing: the URL can mean nothing else."""

    def close(self) -> None:
        """Close the connections."""
        self._bucket.close()

    # As a destination.

    def verify_is_usable(self) -> None:
        """Return if there is nothing below the prefix, or a layout.

        Raises:
            UsageError: there is something else.
            RegistryError: the store can't be asked, or has no such bucket.
        """
        if self._is_usable:
            return
        if self._bucket.size_of(self._prefix + LAYOUT_FILE) is not None:
            verify_layout_version(self.read_document(LAYOUT_FILE, MAX_INDEX_BYTES), f"{self.url}/{LAYOUT_FILE}")
        elif self._bucket.list_names(self._prefix) - {f"{BLOBS_DIRECTORY}/", INDEX_FILE, LAYOUT_FILE}:
            raise UsageError(
                f"{self.url}: expected an OCI layout or an empty prefix, got other objects",
                hint="choose another prefix for the layout",
            )
        self._is_usable = True

    @contextmanager
    def begin(self) -> Iterator[S3Use]:
        """Use the layout for one image. Raises as `verify_is_usable`."""
        self.verify_is_usable()
        yield S3Use()

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether there is an object of the blob's size under its key; it was verified before it got the key.

        Raises:
            DiffIdMismatchError, LimitExceededError: it does not pass ``check``, for which it is read.
        """
        if self._bucket.size_of(self._prefix + blob_name(descriptor.digest)) != descriptor.size:
            return False
        if check is not None:
            verifier = Verifier(descriptor.digest, descriptor.size, subject="blob", check=check)
            stream = self.open_blob(descriptor)
            try:
                while chunk := stream.read(CHUNK_BYTES):
                    verifier.update(chunk)
            finally:
                stream.close()
            verifier.verify()
        return True

    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> S3BlobWriter:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and gets its key."""
        return S3BlobWriter(self._bucket, self._prefix + blob_name(descriptor.digest), descriptor, check)

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        """Store a manifest or index, byte for byte."""
        descriptor = Descriptor(manifest.media_type or "", manifest.digest, len(manifest.raw))
        if not self.has_blob(descriptor):
            with self.new_blob(descriptor) as blob:
                blob.write(manifest.raw)

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        """List the image in ``index.json``, as `ImageLayout.write_name`; within a `batch`, at the next commit."""
        with self._lock:
            if self._pending is not None:
                self._pending.append((descriptor, name))
                return
        self._list_images([(descriptor, name)])

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Copy many images; until the end, their names are written by `commit_names` only."""
        self._pending = []
        try:
            yield
        finally:
            self.commit_names()
            self._pending = None

    def commit_names(self) -> None:
        """Within a `batch`, write the names of all images that are complete."""
        with self._lock:
            pending = self._pending or []
            if self._pending is not None:
                self._pending = []
        if pending:
            self._list_images(pending)

    def _list_images(self, images: Sequence[ListedImage]) -> None:
        """Add images to ``index.json``, whatever others write to it meanwhile."""
        key, where = self._prefix + INDEX_FILE, f"{self.url}/{INDEX_FILE}"
        with self._index_lock:
            self._write_layout_file()
            for attempt in range(_MAX_ATTEMPTS):
                before, etag = self._read_index()
                index, known = parse_raw_index(before, where)
                raw, _ = with_images(index, known, images)
                if before is not None and json.loads(before) == json.loads(raw):
                    return
                with suppress(ConditionFailedError):
                    if self._write_if_unchanged(key, raw, etag):
                        self._images = None
                        return
                time.sleep(random.uniform(0, min(0.05 * 2**attempt, _MAX_PAUSE_SECONDS)))  # noqa: S311 - no secret
        raise RegistryError(
            f"{where}: expected a moment without other writers, got none in {counted(_MAX_ATTEMPTS, 'attempt')}",
            url=where,
            hint="try again: the blobs are there",
        )

    def _read_index(self) -> tuple[bytes | None, str | None]:
        try:
            return self._bucket.read(self._prefix + INDEX_FILE, MAX_INDEX_BYTES)
        except NotFoundError:
            return None, None

    def _write_if_unchanged(self, key: str, raw: bytes, etag: str | None) -> bool:
        """Write ``index.json`` if it still has ``etag``, and return whether it was written.

        Raises:
            ConditionFailedError: another writer was first.
        """
        if self._keeps_writers_apart():
            try:
                self._bucket.write(key, BytesIO(raw), _JSON_TYPE, if_etag=etag, if_absent=etag is None)
            except NotFoundError as error:
                # It was removed meanwhile.
                raise ConditionFailedError(str(error)) from error
            return True
        if self._bucket.etag_of(key) != etag:
            return False
        self._bucket.write(key, BytesIO(raw), _JSON_TYPE)
        return True

    def _write_layout_file(self) -> None:
        key = self._prefix + LAYOUT_FILE
        if self._bucket.size_of(key) is None:
            self._bucket.write(key, BytesIO(LAYOUT_FILE_CONTENT), _JSON_TYPE)

    def _keeps_writers_apart(self) -> bool:
        """Whether the store obeys conditions: it refuses to write ``oci-layout``, whose etag is another.

        A store that ignores the condition writes the content that is there anyway.
        """
        if self._has_conditions is None:
            try:
                key = self._prefix + LAYOUT_FILE
                same = BytesIO(self._bucket.read(key, MAX_INDEX_BYTES)[0])
                self._bucket.write(key, same, _JSON_TYPE, if_etag=_NO_ETAG)
                self._has_conditions = False
                self._progress.warn(f"{self.url}: the store ignores conditions of writes, {_ALONE}")
            except ConditionFailedError:
                self._has_conditions = True
            except ConditionUnknownError:
                self._has_conditions = False
                self._progress.warn(f"{self.url}: the store refuses conditions of writes, {_ALONE}")
        return self._has_conditions


class S3Use:
    """The use of a layout for one image."""

    def discard(self, digests: Iterable[Digest]) -> None:
        """Leave the blobs of a refused image: each is what its key says, and another writer may need it."""


class S3BlobWriter:
    """Sends one blob in parts, and completes the object when its bytes are verified; a context manager."""

    is_complete = False

    def __init__(self, bucket: Bucket, key: str, descriptor: Descriptor, check: BlobCheck | None) -> None:
        self._bucket = bucket
        self._key = key
        self._descriptor = descriptor
        self._check = check
        self._upload = bucket.begin_upload(key, descriptor.size)
        self._begin()

    def _begin(self) -> None:
        self._part = BytesIO()
        self._verifier = Verifier(self._descriptor.digest, self._descriptor.size, subject="", check=self._check)

    def __enter__(self) -> Self:
        return self

    @property
    def offset(self) -> int:
        """How many bytes are written; those of an earlier run are not known."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Discard all bytes."""
        self._upload.abort()
        self._begin()

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes; raises SizeMismatchError as soon as there are too many."""
        self._verifier.update(chunk)
        view = memoryview(chunk)
        while view:
            count = self._upload.part_bytes - self._part.tell()
            # The last part is sent when all bytes are verified.
            if not count:
                part, self._part = self._part, BytesIO()
                self._upload.send(part)
                continue
            self._part.write(view[:count])
            view = view[count:]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._upload:
            if error is not None:
                return
            self._verifier.verify()
            if not self._upload.is_begun:
                self._bucket.write(self._key, self._part, _BLOB_TYPE)
                return
            self._upload.send(self._part)
            self._upload.complete()
