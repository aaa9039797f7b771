"""Checks that the names in ``index.json`` are valid and that each stands for one image.

Spec: image-spec 1.1 annotations.md, "org.opencontainers.image.ref.name"; containerd's ``images/annotations.go``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ociexport.errors import InvalidReferenceError, quoted
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.reference import ImageReference
from ociexport.storage.index import FULL_NAME_ANNOTATION, REF_NAME_ANNOTATION, name_of
from ociexport.verification.findings import Findings, Kind

_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


def verify_names(entries: Sequence[tuple[str, Descriptor]], findings: Findings) -> None:
    """Report invalid and ambiguous names of ``entries``, which are given with their places in ``index.json``."""
    for place, descriptor in entries:
        _verify_ref_name(place, descriptor, findings)
        _verify_full_name(place, descriptor, findings)
    _verify_unique(entries, findings)


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


def _verify_unique(entries: Sequence[tuple[str, Descriptor]], findings: Findings) -> None:
    """Report entries that share a name, unless they are for different platforms."""
    first: dict[str, tuple[str, Descriptor]] = {}
    for place, descriptor in entries:
        name = name_of(descriptor)
        shown = name.full or name.tag
        if shown is None:
            continue
        other_place, other = first.setdefault(shown, (place, descriptor))
        if other is descriptor or (other.digest != descriptor.digest and _differ_in_platform(other, descriptor)):
            continue
        is_wrong = other.digest != descriptor.digest
        what = "another image" if is_wrong else "the same image"
        findings.add(
            Kind.NAME, place, f"the name {quoted(shown)} already belongs to {what}, {other_place}", is_wrong=is_wrong
        )


def _differ_in_platform(one: Descriptor, other: Descriptor) -> bool:
    return one.platform is not None and other.platform is not None and one.platform != other.platform
