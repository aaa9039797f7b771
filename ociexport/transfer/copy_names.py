"""parse_copy_target(): from the text that users type for the place of a copy to what it means.

The words are those of sources: ``docker://REF``, ``oci:DIR[:NAME]``, ``ocidir://DIR[:TAG]``,
``oci-archive:FILE[:NAME]``, ``docker-archive:FILE[:REF]``, ``dir:DIR``, a path, or a reference.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from ociexport.errors import InvalidReferenceError, UsageError, quoted
from ociexport.images.source import ImageName
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import ImageReference, is_path
from ociexport.transfer.push_names import PushTarget, parse_target
from ociexport.transfer.sources.names import has_transport, is_s3_url, parse_remote_layout

_REGISTRY_PREFIX = "docker://"
_FORMATS: tuple[tuple[str, Literal["oci", "oci-archive", "docker-archive"]], ...] = (
    ("ocidir://", "oci"),
    ("oci:", "oci"),
    ("oci-archive:", "oci-archive"),
    ("docker-archive:", "docker-archive"),
)
_DIRECTORY_PREFIX = "dir:"
_REGISTRY_ALONE = re.compile(r"[^/]+:[0-9]+/?|localhost/?|[^/:@]+\.[^/:@]+/?")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A layout, an archive or a directory to copy into.

    Args:
        path: of it; ``-`` is standard output.
        kind: None where the path's name tells whether it is a layout or an archive.
        name: of the copy; None to keep the image's own.
    """

    path: str
    kind: Literal["oci", "oci-archive", "docker-archive", "dir"] | None
    name: ImageName | None


def parse_copy_target(text: str) -> PushTarget | FilePlace:
    """Return what ``text`` means as the place of a copy.

    Raises:
        UsageError: it is no place that can be written to.
    """
    if is_s3_url(text):
        layout = parse_remote_layout(text)
        if (layout.image or "").startswith("@"):
            raise UsageError(f"{quoted(text)}: expected a name for the copy, got a digest or a position")
        return FilePlace(layout.path, "oci", _names_of(layout.image) if layout.image is not None else None)
    for prefix, kind in _FORMATS:
        if text.startswith(prefix):
            path, name = _split_name(text.removeprefix(prefix))
            return FilePlace(_path_in(text, path), kind, name)
    if text.startswith(_DIRECTORY_PREFIX):
        return FilePlace(_path_in(text, text.removeprefix(_DIRECTORY_PREFIX)), "dir", None)
    if text == "-" or (is_path(text) and os.path.lexists(text)):
        return FilePlace(text, None, None)
    if is_path(text):
        path, name = _split_name(text)
        return FilePlace(path, None, name)
    reference = text.removeprefix(_REGISTRY_PREFIX)
    if has_transport(reference):
        raise UsageError(f"{quoted(text)}: expected a place to copy to, got a transport that can't be written to")
    if _REGISTRY_ALONE.fullmatch(reference):
        raise UsageError(
            f"{quoted(text)}: expected the name of an image, got a registry alone",
            hint=f"ociexport push keeps the images' own names; or {reference.rstrip('/')}/NAME:TAG",
        )
    parsed = ImageReference.parse(reference)
    if parsed.digest is not None:
        raise UsageError(f"{quoted(text)}: expected a name for the copy, got a digest, which it has anyway")
    return parse_target(str(parsed))


def _path_in(text: str, path: str) -> str:
    if not path:
        raise UsageError(f"{quoted(text)}: expected a path, got none")
    return path


def _split_name(text: str) -> tuple[str, ImageName | None]:
    """Return the path before the first colon, as skopeo reads it, and the names of the copy."""
    path, _, name = text.partition(":")
    return path, _names_of(name) if name else None


def _names_of(name: str) -> ImageName:
    """Return the names of a copy that the user calls ``name``."""
    if "/" not in name and ":" not in name:
        return ImageName(name, None)
    try:
        reference = ImageReference.parse(name)
    except InvalidReferenceError:
        return ImageName(name, None)
    return ImageName(reference.tag, str(reference))
