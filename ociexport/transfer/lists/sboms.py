"""SBOMs: the images that a CycloneDX or SPDX document names by package URLs.

Spec: purl-spec types/oci-definition and types/docker-definition; CycloneDX 1.6; SPDX 2.3 and 3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote

from ociexport.errors import InvalidDigestError, UsageError, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.spec.digest import Digest
from ociexport.transfer.lists.entries import Findings, choice_of
from ociexport.transfer.lists.nodes import Field, Node, Place

# Spec: SPDX 2.3, 7.21 "External reference field".
_PURL_TAG = re.compile(r"ExternalRef:\s*PACKAGE[-_]MANAGER\s+purl\s+(\S+)")
_OCI, _DOCKER = "pkg:oci/", "pkg:docker/"
_QUALIFIERS = frozenset({"repository_url", "tag", "arch", "os", "platform", "variant", "mediatype", "mediaType"})


def is_cyclonedx(document: Field) -> bool:
    """Whether the document is a CycloneDX BOM."""
    return document.get_text("bomFormat") == "CycloneDX"


def is_spdx(document: Field) -> bool:
    """Whether the document is an SPDX document, of version 2 or 3."""
    context = document.get("@context")
    contexts = [context, *context.elements()] if context is not None else []
    return document.get("spdxVersion") is not None or any("spdx.org" in (one.text or "") for one in contexts)


def read_cyclonedx(document: Field, findings: Findings) -> None:
    """Add the images among the components, those within components and the main one included."""
    metadata = document.get("metadata")
    main = metadata.get("component") if metadata is not None else None
    for component in [*([main] if main is not None else []), *findings.elements(document.get("components"))]:
        for one in _components(component):
            purl = one.get("purl")
            if purl is not None and is_image_purl(purl.text):
                _add(purl, findings)
            elif one.get_text("type") == "container":
                # Scanners give the image that they looked into by its name alone.
                _add_container(one, findings)


def _components(component: Field) -> Iterator[Field]:
    yield component
    for child in component.list_of("components"):
        yield from _components(child)


def _add_container(component: Field, findings: Findings) -> None:
    name, version = component.get_text("name"), component.get_text("version")
    if name is None:
        findings.warn(component, "a container without a name and without a package URL, left out")
        return
    has_tag = ":" in name.rpartition("/")[2] or "@" in name
    separator = "@" if version is not None and ":" in version else ":"
    text = name if version is None or has_tag else f"{name}{separator}{version}"
    findings.image(component, text, is_sure=False, note="a container without a package URL")


def read_spdx(document: Field, findings: Findings) -> None:
    """Add the images among the packages."""
    for package in findings.elements(document.get("packages")):
        found = False
        for reference in findings.elements(package.get("externalRefs")):
            locator = reference.get("referenceLocator")
            if locator is not None and is_image_purl(locator.text):
                _add(locator, findings)
                found = True
        if not found and package.get_text("primaryPackagePurpose") == "CONTAINER":
            name = package.get("name")
            if name is None:
                findings.warn(package, "a container without a name and without a package URL, left out")
            else:
                version = package.get_text("versionInfo")
                separator = "@" if version is not None and ":" in version else ":"
                has_tag = ":" in (name.text or "").rpartition("/")[2]
                text = f"{name.text}{separator}{version}" if version and not has_tag else name.text
                findings.image(name, text, is_sure=False, note="a container without a package URL")
    for element in document.list_of("@graph"):  # SPDX 3
        for url in (
            element.get("software_packageUrl"),
            *(one.get("identifier") for one in findings.elements(element.get("externalIdentifier"))),
        ):
            if url is not None and is_image_purl(url.text):
                _add(url, findings)


def read_spdx_tags(text: str, place: Place, findings: Findings) -> None:
    """Add the images among the packages of an SPDX document in the form of tags and values."""
    for number, line in enumerate(text.splitlines(), 1):
        found = _PURL_TAG.match(line)
        if found is not None and is_image_purl(found[1]):
            _add(Field(place, "ExternalRef", Node(found[1], number)), findings)


def is_image_purl(text: str | None) -> bool:
    """Whether a package URL is one of an image."""
    return text is not None and text.startswith((_OCI, _DOCKER))


def _add(purl: Field, findings: Findings) -> None:
    try:
        text, platforms, unknown = parse_image_purl(purl.text or "")
    except UsageError as error:
        findings.warn(purl, f"left out: {error}")
        return
    if unknown:
        findings.warn(purl, f"qualifier {', '.join(map(quoted, unknown))} is not understood, ignored")
    findings.image(purl, text, platforms=platforms)


def parse_image_purl(purl: str) -> tuple[str, PlatformChoice | None, list[str]]:
    """Return the reference that a package URL of an image means, the platform, and the qualifiers not understood.

    >>> parse_image_purl("pkg:oci/app@sha256%3A" + "0" * 64 + "?repository_url=ghcr.io/team/app&tag=1")[0][:21]
    'ghcr.io/team/app:1@sh'

    Raises:
        UsageError: it names no digest and no tag, or no repository.
    """
    kind = _OCI if purl.startswith(_OCI) else _DOCKER
    path, _, query = purl.removeprefix(kind).partition("#")[0].partition("?")
    name, _, version = path.rpartition("@") if "@" in path else (path, "", "")
    name, version = unquote(name).strip("/"), unquote(version)
    try:
        fields = parse_qs(query, max_num_fields=100)
    except ValueError as error:
        raise UsageError(f"package URL {quoted(purl)}: {error}") from error
    qualifiers = {key: values[-1] for key, values in fields.items()}
    url = qualifiers.get("repository_url", "").removeprefix("https://").removeprefix("http://").strip("/")
    tag = qualifiers.get("tag", "")
    if kind == _OCI:
        if not url:
            raise UsageError(f"package URL {quoted(purl)}: expected a repository_url, there is none")
        # The URL is the whole repository; some tools give the registry only.
        repository = url if url.rpartition("/")[2] == name.rpartition("/")[2] else f"{url}/{name}"
    else:
        repository = f"{url}/{name}" if url else name
    digest = ""
    if version.partition(":")[0] in ("sha256", "sha512"):
        try:
            digest = f"@{Digest.parse(version)}"
        except InvalidDigestError as error:
            raise UsageError(f"package URL {quoted(purl)}: {error}") from error
    elif version:
        tag = tag or version
    if not digest and not tag:
        raise UsageError(f"package URL {quoted(purl)}: expected a digest or a tag, there is neither")
    platform = qualifiers.get("platform") or _platform_of(qualifiers)
    unknown = sorted(qualifiers.keys() - _QUALIFIERS)
    return f"{repository}{f':{tag}' if tag else ''}{digest}", choice_of([platform]) if platform else None, unknown


def _platform_of(qualifiers: dict[str, str]) -> str | None:
    architecture = qualifiers.get("arch")
    if architecture is None:
        return None
    variant = qualifiers.get("variant")
    return f"{qualifiers.get('os', 'linux')}/{architecture}" + (f"/{variant}" if variant else "")
