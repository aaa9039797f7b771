"""verify(): checks that stored images are intact, and reports all problems at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from ociexport.errors import InvalidImageError, NotFoundError, counted, printable
from ociexport.images.choose import PlatformChoice
from ociexport.images.resolve import artifact_kind, has_layers_after_all
from ociexport.images.source import ImageSource
from ociexport.layers.limits import Limits
from ociexport.layers.record import OutlineFile
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.manifest import Manifest
from ociexport.spec.platforms import host_platform
from ociexport.system.progress.protocol import SILENT, Progress, format_bytes
from ociexport.verification.blobs import BlobState, BlobToCheck, add_blob_findings, blob_to_check, check_blobs
from ociexport.verification.bundles import (
    FarSide,
    absent_layers,
    add_bundle_findings,
    add_expected_findings,
    expected_blobs,
)
from ociexport.verification.chains import add_artifact_notes, add_layer_findings, diff_ids_by_layer
from ociexport.verification.findings import UNREFERENCED, Finding, Findings, Kind
from ociexport.verification.layers import LayerExaminer
from ociexport.verification.options import VerifyOptions
from ociexport.verification.recipes import (
    RecipeProver,
    add_proof_findings,
    add_recipe_findings,
    bases_of,
    made_layers,
    recipes_to_check,
)
from ociexport.verification.selection import Selection
from ociexport.verification.targets import Subject, open_subject
from ociexport.verification.volumes import VolumeSet, VolumesFound
from ociexport.verification.walk import NamedBlob, Walk, WalkedImage

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification.

    Args:
        findings: in the order of the images; see `ociexport.verification.findings`.
        images: number of images that the source lists.
        documents: number of manifests, indexes and configs that match their digests.
        blobs: number of layers and other blobs that were hashed.
        read_bytes: size of the documents and blobs.
        layers: number of layers that were inflated, each once; None without ``deep``.
        tar_bytes: their uncompressed size.
        expected: of a bundle, the blobs that are meant to be absent; None without a ``bundle.json``.
        volumes: which volumes of a set were verified; None for anything else.
        recipes: number of layers that are absent too, since recipes make them on the far side.
    """

    findings: tuple[Finding, ...]
    images: int
    documents: int
    blobs: int
    read_bytes: int
    layers: int | None = None
    tar_bytes: int = 0
    expected: tuple[Descriptor, ...] | None = None
    volumes: VolumesFound | None = None
    recipes: int = 0

    @property
    def is_right(self) -> bool:
        """Whether no problems were found; there may be notes."""
        return not any(finding.is_wrong for finding in self.findings)

    def __str__(self) -> str:
        """Return the numbers and the outcome as one line."""
        wrong = sum(finding.is_wrong for finding in self.findings)
        looked = (
            f"{counted(self.images, 'image')}, {counted(self.documents, 'document')} and "
            f"{counted(self.blobs, 'blob')} checked, {format_bytes(self.read_bytes)}"
        )
        if self.layers is not None:
            looked += f"; {counted(self.layers, 'layer')} inflated and applied, {format_bytes(self.tar_bytes)}"
        if self.expected is not None:
            size = format_bytes(sum(blob.size for blob in self.expected))
            looked += f"; expects {counted(len(self.expected), 'blob')} ({size}) on the far side"
        if self.recipes:
            looked += f"; makes {counted(self.recipes, 'layer')} there from recipes"
        if self.volumes is not None:
            looked += f"; {self.volumes}"
        return f"{looked}: {f'{wrong} wrong' if wrong else 'no problems found'}"


def verify(
    source: str | os.PathLike[str] | ImageSource | Sequence[str],
    *,
    strict: bool = False,
    deep: bool = False,
    limits: Limits | None = None,
    platform: Platform | PlatformChoice | None = None,
    against: FarSide | None = None,
    prove_recipes: RecipeProver | None = None,
    progress: Progress = SILENT,
    registry: RegistryOptions | None = None,
) -> Verification:
    """Return all problems of ``source``: digests, sizes, documents, names, missing and unreferenced blobs.

    Args:
        source: a layout or archive, or one image in it; a reference; an open source, which stays open; or several
            archives, which must be volumes of one set.
        strict: whether every manifest that an index references must be stored; the specification allows absent ones.
        deep: also inflate each layer, prove its diff_id, and apply it in memory to the lower layers, so that the image
            is known to unpack. Only the layers' names are written, to one temporary file.
        limits: no honest image exceeds them, for ``deep``; None for those of `unpack`.
        platform: the platforms to verify; None for all in a layout or archive, and for this machine's platform in a
            registry.
        against: returns what the far side has, for a bundle: a blob that neither has is a problem. It gets the digests
            and diff_ids of the absent layers, which it proves as far as it has their bytes.
        prove_recipes: makes the layers that come as recipes, for ``deep`` with ``against``; None not to make them.
        progress: receives progress.
        registry: options for reaching registries.

    Raises:
        NotFoundError, RegistryError: the source does not exist or does not answer.
        NoMatchingPlatformError: the image has no such ``platform``.
        OSError: temporary files cannot be written.
    """
    wishes = VerifyOptions(strict, deep, limits, platform, progress, registry, against, prove_recipes)
    return verify_source(source, wishes)


def verify_source(source: str | os.PathLike[str] | ImageSource | Sequence[str], wishes: VerifyOptions) -> Verification:
    """Return all problems of ``source``; see `verify`."""
    subject = open_subject(source, progress=wishes.progress, registry=wishes.registry)
    with closing(subject), closing(OutlineFile()) as file:
        return verify_subject(subject, wishes, {}, file)[0]


def verify_subject(
    subject: Subject, wishes: VerifyOptions, states: dict[Digest, BlobState], outlines: OutlineFile
) -> tuple[Verification, Walk]:
    """Return all problems of ``subject``, and the walk over its documents; see `verify`.

    1. Its lists of images are read, and all documents that they reach.
    2. Referenced and unreferenced blobs are hashed; layers are examined at the same time.
    3. The layers of each image are applied to the lower ones.

    Args:
        states: of blobs that were hashed before; others are added.
        outlines: file that stores the layers' changes.
    """
    findings = Findings()
    roots = subject.read_roots(findings, wishes.progress)  # 1
    walk = Walk(findings, is_strict=wishes.strict, selection=_selection(subject, wishes))
    for root in roots:
        walk.follow(root)
    if walk.left_out and not walk.images:
        raise walk.left_out[0]
    images, artifacts = _images_and_artifacts(walk) if wishes.deep else ([], [])
    diff_ids = diff_ids_by_layer(images)  # 2
    named = [
        blob_to_check(names, _examiner(names, diff_ids[digest], wishes, outlines) if digest in diff_ids else None)
        for digest, names in walk.blobs.items()
    ]
    left_over = [] if wishes.platform is not None else _left_over(subject, walk, findings)
    recipes = recipes_to_check(subject.bundle, subject.open_blob)
    left_over = [blob for blob in left_over if all(blob.digest != recipe.digest for recipe in recipes)]
    blobs = [*named, *recipes, *left_over]
    states.update(check_blobs([blob for blob in blobs if not _is_known(blob, states)], wishes.progress))
    made = made_layers(walk, states, subject.bundle)
    held = wishes.against(absent_layers(walk, states) | bases_of(made)) if wishes.against is not None else None
    expected = expected_blobs(walk, states, subject.bundle, held or ())
    add_blob_findings(walk.blobs, states, findings, {**expected, **made})
    elsewhere = subject.volumes.elsewhere if subject.volumes is not None else {}
    add_expected_findings(walk, expected, subject.bundle, held, findings, elsewhere=elsewhere)
    if subject.bundle is not None and wishes.platform is None:
        add_bundle_findings(subject.bundle, roots, walk, states, findings)
    if subject.bundle is not None and subject.bundle.recipes:
        usable = add_recipe_findings(subject.bundle, made, walk, states, held=held, findings=findings)
        if wishes.deep and held is not None and wishes.prove_recipes is not None:
            problems = wishes.prove_recipes(tuple(usable.values()), _Stored(subject))
            add_proof_findings(usable, problems, walk, findings)
    if wishes.deep:  # 3
        add_layer_findings(images, states, wishes.limits or Limits(), findings)
        add_artifact_notes(artifacts, findings)
    for blob in left_over:
        _add_orphan(blob.digest, states[blob.digest], findings)
    not_here = tuple(blob for digest, blob in expected.items() if digest not in elsewhere)
    volumes = None
    if subject.volumes is not None:
        absent = {**expected, **made}
        wrong = {digest for digest, state in states.items() if state.kind is not None and digest not in absent}
        volumes = subject.volumes.found({*wrong, *elsewhere}, findings)
    hashed = [states[blob.digest] for blob in blobs]
    verification = Verification(
        findings=tuple(_located(finding, subject.volumes) for finding in findings),
        images=len(roots),
        documents=len(walk.documents),
        blobs=sum(state.kind is not Kind.MISSING for state in hashed),
        read_bytes=sum(walk.documents.values()) + sum(state.size for state in hashed),
        layers=sum(state.layer is not None for state in hashed) if wishes.deep else None,
        tar_bytes=sum(state.layer.tar_bytes for state in hashed if state.layer is not None),
        expected=not_here if subject.bundle is not None or not_here else None,
        volumes=volumes,
        recipes=len(made),
    )
    return verification, walk


def _images_and_artifacts(walk: Walk) -> tuple[list[WalkedImage], list[tuple[str, Manifest]]]:
    """Return the images whose layers are examined, and the artifacts' manifests with their places.

    Where media types say that a manifest with an image's config is an artifact's, the content of its layer decides.
    """
    images: list[WalkedImage] = []
    artifacts: list[tuple[str, Manifest]] = []
    for one in walk.images:
        is_image = artifact_kind(one.manifest) is None
        if not is_image:
            with suppress(NotFoundError, InvalidImageError, OSError):  # reported when the blob is read
                is_image = has_layers_after_all(one.source, one.manifest)
        if is_image:
            images.append(one)
        else:
            artifacts.append((one.place, one.manifest))
    return images, [*artifacts, *walk.artifacts]


def _located(finding: Finding, volumes: VolumeSet | None) -> Finding:
    """Return ``finding``; of a blob that is wrong in one of several volumes, with the name of that volume."""
    place = volumes.places.get(finding.digest) if volumes is not None and finding.digest is not None else None
    if place is None or not finding.is_wrong or finding.place.startswith(place):
        return finding
    return replace(finding, message=f"{finding.message}; it is in {printable(place)}")


class _Stored:
    """Opens the blobs of a subject, also those that no manifest names."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        return self._subject.open_blob(descriptor.digest).open_blob(descriptor, offset)


def _examiner(
    named: Sequence[NamedBlob], diff_ids: frozenset[Digest], wishes: VerifyOptions, outlines: OutlineFile
) -> LayerExaminer:
    size = max(one.descriptor.size for one in named)
    return LayerExaminer(size, named[0].descriptor.media_type, diff_ids, wishes.limits or Limits(), outlines)


def _is_known(blob: BlobToCheck, states: Mapping[Digest, BlobState]) -> bool:
    """Whether a blob was hashed before, and examined if it is a layer."""
    state = states.get(blob.digest)
    return state is not None and (blob.examiner is None or state.kind is not None or state.layer is not None)


def _selection(subject: Subject, wishes: VerifyOptions) -> Selection | None:
    return Selection.of(wishes.platform or (host_platform() if subject.is_remote else None))


def _left_over(subject: Subject, walk: Walk, findings: Findings) -> list[BlobToCheck]:
    """Return the unreferenced blobs, which must match their names too."""
    reached = walk.reached
    return [
        BlobToCheck(digest, partial(subject.open_blob(digest).open_blob, Descriptor("", digest, 0)))
        for digest in subject.list_blobs(findings)
        if digest not in reached
    ]


def _add_orphan(digest: Digest, state: BlobState, findings: Findings) -> None:
    """Report an unreferenced blob.

    Spec: image-layout.md, "Content": such blobs are allowed, but their content must match their names.
    """
    place = f"blob {digest}"
    if state.kind is not None:
        findings.add(state.kind, place, f"{state.message}{UNREFERENCED}", digest=digest)
    else:
        findings.add(Kind.ORPHAN, place, f"unreferenced ({counted(state.size, 'byte')})", is_wrong=False, digest=digest)
