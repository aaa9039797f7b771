"""A whole layout or archive: its images, and the files that hold their blobs.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from ociexport.errors import InvalidImageError, UsageError, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import as_path
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.bundle import Bundle
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import BUNDLE_FILE, INDEX_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.sources.names import ArchiveName, LayoutName, has_transport, parse_source_name
from ociexport.verification.archives import read_archive_roots
from ociexport.verification.bundles import read_bundle
from ociexport.verification.findings import Findings
from ociexport.verification.left_out import left_out_of
from ociexport.verification.listed import ListedEntry
from ociexport.verification.stores import ArchiveStore, LayoutStore, layout_blobs, read_roots


@dataclass(frozen=True, slots=True)
class Contents:
    """What a layout or an archive holds.

    Args:
        place: its name, as the user typed it.
        entries: its images, and the entries about them.
        stored: the size of each blob, as stored; None for an archive in docker's own form, which does not name its
            files by digests.
        unfinished: the number of blobs that interrupted runs left, and their bytes.
        findings: what is wrong with the list of images.
        bundle: its ``bundle.json``; None if it has none.
    """

    place: str
    entries: tuple[ListedEntry, ...]
    stored: Mapping[Digest, int] | None
    unfinished: tuple[int, int]
    findings: Findings
    bundle: Bundle | None = None
    _members: ArchiveMembers | None = None

    def close(self) -> None:
        """Close the archive, if it is one."""
        if self._members is not None:
            self._members.close()


def open_contents(source: str, progress: Progress) -> Contents:
    """Return the contents of the layout or archive that ``source`` names; the caller closes them.

    Raises:
        UsageError: it is not the name of a whole layout or archive.
        NotFoundError: it does not exist.
        InvalidImageError: it is not a layout or archive of images.
    """
    # No image is meant: what is there is a path without ./ too, as `merge`, `prune` and `gc` take it.
    is_there = not has_transport(source) and os.path.lexists(source)
    name = parse_source_name(as_path(source) if is_there else source)
    if not isinstance(name, LayoutName | ArchiveName) or name.image is not None:
        raise UsageError(
            f"{quoted(source)}: expected a whole layout or archive, got an image",
            hint="for example ./layout or ./images.tar",
        )
    if isinstance(name, LayoutName):
        return _layout_contents(name.path)
    return _archive_contents(name.path, progress)


def _layout_contents(path: str) -> Contents:
    layout = ImageLayout(path)
    layout.read_images()
    findings = Findings()
    store = LayoutStore(layout)
    bundle = read_bundle(store, findings)
    roots = read_roots(store, findings)
    # A link is no blob: nothing follows it.
    stored = {
        entry.digest: entry.status.st_size
        for entry in layout_blobs(layout.directory)
        if entry.digest is not None and not entry.is_link
    }
    sizes: list[int] = []
    with suppress(InvalidImageError):  # something else has the name of their directory
        sizes = [status.st_size for _, status in layout.partial_files() if stat.S_ISREG(status.st_mode)]
    return Contents(path, tuple(map(ListedEntry.of, roots)), stored, (len(sizes), sum(sizes)), findings, bundle)


def _archive_contents(path: str, progress: Progress) -> Contents:
    members = ArchiveMembers.open(path)
    try:
        findings = Findings()
        bundle = read_bundle(ArchiveStore(members), findings) if BUNDLE_FILE in members else None
        expected = frozenset(map(blob_name, left_out_of(bundle)))
        entries = tuple(map(ListedEntry.of, read_archive_roots(members, findings, progress, expected)))
        stored = None
        if INDEX_FILE in members:
            digests = ArchiveStore(members).list_blobs(Findings())
            stored = {digest: members.size_of(name) for digest in digests if (name := blob_name(digest)) in members}
        place = "standard input" if path == "-" else path
        return Contents(place, entries, stored, (0, 0), findings, bundle, members)
    except BaseException:
        members.close()
        raise
