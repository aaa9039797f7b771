"""The files in several volumes of a set, read in place as if they were those of one archive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ociexport.spec.digest import ByteStream, Digest
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.bundle_volume import BundleVolume, VolumeRange
from ociexport.storage.layout.blobs import blob_name


class VolumeMembers(ArchiveMembers):
    """The files of several volumes as those of one archive, in which no blob is cut.

    Args:
        volumes: in order of their numbers; closed by the caller.
    """

    def __init__(self, volumes: Sequence[tuple[ArchiveMembers, BundleVolume]]) -> None:
        self.place, self.typed = volumes[0][0].place, volumes[0][0].typed
        self._each = [members for members, _ in volumes]
        ranges: dict[Digest, dict[int, tuple[ArchiveMembers, VolumeRange]]] = {}
        for members, volume in volumes:
            for one in volume.ranges:
                if one.file in members and members.size_of(one.file) == one.length:
                    ranges.setdefault(one.blob, {})[one.offset] = members, one
        self._cut = {blob_name(digest): _in_order(found.values()) for digest, found in ranges.items()}
        self._cut = {name: found for name, found in self._cut.items() if _is_whole(one for _, one in found)}

    def __contains__(self, name: str) -> bool:
        return name in self._cut or any(name in members for members in self._each)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, ranges included."""
        return tuple(dict.fromkeys([*(name for members in self._each for name in members.names), *self._cut]))

    def size_of(self, name: str) -> int:
        """Return a file's size."""
        return self._cut[name][-1][1].size if name in self._cut else self._holder_of(name).size_of(name)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a whole file; see `ArchiveMembers.read`."""
        return self._holder_of(name).read(name, max_bytes)

    def open_file(self, name: str, offset: int = 0) -> ByteStream:
        """Return a file's bytes from ``offset`` on; see `ArchiveMembers.open_file`."""
        if name in self._cut:
            return _JoinedStream(self._cut[name], offset)
        return self._holder_of(name).open_file(name, offset)

    def close(self) -> None:
        """Do nothing: the caller closes the volumes."""

    def _holder_of(self, name: str) -> ArchiveMembers:
        return next((members for members in self._each if name in members), self._each[0])


class _JoinedStream:
    """The bytes of a cut blob, range after range."""

    def __init__(self, ranges: Sequence[tuple[ArchiveMembers, VolumeRange]], offset: int) -> None:
        self._rest = [(members, one) for members, one in ranges if one.end > offset]
        self._offset = offset
        self._stream: ByteStream | None = None

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._stream is None:
                if not self._rest:
                    return b""
                members, one = self._rest.pop(0)
                self._stream = members.open_file(one.file, self._offset - one.offset)
            chunk = self._stream.read(size)
            if chunk or not size:
                self._offset += len(chunk)
                return chunk
            self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _in_order(
    ranges: Iterable[tuple[ArchiveMembers, VolumeRange]],
) -> list[tuple[ArchiveMembers, VolumeRange]]:
    return sorted(ranges, key=lambda found: found[1].offset)


def _is_whole(ranges: Iterable[VolumeRange]) -> bool:
    end, size = 0, -1
    for one in ranges:
        if one.offset != end or (size not in (-1, one.size)):
            return False
        end, size = one.end, one.size
    return end == size
