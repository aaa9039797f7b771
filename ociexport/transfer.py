"""pull(): choose, fetch side by side, verify, hand to the destination."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from ociexport import mediatypes
from ociexport.digest import Digest
from ociexport.documents import Descriptor, ImageConfig, Manifest, Platform, pair_layers
from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    OciexportError,
    RegistryError,
    SizeMismatchError,
    UnsupportedMediaTypeError,
    UsageError,
    locating,
    quoted,
)
from ociexport.layout import ImageLayout
from ociexport.platforms import host_platform, normalize_platform
from ociexport.progress import SILENT, Progress
from ociexport.reference import ImageReference
from ociexport.resolve import read_config, resolve_manifest
from ociexport.source_names import RegistryName, open_source
from ociexport.sources import ImageDestination, ImageName, ImageSource, ReceivedManifest

DEFAULT_JOBS = 4
# More connections than any registry grants one client.
MAX_JOBS = 64
# What is read, hashed and written at once; larger chunks bring nothing, smaller ones more hand-overs of the lock.
_CHUNK_BYTES = 1024 * 1024
# How long the others have to end when one has failed; SIGINT and SIGTERM shall end the process within a second.
_STOP_SECONDS = 0.7


@dataclass(frozen=True, slots=True)
class PullResult:
    """What was pulled.

    Args:
        name: how the source calls the image.
        reference: name and manifest digest, ``docker.io/library/alpine:3.20@sha256:…``, to be used in commands again.
        manifest_digest: of the platform's manifest, which the destination lists.
        config_digest: docker's image ID.
        is_image: whether it is one, and no artifact of another kind.
        platform: that the image is for; None where nothing is said, or it is no image.
        fetched_blobs: how many blobs came over.
        fetched_bytes: of these; what an earlier try had left is not counted.
        reused_blobs: how many were there already, and valid.
    """

    name: str
    reference: str
    manifest_digest: Digest
    config_digest: Digest
    is_image: bool
    platform: Platform | None
    fetched_blobs: int
    fetched_bytes: int
    reused_blobs: int


def pull(
    image: str | ImageReference | ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    *,
    platform: Platform | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name there appears when all of it is there.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        out: an OCI layout's directory (absent, empty or a layout), or an open destination.
        platform: of several the one to take; None for this machine's.
        jobs: how many blobs are fetched side by side.
        progress: told what goes on.

    Raises:
        UsageError: ``out`` holds something else, or ``jobs`` is out of range.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: something in it breaks the specification or is not what its digest says.
        OSError: the disk or file system.
    """
    destination = ImageLayout(out) if isinstance(out, str | os.PathLike) else out
    platform = platform or host_platform()
    if not isinstance(image, str | ImageReference):
        return copy_image(image, destination, platform=platform, jobs=jobs, progress=progress)
    name = image if isinstance(image, str) else RegistryName(image)
    with closing(open_source(name, progress=progress)) as source:
        return copy_image(source, destination, platform=platform, jobs=jobs, progress=progress)


def copy_image(
    source: ImageSource,
    destination: ImageDestination,
    *,
    platform: Platform,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
) -> PullResult:
    """Copy one image from any source to any destination; see `pull`.

    1. The manifest for the platform is found and parsed, and the config read: nothing is written for a bad image.
    2. Config and layers that are there and valid are left alone; the others are fetched side by side.
    3. The manifest is written when all it names is there, and the name when the manifest is.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")
    resolved = resolve_manifest(source, platform)  # 1
    manifest = resolved.manifest
    config = _read_config(source, destination, manifest, progress)
    offered = resolved.platform or _platform_of(config)
    if not resolved.indexes:
        _warn_of_other_platform(source, offered, platform, progress)
    shown = f"platform {offered}, " if offered is not None else ""
    progress.say(f"{source.display_name}: {shown}manifest {manifest.digest}")
    blobs = _blobs_of(manifest, config)
    fetch = _BlobFetch(source, destination, progress)
    name = _name_of_copy(source.image_name, manifest.digest)
    with destination.begin() as use:
        try:
            fetch.run(blobs, jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is not as it should be, so nothing of it is to stay. After all else the next try goes on here.
            use.discard(fetch.begun)
            raise
        destination.write_manifest(ReceivedManifest(manifest.raw, manifest.media_type, manifest.digest))  # 3
        destination.write_name(replace(manifest.descriptor, platform=offered), name)
    return PullResult(
        name=source.display_name,
        reference=_reference_of(name, source.display_name, manifest.digest),
        manifest_digest=manifest.digest,
        config_digest=manifest.config.digest,
        is_image=config is not None,
        platform=offered,
        fetched_blobs=fetch.fetched_blobs,
        fetched_bytes=fetch.fetched_bytes,
        reused_blobs=fetch.reused_blobs,
    )


def _read_config(
    source: ImageSource, destination: ImageDestination, manifest: Manifest, progress: Progress
) -> ImageConfig | None:
    """Return the config, whose diff_ids are as many as the layers; None for what is no image but can be carried.

    docker's local check: a config that is at the destination is read there, and nothing is fetched for it.
    """
    try:
        config = read_config(destination if destination.has_blob(manifest.config) else source, manifest)
    except UnsupportedMediaTypeError:
        kind = manifest.artifact_type or manifest.config.media_type
        progress.say(f"{source.display_name}: no image, but an artifact of type {quoted(kind)}")
        return None
    except InvalidImageError:
        if manifest.config.media_type != mediatypes.LEGACY_CONFIG or mediatypes.LAYERS & {
            layer.media_type for layer in manifest.layers
        }:
            raise
        # Whoever stores other things than images under this type does not write an image's config.
        progress.say(f"{source.display_name}: no image, but an artifact of unknown type")
        return None
    pair_layers(manifest, config)
    return config


def _platform_of(config: ImageConfig | None) -> Platform | None:
    """Return what the config says that the image is for; None where it says nothing."""
    if config is None or "unknown" in (config.platform.os, config.platform.architecture):
        return None
    return config.platform


def _warn_of_other_platform(
    source: ImageSource, offered: Platform | None, wanted: Platform, progress: Progress
) -> None:
    """Say where an image that has only one platform is for another machine; it may well be wanted so."""
    if offered is None:
        return
    there = normalize_platform(offered)
    if (there.os, there.architecture) != (wanted.os, wanted.architecture):
        progress.warn(f"{source.display_name}: is for {offered} only, not for {wanted}")


def _name_of_copy(name: ImageName, digest: Digest) -> ImageName:
    """Return what the copy is called: a name by digest is of the manifest, not of the index that led to it."""
    if name.full is None or "@" not in name.full:
        return name
    return replace(name, full=f"{name.full.partition('@')[0]}@{digest}")


def _reference_of(name: ImageName, display_name: str, digest: Digest) -> str:
    """Return the name with the digest, as commands take it; a name from a layout may be anything, and then is not."""
    if name.full is not None:
        try:
            return str(ImageReference.parse(name.full).with_digest(digest))
        except InvalidReferenceError:
            pass
    return f"{display_name.partition('@')[0]}@{digest}"


@dataclass(frozen=True, slots=True)
class _Blob:
    """A blob to fetch and how messages call it.

    Args:
        content: its bytes where they are known already, from a document that holds them or from reading the config.
    """

    descriptor: Descriptor
    label: str
    title: str
    content: bytes | None


def _blobs_of(manifest: Manifest, config: ImageConfig | None) -> list[_Blob]:
    """Return each blob of the image once, the config first: with it, an image ID that is there is seen at once."""
    count = len(manifest.layers)
    kind = "layer" if config is not None else "blob"
    digest = manifest.config.digest
    content = config.raw if config is not None else manifest.config.data
    blobs = {digest: _Blob(manifest.config, f"config {digest}", f"config {digest.short}", content)}
    for number, layer in enumerate(manifest.layers, start=1):
        label = f"{kind} {number} of {count} ({layer.digest})"
        title = f"{kind} {number}/{count} {layer.digest.short}"
        known = blobs.setdefault(layer.digest, _Blob(layer, label, title, layer.data))
        if known.descriptor.size != layer.size:
            raise InvalidImageError(
                f"size: expected {known.descriptor.size}, as for the same digest before, got {layer.size}",
                where=f"manifest {manifest.digest}: {label}",
            )
    return list(blobs.values())


class _StoppedError(OciexportError):
    """Another blob has failed, so this one is not wanted any more; never leaves this module."""


class _BlobFetch:
    """Fetches blobs side by side, and stops all of them when one fails.

    Attributes:
        begun: blobs that were not there before.
        fetched_blobs: how many came over; `fetched_bytes` without what an earlier try had left.
        reused_blobs: how many were there already.
    """

    def __init__(self, source: ImageSource, destination: ImageDestination, progress: Progress) -> None:
        self._source = source
        self._destination = destination
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.begun: set[Digest] = set()
        self.fetched_blobs = 0
        self.fetched_bytes = 0
        self.reused_blobs = 0

    def run(self, blobs: Sequence[_Blob], jobs: int) -> None:
        """Return when all ``blobs`` are at the destination.

        Raises:
            whatever the first that failed raised; the others were stopped.
        """
        waiting: SimpleQueue[_Blob] = SimpleQueue()
        outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        # Largest first, so that the last one to end is a small one.
        for blob in sorted(blobs, key=lambda blob: -blob.descriptor.size):
            waiting.put(blob)
        # Daemons, so that one which hangs in the network does not keep an interrupted process from ending.
        threads = [
            threading.Thread(target=self._work, args=(waiting, outcomes), name=f"fetch {number}", daemon=True)
            for number in range(min(jobs, len(blobs)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in blobs:
                failure = outcomes.get()
                if failure is not None:
                    raise failure
        finally:
            self._stop.set()
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, waiting: SimpleQueue[_Blob], outcomes: SimpleQueue[BaseException | None]) -> None:
        while not self._stop.is_set():
            try:
                blob = waiting.get_nowait()
            except Empty:
                return
            try:
                self._fetch(blob)
            except BaseException as error:  # all of them: they belong to the one who waits
                outcomes.put(error)
                return
            outcomes.put(None)

    def _fetch(self, blob: _Blob) -> None:
        if self._destination.has_blob(blob.descriptor):
            self._count_reused(blob)
            return
        with locating(blob.label):
            try:
                self._write(blob)
            except (DigestMismatchError, SizeMismatchError) as error:
                # A proxy or a damaged disk may have altered the bytes once; what is wrong at its source stays wrong.
                if self._stop.is_set():
                    raise
                self._progress.warn(f"{blob.title}: {error.message}; fetching it once more, from the beginning")
                self._write(blob)

    def _write(self, blob: _Blob) -> None:
        descriptor = blob.descriptor
        # The writer ends within the task: a blob is told as done when it was verified.
        with (
            self._progress.task(blob.title, descriptor.size) as task,
            self._destination.new_blob(descriptor) as writer,
        ):
            if writer.is_complete:
                task.advance(descriptor.size)
                self._count_reused(blob)
                return
            with self._lock:
                self.begun.add(descriptor.digest)
            resumed_at = writer.offset
            if resumed_at:
                self._progress.say(f"{blob.title}: resumed at {resumed_at} of {descriptor.size} bytes")
            task.advance(resumed_at)
            for chunk in self._read_chunks(blob, resumed_at):
                writer.write(chunk)
                task.advance(len(chunk))
        with self._lock:
            self.fetched_blobs += 1
            self.fetched_bytes += descriptor.size - resumed_at

    def _read_chunks(self, blob: _Blob, offset: int) -> Iterator[bytes]:
        descriptor = blob.descriptor
        if blob.content is not None:
            yield blob.content[offset:]
            return
        try:
            stream = self._source.open_blob(descriptor, offset)
        except NotFoundError as error:
            if not descriptor.urls:
                error.hint = "the image names a blob that is not there: whoever has the image should push it again"
            elif not isinstance(error, RegistryError):  # which knows more of it
                urls = ", ".join(map(quoted, descriptor.urls))
                error.hint = f"a foreign layer, to be had from {urls}"
            raise
        with closing(stream):
            while chunk := stream.read(_CHUNK_BYTES):
                if self._stop.is_set():
                    raise _StoppedError("another blob failed")
                yield chunk

    def _count_reused(self, blob: _Blob) -> None:
        self._progress.say(f"{blob.title}: already there")
        with self._lock:
            self.reused_blobs += 1
