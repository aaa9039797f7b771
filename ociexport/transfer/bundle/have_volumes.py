"""read_haves(): several HAVEs, among which the volumes of one set count as one update: cut blobs are had, too."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from io import FileIO

from ociexport.errors import InvalidImageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.holdings import Holdings
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.volume_members import VolumeMembers
from ociexport.storage.bundle import MAX_BUNDLE_BYTES, parse_bundle
from ociexport.storage.bundle_volume import BundleVolume
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.system.content import LOOKED_AT_BYTES, is_meant_as_tar
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.contents import ArchiveContents
from ociexport.transfer.bundle.have import Opener, holdings_of, read_have, say_holdings
from ociexport.transfer.sources.names import has_transport


def read_haves(
    texts: Sequence[str],
    opener: Opener,
    choice: PlatformChoice | Platform,
    progress: Progress,
    *,
    to_prove: Collection[Digest] = (),
) -> tuple[Holdings, ...]:
    """Return what the far side has, as all of ``texts`` tell; raises as `read_have`."""
    found: list[Holdings] = []
    sets: dict[Digest, list[tuple[str, ArchiveMembers, BundleVolume]]] = {}
    with ExitStack() as stack:
        for text in texts:
            opened = _open_volume(text)
            if opened is None:
                found.append(read_have(text, opener, choice, progress, to_prove=to_prove))
            else:
                members, volume = opened
                stack.enter_context(closing(members))
                sets.setdefault(volume.set_id, []).append((text, members, volume))
        for volumes in sets.values():
            volumes.sort(key=lambda one: one[2].number)
            name = os.path.basename(volumes[0][0])
            united = VolumeMembers([(members, volume) for _, members, volume in volumes])
            holdings = holdings_of(ArchiveContents(united), name, to_prove)
            say_holdings(" and ".join(text for text, _, _ in volumes), holdings, progress)
            found.append(holdings)
    return tuple(found)


def _open_volume(text: str) -> tuple[ArchiveMembers, BundleVolume] | None:
    """Return the volume that ``text`` names; None for anything else, also a damaged one: `read_have` tells why."""
    if has_transport(text) or not os.path.isfile(text):
        return None
    with FileIO(text) as file:
        if not is_meant_as_tar(os.pread(file.fileno(), LOOKED_AT_BYTES, 0)):
            return None
    try:
        members = ArchiveMembers.open(text)
    except InvalidImageError:
        return None
    try:
        if BUNDLE_FILE in members:
            volume = parse_bundle(members.read(BUNDLE_FILE, MAX_BUNDLE_BYTES), where="").volume
            if volume is not None:
                return members, volume
    except InvalidImageError:
        pass
    members.close()
    return None
