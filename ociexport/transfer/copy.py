"""copy_image(): one image from any source to any destination, verified, and named last."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, NotFoundError, UsageError
from ociexport.images.destination import BlobStore, ImageDestination, SendingDestination
from ociexport.images.fetch import BlobFetch
from ociexport.images.held_documents import use_held_documents
from ociexport.images.prepare import prepare_image
from ociexport.images.source import ImageSource
from ociexport.images.wanted_blobs import unite_blobs
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult, results_of, with_companions
from ociexport.transfer.sources.convert import ConvertingSource

if TYPE_CHECKING:
    from ociexport.images.diff_id_checks import VerifiedDiffIds


def copy_image(
    source: ImageSource,
    destination: ImageDestination | SendingDestination,
    options: PullOptions,
    progress: Progress = SILENT,
    *,
    verified: VerifiedDiffIds | None = None,
) -> PullResult:
    """Copy one image from any source to any destination; see `pull`.

    1. The platforms' manifests and configs are read and checked: for an invalid image nothing is written.
    2. The configs and layers that the destination lacks, or holds damaged, are fetched in parallel. With
       ``options.deep``, the layers' diff_ids are verified while they arrive, and those of layers that are there.
    3. Each manifest is written after everything that it names, an index after its manifests, and the name last.

    Companions are copied the same way, and named before the image.

    Args:
        verified: shared by the images of one run, so that a layer of several is inflated once.

    Raises:
        as `pull` does; UsageError: ``decompress`` and ``thin`` are for layouts, ``legacy`` for archives.
    """
    if options.legacy:
        raise UsageError("legacy: expected an archive to write, got a layout")
    if options.decompress and not isinstance(destination, ImageLayout):
        raise UsageError("decompress: expected a layout or an archive as destination")
    if isinstance(destination, SendingDestination):
        from ociexport.transfer.send import send_image  # noqa: PLC0415 - start-up: a layout does without

        return send_image(source, destination, options, progress)
    source = options.signed(source)
    brought: Collection[Digest] = ()
    is_kept_as_it_comes = not options.decompress and options.thin is None
    if isinstance(source, ConvertingSource) and isinstance(destination, ImageLayout) and is_kept_as_it_comes:
        source.keep_layers_in(destination, options.jobs)
        brought = source.layers
    use_held_documents(source, destination)
    # Layers that are left out or stored in another form may never be needed.
    ahead = options.jobs - 1 if options.is_alone and is_kept_as_it_comes else 0
    image = prepare_image(source, options.platform, destination, progress, ahead=ahead)  # 1
    companions = []
    if options.referrers:
        from ociexport.transfer.companions import prepare_companions  # noqa: PLC0415 - start-up: few pulls copy referrers

        companions = prepare_companions(image, destination, progress)
    if options.required:
        from ociexport.transfer.requirements import verify_has  # noqa: PLC0415 - start-up: as above

        verify_has(image, companions, options.required)
    is_deep = options.is_deep_for(source, into_archive=False)
    if is_deep:
        checks = options.new_diff_id_checks(verified)
        for one in (image, *companions):
            checks.expect(one, besides=brought)
    selection = bundle = None
    if options.thin is not None:
        from ociexport.transfer.bundle.thin import leave_out, verify_fits_thin  # noqa: PLC0415 - start-up: few are thin

        verify_fits_thin(destination)
        selection, bundle = leave_out([image, *companions], options.thin, progress)
        image, *companions = selection.images
    plain = None
    if options.decompress and isinstance(destination, ImageLayout):
        from ociexport.transfer.decompress import PlainLayerStore, diff_ids_of  # noqa: PLC0415 - start-up: few pulls decompress

        plain = PlainLayerStore(destination, diff_ids_of([image]), options.max_memory)
    store: BlobStore = plain or destination
    if is_deep:
        store = checks.around(plain or destination)
    fetch = BlobFetch(store, progress)
    with destination.begin() as use, closing(selection) if selection is not None else nullcontext():
        try:
            blobs = unite_blobs([image.blobs, *(companion.blobs for companion in companions)])
            fetch.run([blob for blob in blobs if blob.descriptor.digest not in brought], options.jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is invalid: its blobs are removed. After any other error they stay, and the next try continues.
            use.discard(map(plain.stored_digest, fetch.begun) if plain else fetch.begun)
            raise
        written = image
        if plain is not None:
            from ociexport.transfer.decompress import with_plain_layers  # noqa: PLC0415 - start-up: as above

            written = with_plain_layers(image, plain, progress)
        if bundle is not None and isinstance(destination, ImageLayout):
            from ociexport.transfer.bundle.thin import write_layout_bundle  # noqa: PLC0415 - start-up: as above

            write_layout_bundle(destination, bundle)
        for copy in (*companions, written):  # 3
            for document in copy.documents:
                destination.write_manifest(document)
            destination.write_name(copy.listed, copy.name)
    result = results_of([image], [written], [*_conversions([source]), fetch])[0]
    result = with_companions(replace(result, is_deep=is_deep), companions)
    return result if selection is None else selection.result_of(result, image)


def _conversions(sources: Iterable[ImageSource]) -> list[BlobFetch]:
    """Return the fetches of sources that had to fetch layers before their manifest could be made."""
    return [fetch for source in sources if isinstance(source, ConvertingSource) for fetch in source.fetches]
