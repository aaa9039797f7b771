"""Advice on a layout's problems that no repair can solve."""

from __future__ import annotations

from collections.abc import Iterator

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.layout.documents import INDEX_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.verification.documents import digests_in
from ociexport.verification.findings import UNREFERENCED
from ociexport.verification.stores import LayoutStore, layout_blobs
from ociexport.verification.verify import Verification

_MAX_LISTED_MANIFESTS = 10


def advice_for(path: str, verification: Verification) -> Iterator[str]:
    """Yield what the user can do about problems that no repair can solve."""
    if not has_member(path, INDEX_FILE, "manifests"):
        there = [str(digest) for digest in _unnamed_manifests(path)]
        listed = ", ".join(there[:_MAX_LISTED_MANIFESTS]) + (", …" if len(there) > _MAX_LISTED_MANIFESTS else "")
        yield (
            f"{INDEX_FILE} can't be repaired, since nothing else records the images' names: move it away and pull the "
            f"images again into {path}, which fetches only missing blobs; manifests in the layout: {listed or 'none'}"
        )
    if any(finding.is_wrong and finding.message.endswith(UNREFERENCED) for finding in verification.findings):
        yield f"ociexport gc {path} removes unreferenced blobs"


def has_member(path: str, name: str, member: str) -> bool:
    """Whether ``oci-layout`` or ``index.json`` can be read and has its required member."""
    try:
        return member in parse_json_object(LayoutStore(ImageLayout(path)).read_file(name), where="").members
    except (NotFoundError, InvalidImageError):
        return False


def _unnamed_manifests(path: str) -> list[Digest]:
    """Return the manifests and indexes in a layout that no other document there references."""
    layout, found, named = ImageLayout(path), [], set()
    for entry in layout_blobs(layout.directory):
        if entry.digest is None or entry.status.st_size > MAX_MANIFEST_BYTES:
            continue
        try:
            with layout.open_file(entry.digest) as file:
                members = parse_json_object(file.read(MAX_MANIFEST_BYTES), where="").members
        except (NotFoundError, InvalidImageError, OSError):
            continue
        if "manifests" in members or "layers" in members:
            found.append(entry.digest)
            named |= {digest for digest, _ in digests_in(members)}
    return [digest for digest in found if digest not in named]
