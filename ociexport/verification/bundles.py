"""What ``bundle.json`` says, compared with what is there: blobs that are meant to be absent, and false statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from ociexport.errors import InvalidImageError, NotFoundError, counted, printable
from ociexport.images.holdings import HeldLayer, Holdings, held_by_docker
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.storage.bundle import Bundle, BundleBlob, parse_bundle
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.verification.blobs import BlobState
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.stores import Store
from ociexport.verification.walk import Root, Walk

# Returns what the far side has. Where it has their bytes, it proves the layers with these digests or diff_ids.
FarSide: TypeAlias = Callable[[Collection[Digest]], Sequence[Holdings]]


def read_bundle(store: Store, findings: Findings) -> Bundle | None:
    """Return the ``bundle.json`` of a layout or an archive; None if it has none, or one that can't be read."""
    try:
        return parse_bundle(store.read_file(BUNDLE_FILE), where="")
    except NotFoundError:
        return None
    except (InvalidImageError, OSError) as error:
        where = f"{BUNDLE_FILE}: {error.where}" if isinstance(error, InvalidImageError) and error.where else BUNDLE_FILE
        findings.add_error(error, where, otherwise=Kind.DOCUMENT)
        return None


def absent_layers(walk: Walk, states: Mapping[Digest, BlobState]) -> frozenset[Digest]:
    """Return the digests of all absent blobs, and the diff_ids of those that are layers."""
    absent = {digest for digest in walk.blobs if states[digest].kind is Kind.MISSING}
    diff_ids = {
        diff_id
        for image in walk.images
        for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=False)
        if layer.digest in absent
    }
    return frozenset(absent | diff_ids)


def expected_blobs(
    walk: Walk, states: Mapping[Digest, BlobState], bundle: Bundle | None, held: Sequence[Holdings]
) -> dict[Digest, Descriptor]:
    """Return the blobs that are absent and need not be here: the far side has them, as the bundle or ``held`` says."""
    told = bundle.expected_digests if bundle is not None else frozenset()
    return {
        digest: named[0].descriptor
        for digest, named in walk.blobs.items()
        if states[digest].kind is Kind.MISSING and (digest in told or (bundle is None and _is_held(walk, digest, held)))
    }


def add_expected_findings(
    walk: Walk,
    expected: Collection[Digest],
    bundle: Bundle | None,
    held: Sequence[Holdings] | None,
    findings: Findings,
    *,
    elsewhere: Mapping[Digest, str],
) -> None:
    """Note each expected blob; one that ``held`` lacks is a problem.

    Args:
        held: what the far side has; None if that is not known.
        elsewhere: where the expected blobs are that are not on the far side: in volumes that were not given.
    """
    by_docker = _held_by_docker(walk, held or (), bundle)
    for digest in expected:
        place = walk.blobs[digest][0].place
        holders = [one.name for one in held or () if one.has_blob(digest)] or list(by_docker.get(digest, ()))
        where = elsewhere.get(digest, "expected on the far side")
        if held is None:
            findings.add(Kind.ABSENT, place, where, is_wrong=False, digest=digest)
        elif holders:
            message = f"expected on the far side, and in {printable(holders[0])}"
            findings.add(Kind.ABSENT, place, message, is_wrong=False, digest=digest)
        else:
            message = where if digest in elsewhere else f"{where}, and not there"
            findings.add(Kind.MISSING, place, message, digest=digest)


def _is_held(walk: Walk, digest: Digest, held: Sequence[Holdings]) -> bool:
    return any(one.has_blob(digest) for one in held) or digest in _held_by_docker(walk, held, None)


def _held_by_docker(walk: Walk, held: Sequence[Holdings], bundle: Bundle | None) -> Mapping[Digest, tuple[str, ...]]:
    """Return the layers that docker has; nothing for a bundle that is for a registry or a layout."""
    if bundle is not None and bundle.rule != "docker":
        return {}
    images = (
        [HeldLayer(layer.descriptor.digest, layer.diff_id) for layer in pair_layers(image.manifest, image.config)]
        for image in walk.images
        if len(image.manifest.layers) == len(image.config.diff_ids)
    )
    return held_by_docker(images, held)


def add_bundle_findings(
    bundle: Bundle, roots: Sequence[Root], walk: Walk, states: Mapping[Digest, BlobState], findings: Findings
) -> None:
    """Report statements of ``bundle.json`` that are false.

    Images beside the bundle's own are no problem, and neither is an expected blob that is there: a later pull or merge
    may have added both.
    """
    listed = {root.descriptor.digest for root in roots}
    for image in bundle.images:
        if image.digest not in listed:
            what = f"image {printable(image.name or '')} {image.digest}".replace("  ", " ")
            findings.add(Kind.MISSING, f"{BUNDLE_FILE}: {what}", "not in index.json", digest=image.digest)
    for kind, blobs in (("documents", bundle.documents), ("blobs", bundle.blobs)):
        for blob in blobs:
            _verify_is_there(blob, f"{BUNDLE_FILE}: {kind}: {blob.digest}", walk, states, findings)
    for blob in bundle.expected:
        place = f"{BUNDLE_FILE}: expected: {blob.digest}"
        if blob.digest not in walk.blobs:
            findings.add(Kind.DOCUMENT, place, "no image needs it", digest=blob.digest)
        else:
            _verify_size(blob, place, walk, findings)


def _verify_is_there(
    blob: BundleBlob, place: str, walk: Walk, states: Mapping[Digest, BlobState], findings: Findings
) -> None:
    digest = blob.digest
    if digest in walk.documents:
        if walk.documents[digest] != blob.size:
            message = f"size mismatch: expected {counted(blob.size, 'byte')}, got {walk.documents[digest]}"
            findings.add(Kind.SIZE, place, message, digest=digest)
        return
    _verify_size(blob, place, walk, findings)
    state = states.get(digest)
    if digest in walk.broken or (state is not None and state.kind is not Kind.MISSING):
        return
    if all(one.may_be_absent for one in walk.blobs.get(digest, ())):  # otherwise reported already
        findings.add(Kind.MISSING, place, "not there", digest=digest)


def _verify_size(blob: BundleBlob, place: str, walk: Walk, findings: Findings) -> None:
    for one in walk.blobs.get(blob.digest, ()):
        if one.has_size and one.descriptor.size != blob.size:
            size = counted(one.descriptor.size, "byte")
            message = f"size mismatch: expected {size}, as its manifest says, got {blob.size}"
            findings.add(Kind.SIZE, place, message, digest=blob.digest)
            return
