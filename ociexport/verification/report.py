"""What a layout or an archive holds: images, platforms, sizes, signatures and SBOMs, and age.

1. Entries that are about another image are counted with that image, and are no images of their own.
2. The blobs of an image are all that it and they reach and that are stored, as `garbage` finds them.
3. Each stored blob is counted once: as unique to one image, as shared by several, or as unreferenced. So these three
   sums together are the bytes of the blobs as stored.

Documents are verified against their digests; layers are not read. `verify` reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime

from ociexport.errors import printable
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.manifest import Index
from ociexport.storage.bundle import Bundle
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.verification.contents import Contents, open_contents
from ociexport.verification.findings import Finding, Findings
from ociexport.verification.left_out import LeftOut, ToldContents, left_out_of, read_bundle_file, recipes_of
from ociexport.verification.listed import Companions, ListedEntry, follow_with_companions
from ociexport.verification.parts import AboutKind, Part, newest, parse_annotated, read_parts
from ociexport.verification.walk import Walk


@dataclass(frozen=True, slots=True)
class About:
    """A signature, an SBOM or another document about an image; it is there, and not checked.

    Args:
        digest: of its manifest.
        subject: the manifest or index that it is about; None if it does not say.
    """

    kind: AboutKind
    digest: Digest
    subject: Digest | None


@dataclass(frozen=True, slots=True)
class ReportedImage:
    """One image, which may have several names.

    Args:
        names: full names or tags; empty if it has none.
        media_type: of the manifest or index.
        parts: its platforms in the order of the index, or the only manifest.
        about: what is about it.
        created: the time of its newest platform; None if it does not tell.
        blobs: everything that it needs and that is stored.
        unique: bytes of those blobs that no other image needs.
        shared: bytes of the others.
        missing: blobs that it needs and that are not stored, with their sizes as declared.
        expected: blobs that it needs and that a ``bundle.json`` says are elsewhere, such as on the far side.
        absent: manifests that its index lists and that are not stored, as the specification allows.
    """

    names: tuple[str, ...]
    digest: Digest
    media_type: str
    parts: tuple[Part, ...]
    about: tuple[About, ...]
    created: datetime | None
    blobs: frozenset[Digest]
    unique: int
    shared: int
    missing: Mapping[Digest, int]
    expected: Mapping[Digest, LeftOut]
    absent: int

    @property
    def size(self) -> int:
        """Bytes of its blobs as stored."""
        return self.unique + self.shared

    @property
    def kind(self) -> str:
        """``image``, ``index`` or ``artifact``; ``unknown`` for what can't be read."""
        if self.media_type in mediatypes.INDEXES:
            return "index"
        if all(part.layers is None for part in self.parts):
            return "unknown"
        return "artifact" if all(part.artifact_type for part in self.parts) else "image"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that are stored, each once."""
        stored = (part.platform for part in self.parts if part.platform and part.layers is not None)
        return tuple(dict.fromkeys(stored))

    def count(self, *kinds: AboutKind) -> int:
        """Return how many documents about it are of these kinds."""
        return sum(one.kind in kinds for one in self.about)


@dataclass(frozen=True, slots=True)
class Report:
    """What a layout or an archive holds; the sums are explained in the module.

    Args:
        place: its name as typed.
        images: in the order of ``index.json``.
        stored: the size of each blob, as stored.
        unique: bytes of blobs that exactly one image needs.
        shared: bytes of blobs that several images need, each blob counted once.
        unreferenced: bytes of blobs that no image needs.
        unreferenced_blobs: how many these are.
        unfinished: the number of blobs that interrupted runs left beside, and their bytes.
        findings: what is wrong with documents.
        expected: blobs that images need and that a ``bundle.json`` says are elsewhere.
        is_told: whether all of this is only what a ``bundle.json`` says: neither the blobs nor the documents are here.
    """

    place: str
    images: tuple[ReportedImage, ...]
    stored: Mapping[Digest, int]
    unique: int
    shared: int
    unreferenced: int
    unreferenced_blobs: int
    unfinished: tuple[int, int]
    findings: tuple[Finding, ...]
    expected: Mapping[Digest, LeftOut]
    is_told: bool = False

    @property
    def size(self) -> int:
        """Bytes of all blobs as stored."""
        return self.unique + self.shared + self.unreferenced


def make_report(source: str, progress: Progress = SILENT) -> Report:
    """Return what the layout or archive called ``source`` holds, or what the ``bundle.json`` at this path says.

    Raises:
        as `open_contents` and `read_bundle_file`.
    """
    bundle = read_bundle_file(source)
    if bundle is not None:
        return _report_on_bundle(bundle, source)
    with closing(open_contents(source, progress)) as contents:
        return _report_on(contents)


@dataclass(frozen=True, slots=True)
class _Reached:
    """An image with what it reaches, stored or not."""

    entries: tuple[ListedEntry, ...]
    followed: tuple[ListedEntry, ...]
    walk: Walk
    reached: frozenset[Digest]

    def with_recipes(self, recipes: Mapping[Digest, Digest]) -> _Reached:
        """Return the image with the recipes of its layers, which it reaches too."""
        own = frozenset(recipe for layer, recipe in recipes.items() if layer in self.reached)
        return replace(self, reached=self.reached | own) if own else self


def _report_on(contents: Contents) -> Report:
    companions = Companions(contents.entries)
    by_digest: dict[Digest, list[ListedEntry]] = {}
    for entry in contents.entries:
        by_digest.setdefault(entry.descriptor.digest, []).append(entry)
    groups = list(by_digest.values())
    images = [group for group in groups if not all(entry.is_companion for entry in group)]
    found = [_reach(group, companions, contents.findings) for group in images]
    taken = {id(entry) for one in found for entry in one.followed}
    for group in groups:  # those about an image that is not here
        if not taken.intersection(map(id, group)):
            found.append(_reach(group, companions, contents.findings))
            taken.update(map(id, found[-1].followed))
    position = {id(entry): number for number, entry in enumerate(contents.entries)}
    found.sort(key=lambda one: position[id(one.entries[0])])
    stored = contents.stored if contents.stored is not None else _sizes_of(found)
    left_out = {one: what for one, what in left_out_of(contents.bundle).items() if one not in stored}
    recipes = recipes_of(contents.bundle)
    found = [one.with_recipes(recipes) for one in found]
    uses = Counter(digest for one in found for digest in one.reached if digest in stored)
    unreferenced = stored.keys() - uses.keys()
    needed = {digest for one in found for digest in one.reached}
    return Report(
        place=contents.place,
        images=tuple(_reported(one, stored, uses, left_out) for one in found),
        stored=stored,
        unique=sum(stored[digest] for digest, count in uses.items() if count == 1),
        shared=sum(stored[digest] for digest, count in uses.items() if count > 1),
        unreferenced=sum(stored[digest] for digest in unreferenced),
        unreferenced_blobs=len(unreferenced),
        unfinished=contents.unfinished,
        findings=tuple(finding for finding in contents.findings if finding.is_wrong),
        expected={digest: what for digest, what in left_out.items() if digest in needed},
    )


def _report_on_bundle(bundle: Bundle, place: str) -> Report:
    """Return a report that needs nothing but ``bundle.json``. It does not know times, and what a signature is about."""
    told = ToldContents(bundle)
    stored, uses = told.stored, told.uses()
    left_out = {one: what for one, what in left_out_of(bundle).items() if one not in stored}
    images = []
    for group in (*told.images, *told.others):
        first = group[0]
        reached = {digest for image in group for digest in told.reached_by(image)}
        blobs = frozenset(reached & stored.keys())
        images.append(
            ReportedImage(
                names=tuple(dict.fromkeys(image.name for image in group if image.name is not None)),
                digest=first.digest,
                media_type=told.media_type_of(first),
                parts=tuple(map(told.part_of, first.manifests)),
                about=(),
                created=None,
                blobs=blobs,
                unique=sum(stored[digest] for digest in blobs if uses[digest] == 1),
                shared=sum(stored[digest] for digest in blobs if uses[digest] > 1),
                missing={},
                expected={digest: what for digest, what in left_out.items() if digest in reached},
                absent=0,
            )
        )
    unreferenced = stored.keys() - uses.keys()
    return Report(
        place=place,
        images=tuple(images),
        stored=stored,
        unique=sum(stored[digest] for digest, count in uses.items() if count == 1),
        shared=sum(stored[digest] for digest, count in uses.items() if count > 1),
        unreferenced=sum(stored[digest] for digest in unreferenced),
        unreferenced_blobs=len(unreferenced),
        unfinished=(0, 0),
        findings=(),
        expected={digest: what for image in images for digest, what in image.expected.items()},
        is_told=True,
    )


def _reach(group: Sequence[ListedEntry], companions: Companions, findings: Findings) -> _Reached:
    walk = Walk(findings)
    followed = follow_with_companions(walk, group, companions)
    return _Reached(tuple(group), followed, walk, frozenset(walk.reached))


def _sizes_of(found: Iterable[_Reached]) -> dict[Digest, int]:
    """Return the sizes of the files in an archive in docker's own form; the manifests are made, not stored."""
    sizes: dict[Digest, int] = {}
    for one in found:
        made = {entry.descriptor.digest for entry in one.entries}
        sizes.update((digest, size) for digest, size in one.walk.documents.items() if digest not in made)
        sizes.update((digest, named[0].descriptor.size) for digest, named in one.walk.blobs.items())
    return sizes


def _reported(
    one: _Reached, stored: Mapping[Digest, int], uses: Mapping[Digest, int], left_out: Mapping[Digest, LeftOut]
) -> ReportedImage:
    entry = one.entries[0]
    all_parts = read_parts(entry)
    parts = tuple(part for part in all_parts if not part.about) or all_parts
    about = [part for part in all_parts if part.about and part not in parts]
    for companion in one.followed:
        if companion.descriptor.digest != entry.descriptor.digest:
            about += read_parts(companion)
    blobs = frozenset(digest for digest in one.reached if digest in stored)
    document = entry.document
    return ReportedImage(
        names=_names_of(one.entries),
        digest=entry.descriptor.digest,
        media_type=document.media_type if document is not None else entry.descriptor.media_type,
        parts=parts,
        about=tuple(dict.fromkeys(_abouts_of(about))),
        created=newest(part.created for part in parts) or parse_annotated(document),
        blobs=blobs,
        unique=sum(stored[digest] for digest in blobs if uses[digest] == 1),
        shared=sum(stored[digest] for digest in blobs if uses[digest] > 1),
        missing={digest: size for digest, size in _missing_of(one, stored).items() if digest not in left_out},
        expected={digest: what for digest, what in left_out.items() if digest in one.reached},
        absent=sum(part.layers is None and part.digest in one.walk.missing for part in parts)
        if isinstance(document, Index)
        else 0,
    )


def _names_of(entries: Iterable[ListedEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entry in entries if (name := entry.name.full or entry.name.tag)))


def _abouts_of(parts: Iterable[Part]) -> Iterable[About]:
    for part in parts:
        for kind in part.about or (AboutKind.OTHER,):
            yield About(kind, part.digest, part.subject)


def _missing_of(one: _Reached, stored: Mapping[Digest, int]) -> dict[Digest, int]:
    """Return the blobs without which the image can't be used, if they are not stored."""
    missing = {}
    for digest, references in one.walk.blobs.items():
        if digest not in stored and any(not named.may_be_absent for named in references):
            missing[digest] = references[0].descriptor.size
    own = {part.config: part for part in read_parts(one.entries[0])}
    for digest, named in one.walk.missing.items():
        # An entry of an index may be absent; a config, or the image's own manifest, may not.
        if digest in own or digest == one.entries[0].descriptor.digest:
            missing[digest] = named.descriptor.size
    return dict(sorted(missing.items(), key=lambda item: printable(str(item[0]))))
