"""The images of an archive of any kind, where a verification begins.

``index.json`` counts if there is one. Archives in docker's own form have no manifests, so manifests are made for them.
"""

from __future__ import annotations

from collections.abc import Collection

from ociexport.errors import InvalidImageError, NotFoundError, escaped, quoted
from ociexport.images.source import ImageSource
from ociexport.spec.descriptor import Descriptor
from ociexport.storage.archive.docker import (
    count_v1_images,
    docker_files,
    open_docker_image,
    open_v1_image,
)
from ociexport.storage.archive.file_names import DOCKER_MANIFEST_FILE, REPOSITORIES_FILE
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.reader import no_images_error
from ociexport.storage.layout.documents import INDEX_FILE
from ociexport.system.progress.protocol import Progress
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.stores import ArchiveStore, read_roots, verify_layout_file
from ociexport.verification.walk import Root


def read_archive_roots(
    members: ArchiveMembers, findings: Findings, progress: Progress, expected: Collection[str] = ()
) -> list[Root]:
    """Return the images of an archive, and report problems in its lists of images.

    Args:
        expected: names of files that a thin archive leaves out.

    Raises:
        InvalidImageError: it is not an archive of images.
    """
    is_dockers = DOCKER_MANIFEST_FILE in members
    if INDEX_FILE in members:
        store = ArchiveStore(members)
        verify_layout_file(store, findings)
        roots = read_roots(store, findings)
        if is_dockers:
            return _with_dockers(members, roots, findings, progress, expected)
        return roots
    if is_dockers:
        return _docker_roots(members, findings, progress)
    if REPOSITORIES_FILE in members:
        return _made_roots(members, findings, progress, count_v1_images(members), is_v1=True)
    raise no_images_error(members)


def _with_dockers(
    members: ArchiveMembers, roots: list[Root], findings: Findings, progress: Progress, expected: Collection[str]
) -> list[Root]:
    """Return the images of an archive that is both a layout and a docker archive.

    Docker writes indexes that reference manifests it did not save. Its own list has those it did save.
    """
    there = []
    for root in roots:
        digest = root.descriptor.digest
        if f"blobs/{digest.algorithm}/{digest.encoded}" in members:
            there.append(root)
        else:
            findings.add(
                Kind.ABSENT, f"{root.place}: manifest {digest}", "docker did not save it", is_wrong=False, digest=digest
            )
    if len(there) < len(roots):
        return there + _docker_roots(members, findings, progress)
    try:
        for number, files in enumerate(docker_files(members)):
            for file in dict.fromkeys(files):
                if file not in members and file not in expected:
                    findings.add(Kind.MISSING, f"{DOCKER_MANIFEST_FILE}: [{number}]: {quoted(file)}", "not there")
    except InvalidImageError as error:
        findings.add_error(error, DOCKER_MANIFEST_FILE, otherwise=Kind.DOCUMENT)
    return there


def _docker_roots(members: ArchiveMembers, findings: Findings, progress: Progress) -> list[Root]:
    try:
        count = len(docker_files(members))
    except InvalidImageError as error:
        findings.add_error(error, DOCKER_MANIFEST_FILE, otherwise=Kind.DOCUMENT)
        return []
    return _made_roots(members, findings, progress, count, is_v1=False)


def _made_roots(
    members: ArchiveMembers, findings: Findings, progress: Progress, count: int, *, is_v1: bool
) -> list[Root]:
    """Return the images for which manifests can be made, and report why the others cannot be read."""
    open_image = open_v1_image if is_v1 else open_docker_image
    roots = []
    for number in range(count):
        try:
            source: ImageSource = open_image(members, f"@{number}", progress)
        except NotFoundError as error:
            message = str(error).removeprefix(f"{members.place}: ")
            findings.add(Kind.MISSING, f"{REPOSITORIES_FILE if is_v1 else DOCKER_MANIFEST_FILE}: [{number}]", message)
        except InvalidImageError as error:
            where = error.where.removeprefix(members.place).removeprefix(": ")
            findings.add(Kind.DOCUMENT, escaped(where) or f"[{number}]", error.message)
        else:
            received = source.fetch_manifest()
            descriptor = Descriptor(received.media_type or "", received.digest, len(received.raw))
            roots.append(Root(source, descriptor, source.display_name.removeprefix(f"{members.place}:"), received.raw))
    return roots
