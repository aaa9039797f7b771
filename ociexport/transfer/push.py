"""PushRun: images pushed to one registry in one run, each blob once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Literal

from ociexport.errors import OciexportError
from ociexport.images.prepare import prepare_image
from ociexport.images.source import ImageSource
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.images.wrapping_source import RenamedSource
from ociexport.registry.destination import KnownBlobs, RegistryDestination
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.storage.layout.saved_uploads import SavedUploads
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.push_list import ImageToPush
from ociexport.transfer.send import images_named_by, prepare_to_send, verify_available
from ociexport.transfer.sources.names import LayoutName, SourceName
from ociexport.transfer.sources.open import verify_digest

if TYPE_CHECKING:
    from ociexport.registry.client import RegistryClient
    from ociexport.transfer.result import PullResult


@dataclass(frozen=True, slots=True)
class BlobCount:
    """A number of blobs, and their size together."""

    blobs: int
    size: int


@dataclass(frozen=True, slots=True)
class PushResult:
    """What was pushed.

    Args:
        image: with its name at the source.
        reference: at the registry, with the digest.
        digest: of the manifest or index.
        there: the blobs that the repository had before.
        mounted: those that came from another repository of the registry.
        sent: those that were sent.
        companions: digests of the signatures, SBOMs and other referrers.
    """

    image: ImageToPush
    reference: str
    digest: Digest
    there: BlobCount
    mounted: BlobCount
    sent: BlobCount
    companions: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class PlannedPushBlob:
    """A blob of a planned push.

    Args:
        mounted_from: the repository that it would be mounted from, if its state is ``mount``.
    """

    title: str
    descriptor: Descriptor
    state: Literal["there", "mount", "send"]
    mounted_from: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedPush:
    """What a push of one image would do.

    Args:
        replaces: the digest that the tag has now, if it would be moved.
        is_tagged: whether the tag has the digest now.
        companions: digests of what refers to the image and would be pushed with it.
    """

    image: ImageToPush
    digest: Digest
    blobs: tuple[PlannedPushBlob, ...]
    replaces: Digest | None
    is_tagged: bool
    companions: tuple[Digest, ...]


class PushRun:
    """Pushes images to one registry; each blob is sent once, and mounted into further repositories.

    Args:
        client: for the registry; the caller closes it.
        open_source: opens a source; its connections are the caller's.
        options: what is taken of each image.
        moves_tags: whether tags that exist are moved.
    """

    def __init__(
        self,
        client: RegistryClient,
        open_source: Callable[[SourceName], ImageSource],
        options: PullOptions,
        progress: Progress,
        *,
        moves_tags: bool = False,
    ) -> None:
        self._client = client
        self._open_source = open_source
        self._options = options
        self._progress = progress
        self._moves_tags = moves_tags
        self._known = KnownBlobs()
        self._planned = KnownBlobs()

    def verify_tags(self, images: Sequence[ImageToPush]) -> None:
        """Return if no tag that exists with another digest would be moved; nothing is sent.

        An image that can't be read is left to its own push.

        Raises:
            UsageError: one would, or the registry can't be asked.
            RegistryError: the registry refuses the question.
        """
        for image in images:
            if image.destination.tag is None or self._moves_tags:
                continue
            try:
                with closing(self._opened(image)) as source:
                    digest = self._digest_of(source, image)
            except (OciexportError, OSError):
                continue
            self._destination(image).verify_tag(image.destination.tag, digest)

    def push(self, image: ImageToPush) -> PushResult:
        """Push one image. Raises as `copy_image` does."""
        destination = self._destination(image)
        with closing(self._opened(image)) as source:
            result = copy_image(source, destination, self._options_for(image), self._progress)
        return _result_of(image, result, destination)

    def api_url(self, image: ImageToPush) -> str:
        """Return the URL of the registry's API; it was found before."""
        return self._client.session(self._client.home(image.destination)).ping()

    def plan(self, image: ImageToPush) -> PlannedPush:
        """Return what a push of ``image`` would do; nothing is sent or mounted."""
        destination = self._destination(image, only_plans=True)
        with closing(self._opened(image)) as source:
            prepared, companions = prepare_to_send(source, destination, self._options_for(image), self._progress)
            destination.add_mounts(images_named_by(prepared))
            blobs = unite_blobs(copy.blobs for copy in (*companions, prepared))
            planned = [self._plan_blob(blob, destination) for blob in blobs]
            may_send = [blob for blob, plan in zip(blobs, planned, strict=True) if plan.state == "send"]
            verify_available(prepared.source, may_send, destination)
        tag = image.destination.tag
        there = destination.digest_of(tag) if tag is not None else None
        digest = prepared.listed.digest
        is_other = there is not None and there != digest
        return PlannedPush(
            image=image,
            digest=digest,
            blobs=tuple(planned),
            replaces=there if is_other else None,
            is_tagged=there == digest,
            companions=tuple(companion.listed.digest for companion in companions),
        )

    def _plan_blob(self, blob: BlobToFetch, destination: RegistryDestination) -> PlannedPushBlob:
        descriptor = blob.descriptor
        planned = self._planned.homes(descriptor.digest)
        if destination.repository in planned or destination.has_blob(descriptor):
            return PlannedPushBlob(blob.title, descriptor, "there")
        home = planned[0] if planned else destination.mountable_from(descriptor)
        self._planned.add(descriptor.digest, destination.repository)
        return PlannedPushBlob(blob.title, descriptor, "mount" if home is not None else "send", home)

    def _destination(self, image: ImageToPush, *, only_plans: bool = False) -> RegistryDestination:
        source = image.source
        saved = None
        if isinstance(source, LayoutName):
            path = source.path

            def saved(registry: str, repository: str) -> SavedUploads:
                return SavedUploads(path, registry, repository)

        return RegistryDestination(
            image.destination,
            self._client,
            known=self._known,
            saved=saved,
            moves_tags=self._moves_tags,
            only_plans=only_plans,
        )

    def _opened(self, image: ImageToPush) -> ImageSource:
        source = RenamedSource(self._open_source(image.source), image.name_there)
        try:
            if image.image.locked is not None:
                verify_digest(source, image.image.locked)
        except BaseException:
            source.close()
            raise
        return source

    def _options_for(self, image: ImageToPush) -> PullOptions:
        platforms = image.image.platforms
        return self._options if platforms is None else replace(self._options, platform=platforms)

    def _digest_of(self, source: ImageSource, image: ImageToPush) -> Digest:
        """Return the digest that the copy will have."""
        choice = self._options_for(image).platform
        if getattr(choice, "takes_all", False):
            return source.fetch_manifest().digest
        return prepare_image(source, choice, None, self._progress).listed.digest


def _result_of(image: ImageToPush, result: PullResult, destination: RegistryDestination) -> PushResult:
    def count(state: str) -> BlobCount:
        sizes = [destination.sizes[digest] for digest, its in destination.states.items() if its == state]
        return BlobCount(len(sizes), sum(sizes))

    return PushResult(
        image=image,
        reference=str(image.destination.with_digest(result.digest)),
        digest=result.digest,
        there=count("there"),
        mounted=count("mounted"),
        sent=count("sent"),
        companions=result.companions,
    )
