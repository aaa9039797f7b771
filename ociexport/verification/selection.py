"""Selection: which platforms of an image a verification follows."""

from __future__ import annotations

from collections.abc import Sequence

from ociexport.images.choose import PlatformChoice
from ociexport.images.resolve import DocumentReader
from ociexport.images.source import ImageSource
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.manifest import Index
from ociexport.spec.platforms import verify_not_contradicted


@dataclass(frozen=True, slots=True)
class Selection:
    """The platforms that a verification follows; an image for none of them is left out.

    Args:
        platforms: at least one.
    """

    platforms: tuple[Platform, ...]

    @classmethod
    def of(cls, wanted: Platform | PlatformChoice | None) -> Selection | None:
        """Return the selection of ``wanted``; None if everything is to be followed."""
        if isinstance(wanted, Platform):
            return cls((wanted,))
        return cls(wanted.platforms) if wanted is not None and wanted.platforms else None

    def entries_of(self, source: ImageSource, index: Index) -> Sequence[Descriptor]:
        """Return the entries of ``index``, a document of ``source``, to follow.

        Raises:
            NoMatchingPlatformError: the index has none for one of the platforms.
        """
        documents = DocumentReader(source)
        selected = [documents.select(index, platform) for platform in self.platforms]
        return list({entry.digest: entry for entry in selected}.values())

    def verify_takes(self, offered: Platform | None, where: str) -> None:
        """Return if an image without an index, whose config declares ``offered``, is to be followed.

        Raises:
            NoMatchingPlatformError: it is for another platform than the requested ones.
        """
        for platform in self.platforms:
            verify_not_contradicted(offered, platform, where)
