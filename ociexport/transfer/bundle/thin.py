"""Making a thin layout or archive: what is left out of the images, and the ``bundle.json`` that says so."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ociexport.errors import UsageError, quoted
from ociexport.images.destination import ImageDestination
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from ociexport.storage.bundle import (
    Bundle,
    BundleBlob,
    BundleImage,
    BundleManifest,
    created_at,
    replaced_by,
    with_replaced,
)
from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout.documents import BUNDLE_FILE, LOCK_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.bundle.contents import read_layout_bundle
from ociexport.transfer.bundle.select import Selection, ThinOptions, select_new


def leave_out(
    images: Sequence[PreparedImage], thin: ThinOptions, progress: Progress = SILENT
) -> tuple[Selection, Bundle]:
    """Return ``images`` with what is new to the far side, and the ``bundle.json`` that says what is left out.

    The caller closes the selection.
    """
    selection = select_new(images, thin)
    if thin.delta is not None:
        from ociexport.transfer.bundle.delta.replace_layers import with_recipes  # noqa: PLC0415 - start-up: few need it

        written, recipes = with_recipes(selection.images, thin.delta, progress)
        selection = replace(selection, images=written, recipes=recipes)
    return selection, describe_bundle(selection, thin)


def describe_bundle(selection: Selection, thin: ThinOptions) -> Bundle:
    """Return the ``bundle.json`` of the selected images."""
    made = selection.recipes.made if selection.recipes is not None else ()
    recipes = {recipe.recipe.digest for recipe in made}
    diff_ids: dict[Digest, Digest] = {}
    documents: dict[Digest, BundleBlob] = {}
    blobs: dict[Digest, BundleBlob] = {}
    for image in selection.images:
        for one in image.manifests:
            for layer in pair_layers(one.manifest, one.config) if one.config is not None else ():
                diff_ids[layer.descriptor.digest] = layer.diff_id
        for document in image.documents:
            documents[document.digest] = BundleBlob(document.digest, len(document.raw), document.media_type or "")
        for blob in image.blobs:
            if blob.descriptor.digest in recipes:
                continue
            blobs[blob.descriptor.digest] = _blob(blob.descriptor, diff_ids)
    return Bundle(
        rule=thin.rule,
        since=tuple(dict.fromkeys(one.name for one in thin.since)),
        created=created_at(thin.seconds),
        images=tuple(_image(image, thin) for image in selection.images),
        documents=tuple(documents.values()),
        blobs=tuple(blobs.values()),
        expected=tuple(_blob(one.blob.descriptor, diff_ids, one.since) for one in selection.expected),
        recipes=tuple({recipe.layer.digest: recipe for recipe in made}.values()),
    )


def _blob(descriptor: Descriptor, diff_ids: dict[Digest, Digest], since: tuple[str, ...] = ()) -> BundleBlob:
    return BundleBlob(descriptor.digest, descriptor.size, descriptor.media_type, diff_ids.get(descriptor.digest), since)


def _image(image: PreparedImage, thin: ThinOptions) -> BundleImage:
    name = image.name.full or image.name.tag
    before = [digest for one in thin.since for digest in one.names.get(name or "", ())]
    return BundleImage(
        name=name,
        source=image.source.display_name,
        digest=image.listed.digest,
        manifests=tuple(map(_manifest, image.manifests)),
        replaces=replaced_by(with_replaced(image.listed, before)),
    )


def _manifest(one: PreparedManifest) -> BundleManifest:
    return BundleManifest(
        digest=one.manifest.digest,
        config=one.manifest.config.digest,
        platform=str(one.platform) if one.platform is not None else None,
        layers=tuple(layer.digest for layer in one.manifest.layers),
    )


def verify_fits_thin(layout: ImageDestination) -> None:
    """Return if a thin image can be put into ``layout``: a new one, an empty one, or a thin one.

    Raises:
        UsageError: it is no layout, or holds images without a ``bundle.json`` that tells which blobs they lack.
    """
    if not isinstance(layout, ImageLayout):
        raise UsageError("since: expected a layout or an archive as destination")
    if not layout.directory.has("oci-layout") or layout.directory.has(BUNDLE_FILE):
        return
    if layout.read_images():
        raise UsageError(
            f"{quoted(layout.path)}: expected a new directory or an earlier update, got a layout of whole images",
            hint="without --since, pull adds to it only what it lacks",
        )


def write_layout_bundle(layout: ImageLayout, bundle: Bundle) -> None:
    """Write ``bundle.json`` into a layout that is in use; what it says of other images there is kept."""
    fd = layout.directory.open_locked(LOCK_FILE)
    try:
        known = read_layout_bundle(layout)
        united = bundle if known is None else known.united_with(bundle)
        layout.directory.write_file(BUNDLE_FILE, united.to_json(), aside=OWN_DIRECTORY)
    finally:
        os.close(fd)
