"""push(), and PushRun: images pushed to one registry in one run, each blob once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Literal

from ociexport.errors import OciexportError
from ociexport.images.choose import PlatformChoice
from ociexport.images.fetch import DEFAULT_JOBS
from ociexport.images.prepare import prepare_image
from ociexport.images.source import PINGS_AND_SENDS, ImageSource
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.images.wrapping_source import RenamedSource
from ociexport.registry.known_blobs import KnownBlobs
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.saved_uploads import SavedUploads
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.copy import copy_image
from ociexport.transfer.options import PullOptions
from ociexport.transfer.push_list import ImageToPush, SourceFactory, images_of, images_to_push
from ociexport.transfer.push_names import PushTarget, parse_rules, parse_target
from ociexport.transfer.send import images_named_by, prepare_to_send, verify_available
from ociexport.transfer.sources.names import LayoutName, RegistryName, SourceName, parse_source_name, source_text
from ociexport.transfer.sources.open import SourceOpener, new_client, verify_digest

if TYPE_CHECKING:
    from ociexport.images.signatures import SignaturePolicy
    from ociexport.registry.client import RegistryClient
    from ociexport.registry.destination import RegistryDestination
    from ociexport.registry.options import RegistryOptions
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
        image: the image, with its names at the source and at the registry.
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

    @property
    def name(self) -> str:
        """The image's name at the source, in full if it has one."""
        return self.image.full_name


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


def push(
    source: str | os.PathLike[str] | ImageReference,
    target: str,
    *,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    referrers: bool = False,
    registry: RegistryOptions | None = None,
    source_registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
    rules: Iterable[str] = (),
    move_tags: bool = False,
) -> tuple[PushResult, ...]:
    """Send the images of a source to a registry, each blob once; a tag is put there when its image is complete.

    Args:
        source: a layout or an archive, with all its images or one; ``dir:DIR``; or an image in another registry.
        target: ``REGISTRY[/PREFIX]``, below which images keep their registry and path, or ``REGISTRY/NAME:TAG`` for one
            image.
        platform: the platform to take, or several; None for all, with the published index.
        jobs: how many blobs are sent in parallel.
        progress: gets messages and the state of transfers.
        referrers: whether signatures, SBOMs and other artifacts that refer to an image are sent too.
        registry: how the registry is reached.
        source_registry: how other registries are reached; None for ``registry`` without what is meant for that one.
        signatures: which signatures an image must have; None for none.
        rules: other names for images, ``PATTERN=PATH`` as `--map` takes them; the first that matches counts.
        move_tags: whether tags that exist with another digest are moved.

    Raises:
        UsageError: before any request, if two images would get one name or ``target`` is no registry; before anything
            is sent, if a tag would be moved.
        MissingBlobsError: blobs of an image are neither at the source nor at the registry.
        NotFoundError, RegistryError, NoMatchingPlatformError: an image is missing, or the registry refuses it.
        InvalidImageError, SignatureError, OSError: as `pull` raises them. Images before the failed one are there.
    """
    from ociexport.registry.options import DEFAULT_OPTIONS  # noqa: PLC0415 - start-up: an import needs no registry

    registry = registry or DEFAULT_OPTIONS
    place = parse_target(target)
    name = RegistryName(source) if isinstance(source, ImageReference) else parse_source_name(source_text(source))
    options = PullOptions(platform or PlatformChoice(), jobs, referrers=referrers, signatures=signatures)
    elsewhere = source_registry or options_elsewhere(registry)
    with open_push(place, options, progress, registry=registry, elsewhere=elsewhere, moves_tags=move_tags) as opened:
        named = images_to_push(list(images_of(name, opened.open_source, opened.elsewhere)), place, parse_rules(rules))
        images = list({id(image): image for image in named}.values())
        if len(images) > 1:  # the push of a single image checks its tag before it sends anything
            opened.run.verify_tags(images)
        return tuple(map(opened.run.push, images))


def options_elsewhere(registry: RegistryOptions) -> RegistryOptions:
    """Return how registries other than the destination are reached: with nothing that is meant for that one."""
    return replace(registry, credentials=None, headers=(), plain_http=False, insecure=False)


class OpenPush(NamedTuple):
    """A push to one registry.

    Args:
        run: pushes; all its images share one client of the registry.
        open_source: opens a source; those in the registry that is pushed to are read as that one is.
        elsewhere: opens all other sources.
    """

    run: PushRun
    open_source: SourceFactory
    elsewhere: SourceOpener


@contextmanager
def open_push(
    target: PushTarget,
    options: PullOptions,
    progress: Progress,
    *,
    registry: RegistryOptions,
    elsewhere: RegistryOptions,
    moves_tags: bool,
) -> Iterator[OpenPush]:
    """Give a push to a registry, whose connections are closed in the end.

    Args:
        options: what is taken of each image.
        registry: how the registry is reached.
        elsewhere: how other registries are reached.
    """
    with ExitStack() as stack:
        there = stack.enter_context(closing(SourceOpener(options=registry, progress=progress)))
        others = stack.enter_context(closing(SourceOpener(options=elsewhere, progress=progress)))

        def open_source(name: SourceName) -> ImageSource:
            is_there = isinstance(name, RegistryName) and name.reference.registry == target.registry
            return (there if is_there else others).open(name)

        def open_client(reference: ImageReference) -> RegistryClient:
            return stack.enter_context(closing(new_client(registry, progress, reference, PINGS_AND_SENDS)))

        yield OpenPush(PushRun(open_client, open_source, options, progress, moves_tags=moves_tags), open_source, others)


class PushRun:
    """Pushes images to one registry; each blob is sent once, and mounted into further repositories.

    Args:
        open_client: opens a client for the registry, given an image's name there; called once, when all names are
            settled, since it may begin the first request. The caller closes the client.
        open_source: opens a source; its connections are the caller's.
        options: what is taken of each image.
        moves_tags: whether tags that exist are moved.
    """

    def __init__(
        self,
        open_client: Callable[[ImageReference], RegistryClient],
        open_source: Callable[[SourceName], ImageSource],
        options: PullOptions,
        progress: Progress,
        *,
        moves_tags: bool = False,
    ) -> None:
        self._open_client = open_client
        self._opened_client: RegistryClient | None = None
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
        client = self._client_for(image)
        return client.session(client.home(image.destination)).ping()

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
        client = self._client_for(image)
        # Start-up: the client is imported by now, while the connection was made.
        from ociexport.registry.destination import RegistryDestination  # noqa: PLC0415 - start-up: as above

        source = image.source
        saved = None
        if isinstance(source, LayoutName):
            path = source.path

            def saved(registry: str, repository: str) -> SavedUploads:
                return SavedUploads(path, registry, repository)

        return RegistryDestination(
            image.destination,
            client,
            known=self._known,
            saved=saved,
            moves_tags=self._moves_tags,
            only_plans=only_plans,
        )

    def _client_for(self, image: ImageToPush) -> RegistryClient:
        if self._opened_client is None:
            self._opened_client = self._open_client(image.destination)
        return self._opened_client

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
