"""Volumes of one set, one, some or all of them, verified as one archive.

1. Each volume is opened; one that can't be read is a problem, and counts as one that was not given.
2. The documents of the first volume are those of the set; the same documents in the others must match their digests.
3. A blob is in one volume, or its ranges are in several; every range must match the digest that its volume states. A
   blob whose volumes were not given is no problem: it is noted with their names.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import closing

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, counted, printable, quoted
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, Digest, Verifier
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.volume_members import VolumeMembers
from ociexport.storage.bundle import MAX_BUNDLE_BYTES, Bundle, BundleBlob, parse_bundle
from ociexport.storage.bundle_volume import BundleVolume, PlacedBlob, verify_one_set
from ociexport.storage.index import MAX_INDEX_BYTES
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import BUNDLE_FILE, INDEX_FILE, LAYOUT_FILE
from ociexport.system.progress.protocol import SILENT, Progress, ProgressTask, format_bytes
from ociexport.transfer.sources.names import ArchiveName, has_transport, parse_source_name
from ociexport.verification.findings import Findings, Kind


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """A volume that can be read."""

    members: ArchiveMembers
    bundle: Bundle
    volume: BundleVolume


@dataclass(frozen=True, slots=True)
class VolumesFound:
    """Which volumes of a set were verified.

    Args:
        given: their numbers.
        to_come: names of the others.
        whole: names of the images that need none of the others.
        images: how many images the set has.
        elsewhere: blobs that are in the others, or of which the others have ranges.
    """

    set_id: Digest
    count: int
    given: tuple[int, ...]
    to_come: tuple[str, ...]
    whole: tuple[str, ...]
    images: int
    elsewhere: tuple[Descriptor, ...]

    def __str__(self) -> str:
        """Return it as a part of a line."""
        if not self.to_come:
            text = f"all {counted(self.count, 'volume')}" if self.count > 1 else "the only volume"
        else:
            numbers = ", ".join(map(str, self.given))
            size = format_bytes(sum(blob.size for blob in self.elsewhere))
            text = f"volume{'' if len(self.given) == 1 else 's'} {numbers} of {self.count}, "
            need = "needs the others" if len(self.elsewhere) == 1 else "need the others"
            text += f"{counted(len(self.elsewhere), 'blob')} ({size}) {need}"
        return f"{text}: {len(self.whole)} of {counted(self.images, 'image')} whole"


def volume_path(source: str) -> str:
    """Return the path of one of several sources, which are archives: without ``./`` as well, for ``update.*.tar``.

    Raises:
        UsageError: it names no archive.
    """
    if not has_transport(source) and os.path.isfile(source):
        return source
    name = parse_source_name(source)
    if not isinstance(name, ArchiveName) or name.image is not None:
        raise UsageError(
            f"{quoted(source)}: expected a volume, since several sources are given, got something else",
            hint="several sources are verified together only if they are volumes of one set",
        )
    return name.path


def open_volumes(paths: Sequence[str], findings: Findings) -> list[OpenVolume]:
    """Return those of several volumes that can be read, in order of their numbers; the caller closes them.

    Raises:
        NotFoundError: one does not exist.
        UsageError: one is no volume, or they are of several sets.
    """
    volumes: list[OpenVolume] = []
    try:
        for path in paths:
            try:
                members = ArchiveMembers.open(path)
            except InvalidImageError as error:
                findings.add_error(error, printable(path))
                continue
            try:
                raw = members.read(BUNDLE_FILE, MAX_BUNDLE_BYTES) if BUNDLE_FILE in members else None
                bundle = parse_bundle(raw, where="") if raw is not None else None
            except InvalidImageError as error:
                members.close()
                place = f"{printable(path)}: {BUNDLE_FILE}"
                findings.add_error(error, f"{place}: {error.where}" if error.where else place, otherwise=Kind.DOCUMENT)
                continue
            if bundle is None or bundle.volume is None:
                members.close()
                raise UsageError(
                    f"{quoted(path)}: expected a volume, since several sources are given, got something else",
                    hint="several sources are verified together only if they are volumes of one set",
                )
            volumes.append(OpenVolume(members, bundle, bundle.volume))
        verify_one_set((one.members.place, one.volume) for one in volumes)
    except BaseException:
        for one in volumes:
            one.members.close()
        raise
    return sorted(volumes, key=lambda one: one.volume.number)


class VolumeSet:
    """The volumes of a set that can be read; at least one.

    Attributes:
        members: the files of all volumes, and each cut blob whose ranges are all there.
        bundle: what all volumes together contain, and expect to be elsewhere.
        elsewhere: by blob of a volume that was not given, a message that names it.
        places: by blob in one of several volumes, the volume's name; for a cut one, of the volume whose range is wrong.
    """

    def __init__(self, volumes: Sequence[OpenVolume]) -> None:
        self._volumes = volumes
        first = volumes[0]
        self._first = first
        self.members = VolumeMembers([(one.members, one.volume) for one in volumes])
        there = {blob.digest: blob for one in volumes for blob in one.bundle.blobs}
        absent = [blob for blob in first.volume.blobs if blob_name(blob.digest) not in self.members]
        needed = {
            blob.digest: self._missing_volumes(blob)
            for blob in absent
            # One that should be here is missing, and a problem.
            if any(number not in self.numbers for number in blob.volumes)
        }
        self._needed = needed
        self.elsewhere = {digest: _in(names) for digest, names in needed.items()}
        self.places: dict[Digest, str] = (
            {
                blob.digest: one.members.place
                for one in volumes
                for blob in one.bundle.blobs
                if blob.digest in self._placed
            }
            if len(volumes) > 1
            else {}
        )
        known = first.bundle.expected_digests
        self.bundle = replace(
            first.bundle,
            blobs=tuple(there.values()),
            expected=(
                *first.bundle.expected,
                *(
                    BundleBlob(blob.digest, blob.size, "")
                    for blob in absent
                    if blob.digest in needed and blob.digest not in known
                ),
            ),
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the volumes, each once."""
        return tuple(dict.fromkeys(one.volume.number for one in self._volumes))

    @property
    def _placed(self) -> Collection[Digest]:
        return {blob.digest for blob in self._first.volume.blobs}

    def _missing_volumes(self, blob: PlacedBlob) -> list[str]:
        return [self._name_of(number) for number in blob.volumes if number not in self.numbers]

    def _name_of(self, number: int) -> str:
        return self._first.volume.name_of(number, self._first.members.place)

    def found(self, lacking: Collection[Digest], findings: Findings) -> VolumesFound:
        """Return which volumes were verified, and note what each image needs of the others.

        Args:
            lacking: blobs that are missing or wrong, also those of the other volumes.
        """
        whole = []
        for image in self.bundle.images:
            name = image.name or f"@{image.digest}"
            layers = [digest for one in image.manifests for digest in (one.config, *one.layers)]
            if not any(digest in lacking for digest in layers):
                whole.append(name)
            names = sorted({name for digest in layers for name in self._needed.get(digest, ())})
            if names:
                message = f"needs {', '.join(map(printable, names))}"
                findings.add(Kind.ABSENT, printable(name), message, is_wrong=False, digest=image.digest)
        count = self._first.volume.count
        to_come = tuple(self._name_of(number) for number in range(1, count + 1) if number not in self.numbers)
        return VolumesFound(
            set_id=self._first.volume.set_id,
            count=count,
            given=self.numbers,
            to_come=to_come,
            whole=tuple(whole),
            images=len(self.bundle.images),
            elsewhere=tuple(
                Descriptor("", blob.digest, blob.size)
                for blob in self._first.volume.blobs
                if blob.digest in self.elsewhere
            ),
        )

    def verify_each(self, findings: Findings, progress: Progress) -> None:
        """Report ranges that are wrong, and documents that differ from those of the first volume."""
        parts = [(one, part) for one in self._volumes for part in one.volume.ranges]
        with progress.phase("verifying", sum(part.length for _, part in parts)):
            for one, part in parts:
                content = Descriptor("", part.digest, part.length)
                title = f"blob {part.blob.short} from {format_bytes(part.offset)} on"
                with progress.task(title, part.length, digest=part.blob) as task:
                    if not self._is_right(one, part.file, content, findings, task):
                        self.places[part.blob] = one.members.place
        for one in self._volumes[1:]:
            self._verify_documents(one, findings)

    def _verify_documents(self, one: OpenVolume, findings: Findings) -> None:
        place = printable(one.members.place)
        for name in (LAYOUT_FILE, INDEX_FILE):
            if _read(one.members, name) != _read(self._first.members, name):
                findings.add(Kind.LAYOUT, f"{place}: {name}", f"differs from that in {self._first.members.place}")
        if _common(one.bundle) != _common(self._first.bundle) or one.volume.blobs != self._first.volume.blobs:
            message = f"differs from that in {self._first.members.place}"
            findings.add(Kind.DOCUMENT, f"{place}: {BUNDLE_FILE}", message)
        for blob in (*one.bundle.documents, *one.bundle.blobs):
            if blob.digest not in self._placed:
                content = Descriptor("", blob.digest, blob.size)
                self._is_right(one, blob_name(blob.digest), content, findings, SILENT)

    @staticmethod
    def _is_right(one: OpenVolume, name: str, content: Descriptor, findings: Findings, task: ProgressTask) -> bool:
        """Whether a file of a volume has the size and digest of ``content``; if not, that is reported."""
        try:
            _verify_file(one.members, name, content, task)
        except (NotFoundError, InvalidImageError, OSError) as error:
            findings.add_error(error, f"{printable(one.members.place)}: {name}", digest=content.digest)
            return False
        return True

    def close(self) -> None:
        """Close the volumes."""
        for one in self._volumes:
            one.members.close()


def _in(names: Sequence[str]) -> str:
    are = "which was not given" if len(names) == 1 else "which were not given"
    return f"in {', '.join(map(printable, names))}, {are}"


def _common(bundle: Bundle) -> Bundle:
    """Return what all volumes of a set have in common."""
    return replace(bundle, blobs=(), volume=None)


def _read(members: ArchiveMembers, name: str) -> bytes | None:
    try:
        return members.read(name, MAX_INDEX_BYTES)
    except (NotFoundError, InvalidImageError, OSError):
        return None


def _verify_file(members: ArchiveMembers, name: str, content: Descriptor, task: ProgressTask) -> None:
    """Return if a file of a volume has the size and digest of ``content``.

    Raises:
        NotFoundError, InvalidImageError, OSError: it has not, or can't be read.
    """
    verifier = Verifier(content.digest, content.size, subject="")
    with closing(members.open_file(name)) as file:
        while chunk := file.read(CHUNK_BYTES):
            verifier.update(chunk)
            task.advance(len(chunk))
    verifier.verify()
