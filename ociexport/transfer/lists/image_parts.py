"""read_parts(): images that a mapping gives in parts, as in the values of Helm charts, custom resources and kustomize.

image: {registry: quay.io, repository: team/app, tag: "1"}     image: {name: quay.io/team/app, digest: sha256:…}
image: {name: "quay.io/team/app:1", entrypoint: [""]}
imageRepository: quay.io/team/app, imageTag: "1"               images: [{name: app, newName: quay.io/app, newTag: "2"}]
"""

from __future__ import annotations

import re

from ociexport.errors import InvalidReferenceError
from ociexport.spec.reference import ImageReference, names_registry
from ociexport.transfer.lists.entries import Findings
from ociexport.transfer.lists.nodes import Field

IMAGE_KEY = re.compile(r"images?(?:url|name|ref|reference|pullspec)?$|images?$", re.IGNORECASE)
_PART_KEY = re.compile(r"(.*image)[_-]?(registry|repository|repo|tag|version|digest)", re.IGNORECASE)
_NOTE = "in parts"


def read_parts(field: Field, findings: Findings, taken: set[str], *, says_image: bool) -> None:
    """Add the images that the members of ``field`` are parts of.

    Args:
        taken: gets the paths of the parts that are read.
        says_image: whether a key above the members does.
    """
    _read_mapping(field, findings, taken, says_image=says_image)
    _read_members(field, findings, taken)


def _read_mapping(field: Field, findings: Findings, taken: set[str], *, says_image: bool) -> None:
    parts = {name: part for name, part in field.members() if part.text}
    tag, digest = parts.get("newTag") or parts.get("tag"), parts.get("digest")
    repository = parts.get("repository")
    name = parts.get("name")
    is_whole = name is not None and name.text is not None and reads_like_image(name.text)
    if repository is None and says_image and (tag or digest or is_whole or "newName" in parts):
        repository = parts.get("newName") or name
    if repository is None or not (says_image or tag or digest):
        return
    taken |= {part.path for part in (repository, name, parts.get("registry"), tag, digest) if part}
    _add(field, [parts.get("registry"), repository, tag, digest], findings)


def _read_members(field: Field, findings: Findings, taken: set[str]) -> None:
    """Add the images whose parts are beside each other: ``webImage``, ``webImageTag``."""
    by_image: dict[str, dict[str, Field]] = {}
    for key, part in field.members():
        if (found := _PART_KEY.fullmatch(key)) is not None and part.text:
            by_image.setdefault(found[1], {})[found[2].lower()] = part
    for image, parts in by_image.items():
        own = next((one for name in (image, f"{image}Name") if (one := field.get(name)) is not None and one.text), None)
        repository = parts.get("repository") or parts.get("repo") or own
        taken |= {part.path for part in parts.values()}
        if repository is None:
            for part in parts.values():
                findings.warn(part, "left out: it is a part of an image, the image is not beside it")
            continue
        taken.add(repository.path)
        tag = parts.get("tag") or parts.get("version")
        _add(repository, [parts.get("registry"), repository, tag, parts.get("digest")], findings)


def _add(place: Field, parts: list[Field | None], findings: Findings) -> None:
    registry, repository, tag, digest = (part.text if part is not None else None for part in parts)
    name = f"{registry}/{repository}" if registry else repository or ""
    has_tag = ":" in name.rpartition("/")[2]
    text = f"{name}{f':{tag}' if tag and not has_tag else ''}{f'@{digest}' if digest and '@' not in name else ''}"
    if reads_like_image(text, may_be_bare=True):
        findings.image(place, text, is_sure=False, note=_NOTE)
    else:
        findings.warn(place, "left out: its parts are no reference")


def reads_like_image(text: str, *, may_be_bare: bool = False) -> bool:
    """Whether a text is a reference with a registry, a tag or a digest; of a key that says image, also a bare one."""
    try:
        ImageReference.parse(text)
    except InvalidReferenceError:
        return False
    return may_be_bare or names_registry(text) or "@" in text or ":" in text


def is_full_name(text: str) -> bool:
    """Whether a text is a reference with a registry, a path, and a tag or a digest, as few other texts are."""
    has_tag = ":" in text.rpartition("/")[2] or "@" in text
    return "/" in text and has_tag and names_registry(text) and reads_like_image(text)
