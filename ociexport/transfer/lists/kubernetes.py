"""Kubernetes objects: the images in PodSpecs are sure, what reads like an image elsewhere is a maybe.

Spec: Kubernetes API reference, PodSpec v1 core, ImageVolumeSource v1 core; operator-sdk, "relatedImages".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress

from ociexport.errors import UsageError, printable
from ociexport.spec.lazy_dataclass import replace
from ociexport.transfer.lists.entries import Findings
from ociexport.transfer.lists.image_parts import IMAGE_KEY, is_full_name, read_parts, reads_like_image
from ociexport.transfer.lists.nodes import Field
from ociexport.transfer.lists.yaml_nodes import parse_yaml

# Where each kind of Kubernetes' own API has its PodSpec.
_POD_TEMPLATE = ("spec", "template", "spec")
_POD_SPECS: dict[str, tuple[str, ...]] = {
    "Pod": ("spec",),
    "PodTemplate": ("template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    **dict.fromkeys(
        ("Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job", "DeploymentConfig"),
        _POD_TEMPLATE,
    ),
}
# The groups of Kubernetes' own API that have PodSpecs, and OpenShift's; `v1` has no group.
_POD_GROUPS = frozenset({"", "apps", "batch", "extensions", "apps.openshift.io"})
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
# Keys beside an image that name something else about it.
_NOT_IMAGES = frozenset({"imagePullPolicy", "imagePullSecrets", "imagePullSecret"})
_TEMPLATE = re.compile(r"\{\{|\$\(|\$\{|###")
_ARGUMENT = re.compile(r"--?([A-Za-z0-9.-]+)=(\S+)")
# A line of YAML in a text, as ConfigMaps have it.
_IN_TEXT = re.compile(r"""^[ \t-]*["']?image["']?:[ \t]+["']?([^\s"',#]+)""", re.MULTILINE)
_ALIAS = re.compile(r"\*\w")
_SAYS_IMAGE = re.compile(r"image", re.IGNORECASE)


def is_kubernetes(document: Field) -> bool:
    """Whether the document is an object of Kubernetes' API or of one that extends it."""
    return bool(document.get_text("apiVersion") and document.get_text("kind"))


def read_kubernetes(document: Field, findings: Findings) -> None:
    """Add the images of an object, or of all objects of a ``List``."""
    kind = document.get_text("kind") or ""
    items = document.get("items")
    if kind.endswith("List") and items is not None and items.is_list:
        for item in items.elements():
            # The items of a PodList have no kind of their own.
            _read_object(item, item.get_text("kind") or kind.removesuffix("List"), document, findings)
        return
    _read_object(document, kind, document, findings)


def _read_object(item: Field, kind: str, document: Field, findings: Findings) -> None:
    version = item.get_text("apiVersion") or document.get_text("apiVersion") or ""
    if kind.endswith("List") and item.get("items") is not None:
        read_kubernetes(item, findings)
        return
    group = version.rpartition("/")[0]
    item = _titled(item, kind)
    taken: set[str] = set()
    way = _POD_SPECS.get(kind) if group in _POD_GROUPS else None
    if way is not None:
        spec = _follow(item, way)
        if spec is None:
            findings.warn(item, f"expected a pod at {'.'.join(way)}, there is none")
        else:
            _read_pod(spec, findings, taken)
    read_maybes(item, findings, taken, is_own=way is not None)


def _titled(item: Field, kind: str) -> Field:
    metadata = item.get("metadata")
    name = metadata.get_text("name") or metadata.get_text("generateName") if metadata is not None else None
    return replace(item, document=replace(item.document, title=f"{kind} {name}" if name else kind))


def _follow(field: Field, way: tuple[str, ...]) -> Field | None:
    found: Field | None = field
    for key in way:
        found = found.get(key) if found is not None else None
    return found


def _read_pod(spec: Field, findings: Findings, taken: set[str]) -> None:
    for key in _CONTAINERS:
        for container in findings.elements(spec.get(key)):
            image = container.get("image")
            if image is None:
                findings.warn(container, "expected an image, there is none")
            else:
                _sure(image, findings, taken)
    for volume in findings.elements(spec.get("volumes")):
        image = volume.get("image")
        if image is None:
            continue
        taken.add(image.path)
        reference = image.get("reference")
        if reference is None:
            findings.warn(image, "expected the reference of an image, there is none")
        else:
            _sure(reference, findings, taken, note="a volume")


def _sure(image: Field, findings: Findings, taken: set[str], note: str = "") -> None:
    taken.add(image.path)
    if image.text is not None and _TEMPLATE.search(image.text):
        findings.warn(image, f"left out: it is a template, expected what it makes: {printable(image.text)}")
    else:
        findings.image(image, note=note)


def read_maybes(
    item: Field, findings: Findings, taken: Collection[str] = (), *, is_own: bool = False, is_text: bool = False
) -> None:
    """Add what reads like an image in a custom resource, in environment variables and in arguments.

    Args:
        taken: paths of the values that were read before.
        is_own: whether the object is one whose fields for images are known; other keys then say nothing.
        is_text: whether it is what a text holds; of a text in a text, only lines are read.
    """
    seen = set(taken)
    for key, field, parent, is_in_images in _walk(item, "", item, seen):
        text = field.text
        if text is None:
            if not is_own and field.is_mapping:
                read_parts(field, findings, seen, says_image=is_in_images or IMAGE_KEY.search(key) is not None)
            continue
        says_image = not is_own and IMAGE_KEY.search(key) is not None and key not in _NOT_IMAGES
        variable = parent.get_text("name") if key == "value" else None
        if "\n" in text:
            _read_text(field, text, findings, parses=not is_text)
        elif _TEMPLATE.search(text):
            if says_image:
                findings.warn(field, f"left out: it is a template, expected what it makes: {printable(text)}")
        elif variable is not None and _SAYS_IMAGE.search(variable) and reads_like_image(text):
            findings.image(field, is_sure=False, note=f"the variable {printable(variable)}")
        elif (argument := _in_argument(text)) is not None:
            findings.image(field, argument, is_sure=False, note="an argument")
        elif says_image and reads_like_image(text, may_be_bare=True):
            findings.image(field, is_sure=False)
        elif says_image:
            findings.warn(field, "left out: its key says image, its value is no reference")
        elif not is_own and is_in_images and is_full_name(text):
            findings.image(field, is_sure=False)


def _read_text(field: Field, text: str, findings: Findings, *, parses: bool) -> None:
    """Add what reads like an image in a text of several lines: YAML, as ConfigMaps and charts' values are, or not."""
    named = [found[1] for found in _IN_TEXT.finditer(text) if reads_like_image(found[1], may_be_bare=True)]
    # Aliases could make each of many texts as large as a whole list may be.
    if parses and _SAYS_IMAGE.search(text) and not _ALIAS.search(text):
        inner = Findings()
        with suppress(UsageError):  # it is no YAML
            for node in parse_yaml(text, field.document, []):
                read_maybes(Field(field.document, "", node), inner, is_text=True)
        named += [entry.image for entry in inner.entries]
    for image in dict.fromkeys(named):
        findings.image(field, image, is_sure=False, note="in a text")


def _in_argument(text: str) -> str | None:
    """Return the image that ``--option=image`` names; of an option that does not say image, only a full name."""
    found = _ARGUMENT.match(text)
    if found is None:
        return None
    is_image = reads_like_image(found[2]) if _SAYS_IMAGE.search(found[1]) else is_full_name(found[2])
    return found[2] if is_image else None


def _walk(
    field: Field, key: str, parent: Field, taken: Collection[str], *, is_in_images: bool = False
) -> Iterator[tuple[str, Field, Field, bool]]:
    """Yield every value from ``field`` down that was not read: its key, which lists pass on, and its parent.

    The last member is whether a key above says image.
    """
    if field.path and field.path in taken:
        return
    yield key, field, parent, is_in_images
    below = is_in_images or IMAGE_KEY.search(key) is not None
    for name, member in field.members():
        yield from _walk(member, name, field, taken, is_in_images=below)
    for element in field.elements():
        yield from _walk(element, key, field, taken, is_in_images=below)
