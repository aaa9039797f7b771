"""ImageList: what a list names, and Findings: where the reader of each format puts what it finds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ociexport.errors import InvalidReferenceError, UsageError, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.platforms import parse_platform
from ociexport.spec.reference import ImageReference, is_path
from ociexport.transfer.lists.locked import LockedImage
from ociexport.transfer.lists.nodes import Field
from ociexport.transfer.lists.selection import TagSelection
from ociexport.transfer.sources.names import has_transport

# skopeo's, crane's and our word for all platforms.
ALL_PLATFORMS = "all"


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One image of a list, or the tags of one repository.

    Args:
        image: a source as users type it; without a tag if ``selection`` chooses tags.
        why: the places of the list that name it, each with file, line, document and path.
        is_sure: whether the format says that it is an image; else its value only reads like one.
        platforms: those that the list asks for; None if it asks for none.
        selection: the tags that are taken of a repository; None for one image.
        locked: what a lock file recorded; None in any other list.
    """

    image: str
    why: tuple[str, ...]
    is_sure: bool = True
    platforms: PlatformChoice | None = None
    selection: TagSelection | None = None
    locked: LockedImage | None = None


@dataclass(frozen=True, slots=True)
class ImageList:
    """The images of one list, in its order, each once.

    Args:
        file: the list's name in messages.
        formats: what the content was found to be.
        warnings: a line for each part that was not understood.
    """

    file: str
    formats: tuple[str, ...]
    entries: tuple[ListEntry, ...]
    warnings: tuple[str, ...]

    @property
    def sure(self) -> tuple[ListEntry, ...]:
        """The entries that are images, without those that only read like one."""
        return tuple(entry for entry in self.entries if entry.is_sure)

    @property
    def maybes(self) -> tuple[ListEntry, ...]:
        """The entries that only read like an image."""
        return tuple(entry for entry in self.entries if not entry.is_sure)


class Findings:
    """Collects entries, each image once, and warnings."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], ListEntry] = {}
        self.formats: dict[str, None] = {}
        self.warnings: list[str] = []

    @property
    def entries(self) -> tuple[ListEntry, ...]:
        """The entries so far, in order."""
        return tuple(self._entries.values())

    def add(self, entry: ListEntry) -> None:
        """Add an entry; one for the same image only adds its reasons, and a sure one makes a maybe sure."""
        locked = entry.locked.listed if entry.locked is not None else None
        key = (_normalized(entry), entry.platforms, entry.selection, locked)
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = entry
        else:
            why = tuple(dict.fromkeys((*known.why, *entry.why)))
            self._entries[key] = replace(known, why=why, is_sure=known.is_sure or entry.is_sure)

    def image(
        self,
        field: Field,
        text: str | None = None,
        *,
        platforms: PlatformChoice | None = None,
        selection: TagSelection | None = None,
        is_sure: bool = True,
        note: str = "",
    ) -> None:
        """Add the image that ``field`` names; warn if its text is no reference.

        Args:
            text: the reference, if it is not the field's own text.
            note: said after the place.
        """
        text = field.text if text is None else text
        if text is None:
            self.warn(field, f"expected an image, got {field.kind}, left out")
            return
        try:
            reference = ImageReference.parse(text.removeprefix("docker://"))
        except InvalidReferenceError as error:
            self.warn(field, f"left out: {error}")
            return
        # A reference such as oci:1 would otherwise be read as a transport and a path.
        image = str(reference) if has_transport(text) or is_path(text) else text
        why = f"{field.place}: {note}" if note else field.place
        self.add(ListEntry(image, (why,), is_sure, platforms, selection))

    def warn(self, field: Field, message: str) -> None:
        """Add a warning that names the place."""
        self.warnings.append(f"{field.place}: {message}")

    def name_unknown(self, field: Field, known: Collection[str], what: str = "not understood, ignored") -> None:
        """Warn of each member of ``field`` that is not in ``known``; ``x-`` begins extensions, as in compose."""
        for key, member in field.members():
            if key not in known and not key.startswith("x-"):
                self.warn(member, what)

    def elements(self, field: Field | None) -> Iterator[Field]:
        """Yield the elements of a list; warn if it is something else. Nothing for a missing field."""
        if field is not None and not field.is_list:
            self.warn(field, f"expected a list, got {field.kind}, ignored")
        elif field is not None:
            yield from field.elements()

    def members(self, field: Field | None, *, nulls: bool = False) -> Iterator[tuple[str, Field]]:
        """Yield the members of a mapping; warn if it is something else. Nothing for a missing field."""
        if field is not None and not field.is_mapping:
            self.warn(field, f"expected a mapping, got {field.kind}, ignored")
        elif field is not None:
            yield from field.members(nulls=nulls)

    def platforms(self, *fields: Field | None) -> PlatformChoice | None:
        """Return the platforms that the fields name, each a text or a list of texts; None if they name none."""
        words: list[Field] = []
        for field in fields:
            if field is not None:
                words += field.elements() if field.is_list else [field]
        try:
            return choice_of([word.text or "" for word in words])
        except UsageError as error:
            self.warn(words[0], f"ignored: {error}")
            return None

    def selection(self, field: Field, **conditions: object) -> TagSelection | None:
        """Return a selection; warn and return None if a condition is invalid."""
        try:
            return TagSelection(**conditions)  # type: ignore[arg-type] # its callers name the members
        except UsageError as error:
            self.warn(field, f"left out: {error}")
            return None


def each_image_once(entries: Iterable[ListEntry], default: PlatformChoice | None = None) -> list[ListEntry]:
    """Return the entries with those for one image as one, which asks for the platforms of each.

    Two services of a compose file may run one image on two platforms, and a layout has one place for its name.

    Args:
        entries: of single images. What a lock file recorded stays apart.
        default: what an entry takes that asks for no platform; None leaves it apart.
    """
    found: dict[str | int, ListEntry] = {}
    for number, entry in enumerate(entries):
        key = _normalized(entry) if entry.locked is None else number
        known = found.get(key)
        if known is None:
            found[key] = entry
            continue
        first, second = known.platforms or default, entry.platforms or default
        if first is None or second is None:
            found[number] = entry
        else:
            why = tuple(dict.fromkeys((*known.why, *entry.why)))
            found[key] = replace(known, why=why, platforms=_both(first, second))
    return list(found.values())


def _both(first: PlatformChoice, second: PlatformChoice) -> PlatformChoice:
    if first.takes_all or second.takes_all:
        return PlatformChoice()
    names = dict.fromkeys((*first.platforms, *second.platforms))
    return PlatformChoice(tuple(names), keeps_index=first.keeps_index or second.keeps_index)


def choice_of(words: Collection[str]) -> PlatformChoice | None:
    """Return the platforms in ``words``, some of which may be apart by commas; None for no words.

    Raises:
        UsageError: one is invalid.
    """
    names = [name for word in words for name in word.split(",")]
    if not names:
        return None
    if ALL_PLATFORMS in names:
        if set(names) != {ALL_PLATFORMS}:
            raise UsageError(f"platform: expected no other platform beside 'all', got {quoted(','.join(names))}")
        return PlatformChoice()
    return PlatformChoice(tuple(dict.fromkeys(map(parse_platform, names))))


def _normalized(entry: ListEntry) -> str:
    if is_path(entry.image) or has_transport(entry.image):
        return entry.image
    try:
        return str(ImageReference.parse(entry.image))
    except InvalidReferenceError:
        return entry.image
