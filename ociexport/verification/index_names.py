"""Checks that the names in ``index.json`` are valid and that each stands for one image.

Spec: image-spec 1.1 annotations.md, "org.opencontainers.image.ref.name"; containerd's ``images/annotations.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ociexport.errors import InvalidReferenceError, LimitExceededError, quoted
from ociexport.images.companions import says_companion
from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import normalize_platform
from ociexport.spec.reference import ImageReference
from ociexport.storage.alternatives import AlternativesReader
from ociexport.storage.index import FULL_NAME_ANNOTATION, REF_NAME_ANNOTATION, name_of
from ociexport.verification.findings import Findings, Kind

_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


def verify_names(entries: Sequence[tuple[str, Descriptor]], store: str, blobs: BlobOpener, findings: Findings) -> None:
    """Report invalid and ambiguous names of ``entries``, which are given with their places in ``index.json``.

    Args:
        store: the layout's name in messages.
        blobs: opens its blobs.
    """
    for place, descriptor in entries:
        _verify_ref_name(place, descriptor, findings)
        _verify_full_name(place, descriptor, findings)
    _verify_unique(entries, store, blobs, findings)


def _verify_ref_name(place: str, descriptor: Descriptor, findings: Findings) -> None:
    name = descriptor.annotations.get(REF_NAME_ANNOTATION)
    if name is not None and not _REF_NAME.fullmatch(name):
        # The specification says SHOULD; some tools cannot find other names.
        findings.add(
            Kind.NAME,
            f"{place}: {REF_NAME_ANNOTATION}",
            f"expected letters, digits and single separators, got {quoted(name)}",
            is_wrong=False,
        )


def _verify_full_name(place: str, descriptor: Descriptor, findings: Findings) -> None:
    name = descriptor.annotations.get(FULL_NAME_ANNOTATION)
    if name is None:
        return
    place = f"{place}: {FULL_NAME_ANNOTATION}"
    try:
        reference = ImageReference.parse(name)
    except InvalidReferenceError as error:
        findings.add(Kind.NAME, place, str(error), is_wrong=False)
        return
    if reference.digest is not None and reference.digest != descriptor.digest:
        findings.add(Kind.NAME, place, f"expected the image's digest {descriptor.digest}, got {reference.digest}")


def _verify_unique(
    entries: Sequence[tuple[str, Descriptor]], store: str, blobs: BlobOpener, findings: Findings
) -> None:
    """Report entries that share a name, unless a platform selects among them or they are no images."""
    groups: dict[str, dict[Digest, tuple[str, Descriptor]]] = {}
    for place, descriptor in entries:
        name = name_of(descriptor)
        if (shown := name.full or name.tag) is not None:
            groups.setdefault(shown, {}).setdefault(descriptor.digest, (place, descriptor))
    clashes: dict[str, str] = {}
    for group in groups.values():
        listed = [(place, descriptor) for place, descriptor in group.values() if not says_companion(descriptor)]
        if len(listed) < 2:
            continue
        try:
            clashes.update(_clashes(listed, AlternativesReader(store, blobs)))
        except (LimitExceededError, OSError) as error:
            findings.add_error(error, listed[0][0])
    for place, descriptor in entries:
        name = name_of(descriptor)
        shown = name.full or name.tag
        first = groups[shown][descriptor.digest][0] if shown is not None else place
        if first != place:
            what = f"the same image, {first}"
        elif place in clashes:
            what = f"another image, {clashes[place]}"
        else:
            continue
        message = f"the name {quoted(shown)} already belongs to {what}"
        findings.add(Kind.NAME, place, message, is_wrong=first == place)


def _clashes(listed: Sequence[tuple[str, Descriptor]], reader: AlternativesReader) -> Iterator[tuple[str, str]]:
    """Yield the place of each image that another one is the same platform's, and the place of that one."""
    images = reader.images_among([descriptor for _, descriptor in listed])
    taken: dict[Platform | None, tuple[Digest, str]] = {}
    for place, descriptor in listed:
        if descriptor not in images:
            continue
        others = []
        for leaf in reader.leaves_of(descriptor):
            platform = normalize_platform(leaf.platform) if leaf.platform is not None else None
            digest, other = taken.setdefault(platform, (leaf.digest, place))
            if digest != leaf.digest:
                others.append(other)
        if others:
            yield place, others[0]
