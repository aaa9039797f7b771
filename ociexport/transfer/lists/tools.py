"""The lists of other tools that name images in fields of their own: hauler, imgpkg, oc-mirror, zarf, regsync, skopeo.

One function a format. Each names the fields that it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable

from ociexport.spec.reference import names_registry
from ociexport.transfer.lists.entries import Findings
from ociexport.transfer.lists.nodes import Field
from ociexport.transfer.lists.selection import TagSelection

_HEAD = frozenset({"apiVersion", "kind", "metadata"})
_HAULER_PREFIX = "hauler.dev/"
_HAULER_REGISTRY, _HAULER_PLATFORM = "hauler.dev/registry", "hauler.dev/platform"
_NO_IMAGES = "holds no images that ociexport reads, ignored"


def read_hauler(document: Field, findings: Findings) -> None:
    """Add the images of hauler's ``Images``; annotations give those a registry and a platform that name none.

    Spec: hauler ``pkg/apis/hauler.cattle.io/v1/image.go``, ``cmd/hauler/cli/store/sync.go``.
    """
    if document.get_text("kind") not in ("Images", "ImageTxts"):
        findings.warn(document, f"kind {document.get_text('kind')} {_NO_IMAGES}")
        return
    findings.name_unknown(document, {*_HEAD, "spec"})
    spec = document.get("spec")
    if spec is None:
        return
    findings.name_unknown(spec, {"images"})
    annotations = _hauler_annotations(document, findings)
    registry, default = annotations.get(_HAULER_REGISTRY), findings.platforms(annotations.get(_HAULER_PLATFORM))
    for image in findings.elements(spec.get("images")):
        name = image.get("name")
        # Keys and identities of signatures are of `hauler store sync`; --verify-key is ours.
        findings.name_unknown(image, {"name", "platform"}, "not understood, ignored: hauler's own option of one image")
        if name is None:
            findings.warn(image, "expected a mapping with the name of an image, left out")
        else:
            platforms = findings.platforms(image.get("platform")) or default
            needs_registry = name.text is not None and not names_registry(name.text)
            text = f"{registry.text}/{name.text}" if registry is not None and registry.text and needs_registry else None
            findings.image(name, text, platforms=platforms)


def _hauler_annotations(document: Field, findings: Findings) -> dict[str, Field]:
    """Return the annotations that say something of all images; warn of hauler's others."""
    metadata = document.get("metadata")
    annotations = metadata.get("annotations") if metadata is not None else None
    found = {key: member for key, member in findings.members(annotations) if key.startswith(_HAULER_PREFIX)}
    for key, member in found.items():
        if key not in (_HAULER_REGISTRY, _HAULER_PLATFORM):
            findings.warn(member, "not understood, ignored: hauler's own option of all images")
    return found


def read_images_lock(document: Field, findings: Findings) -> None:
    """Add the images of imgpkg's ``ImagesLock``, or the bundle of its ``BundleLock``.

    Spec: carvel.dev/imgpkg/docs, "Resources".
    """
    findings.name_unknown(document, {*_HEAD, "images", "bundle"})
    for image in findings.elements(document.get("images")):
        findings.name_unknown(image, {"image", "annotations", "imageType"})
        findings.image(image.get("image") or image)
    bundle = document.get("bundle")
    if bundle is not None:
        findings.name_unknown(bundle, {"image", "tag"})
        findings.image(bundle.get("image") or bundle)


def read_image_set(document: Field, findings: Findings) -> None:
    """Add the ``additionalImages`` of oc-mirror's ``ImageSetConfiguration``.

    Spec: oc-mirror ``pkg/api/v2alpha1/types_config.go``.
    """
    findings.name_unknown(document, {*_HEAD, "mirror", "archiveSize", "storageConfig"})
    mirror = document.get("mirror")
    if mirror is None:
        return
    findings.name_unknown(mirror, {"additionalImages", "blockedImages"}, f"{_NO_IMAGES}: only oc-mirror can resolve it")
    blocked = {_repository(entry.get("name") or entry) for entry in findings.elements(mirror.get("blockedImages"))}
    for image in findings.elements(mirror.get("additionalImages")):
        findings.name_unknown(image, {"name"})
        name = image.get("name") or image
        if name.text is not None and _repository(name) in blocked:
            findings.warn(name, "left out: it is in blockedImages")
        else:
            findings.image(name)


def _repository(field: Field) -> str | None:
    return field.text.partition("@")[0] if field.text is not None else None


def read_zarf(document: Field, findings: Findings) -> None:
    """Add the images of the components of a zarf package.

    Spec: zarf ``src/api/v1alpha1/component.go``, ``src/api/v1beta1/component.go``; docs.zarf.dev, "The package schema".
    """
    known = {*_HEAD, "build", "component", "components", "constants", "documentation", "variables", "values"}
    findings.name_unknown(document, known)
    platform = None
    metadata = document.get("metadata")
    if metadata is not None and metadata.get_text("architecture") not in (None, "multi"):
        platform = findings.platforms(metadata.get("architecture"))
    single = document.get("component")
    for component in [*([single] if single is not None else []), *findings.elements(document.get("components"))]:
        only = component.get("only")
        cluster = only.get("cluster") if only is not None else component.get("target")  # that of v1beta1
        architecture = cluster.get("architecture") if cluster is not None else None
        platforms = findings.platforms(architecture) if architecture is not None else platform
        for one in findings.elements(component.get("images")):
            image = one.get("name") or one  # v1beta1 has a mapping
            if one.get_text("source") not in (None, "registry"):
                findings.warn(one, "left out: zarf takes it from no registry")
            elif image.text is not None and "###ZARF_" in image.text:
                findings.warn(image, "left out: zarf replaces a variable in it")
            else:
                findings.image(image, platforms=platforms)
        for key in ("import", "imageArchives", "repos", "repositories", "charts", "manifests", "files"):
            member = component.get(key)
            if member is not None:
                findings.warn(member, "ignored: what it leads to may name more images")


def read_regsync(document: Field, findings: Findings) -> None:
    """Add the sources of regsync's ``sync``; a repository's tags are chosen by ``tags.allow`` and ``tags.deny``.

    ``tagSets`` has several of these. Spec: regclient docs, "regsync"; patterns match a whole tag.
    """
    findings.name_unknown(document, {"version", "creds", "defaults", "sync"})
    for step in findings.elements(document.get("sync")):
        source, kind = step.get("source"), step.get_text("type")
        if source is None:
            findings.warn(step, "expected a source, there is none, left out")
            continue
        if kind not in ("image", "repository"):
            findings.warn(
                source, f"left out: only a source of type image or repository is read, this is {kind or 'of no type'}"
            )
            continue
        findings.name_unknown(
            step,
            {
                "source",
                "target",
                "type",
                "tags",
                "tagSets",
                "platform",
                "platforms",
                "schedule",
                "interval",
                "backup",
                "ratelimit",
            },
        )
        platforms = findings.platforms(step.get("platform"), step.get("platforms"))
        if kind == "image":
            findings.image(source, platforms=platforms)
            continue
        # Each set of conditions takes tags of its own.
        sets = [*([tags] if (tags := step.get("tags")) is not None else []), *findings.elements(step.get("tagSets"))]
        for selection in (_tags_of(one, findings) for one in sets) if sets else (TagSelection(),):
            if selection is not None:
                findings.image(source, platforms=platforms, selection=selection)


def _tags_of(tags: Field, findings: Findings) -> TagSelection | None:
    findings.name_unknown(tags, {"allow", "deny", "semverRange"})
    allowed, denied = (_whole(findings, tags.get(key)) for key in ("allow", "deny"))
    semver = " || ".join(one.text or "" for one in findings.elements(tags.get("semverRange"))) or None
    return findings.selection(tags, allowed=allowed, denied=denied, semver=semver)


def _whole(findings: Findings, field: Field | None) -> tuple[str, ...]:
    return tuple(rf"^(?:{pattern.text})$" for pattern in findings.elements(field) if pattern.text is not None)


def read_skopeo_sync(document: Field, findings: Findings) -> None:
    """Add the images of skopeo's YAML for ``sync``: by tag, by digest, all tags, by pattern, and by version.

    Spec: skopeo-sync(1), "YAML file content"; patterns match anywhere in a tag.
    """
    for registry, settings in findings.members(document):
        if not settings.is_mapping:
            findings.warn(settings, f"expected a mapping, got {settings.kind}, ignored")
            continue
        findings.name_unknown(
            settings,
            {"images", "images-by-tag-regex", "images-by-semver"},
            "ignored: how a registry is reached is set by options, see ociexport help credentials",
        )
        for repository, tags in findings.members(settings.get("images"), nulls=True):
            name = f"{registry}/{repository}"
            if tags.node.value in (None, []):
                findings.image(tags, name, selection=TagSelection())
                continue
            for tag in findings.elements(tags):
                separator = "@" if tag.text is not None and ":" in tag.text else ":"
                findings.image(tag, f"{name}{separator}{tag.text}" if tag.text is not None else None)
        for key in ("images-by-tag-regex", "images-by-semver"):
            for repository, condition in findings.members(settings.get(key), nulls=True):
                text = condition.text
                if text is None:
                    findings.warn(condition, f"expected a text, got {condition.kind}, left out")
                    continue
                conditions = {"semver": text} if key.endswith("semver") else {"allowed": (text,)}
                selection = findings.selection(condition, **conditions)
                if selection is not None:
                    findings.image(condition, f"{registry}/{repository}", selection=selection)


def is_skopeo_sync(document: Field) -> bool:
    """Whether the document is a list of registries as skopeo's YAML has them."""
    known = {"images", "images-by-tag-regex", "images-by-semver"}
    return any(any(member.get(key) is not None for key in known) for _, member in document.members())


# By the group in ``apiVersion``.
READERS_BY_GROUP: dict[str, tuple[str, Callable[[Field, Findings], None]]] = {
    "content.hauler.cattle.io": ("hauler", read_hauler),
    "imgpkg.carvel.dev": ("imgpkg lock", read_images_lock),
    "mirror.openshift.io": ("oc-mirror image set", read_image_set),
    "zarf.dev": ("zarf package", read_zarf),
}
ZARF_KINDS = frozenset({"ZarfPackageConfig", "ZarfInitConfig", "ZarfComponentConfig"})
