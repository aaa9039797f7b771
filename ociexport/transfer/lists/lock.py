"""Lock files: JSON lines, one an image, with the digests that the list's names led to.

The lines hold nothing that changes from one run to the next: the same images give the same bytes.
"""

from __future__ import annotations

import json
from functools import lru_cache

from ociexport.errors import InvalidImageError, OciexportError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.platforms import parse_platform
from ociexport.transfer.lists.entries import Findings, ListEntry
from ociexport.transfer.lists.locked import LOCK_VERSION, VERSION_KEY, LockedImage, LockedManifest
from ociexport.transfer.lists.nodes import Place
from ociexport.transfer.sources.names import parse_source_name


def is_lock_line(line: str) -> bool:
    """Whether a line is one of a lock file."""
    if not line.endswith("}") or f'"{VERSION_KEY}"' not in line:
        return False
    try:
        return VERSION_KEY in json.loads(line)
    except (ValueError, RecursionError):
        return False


def read_lock(text: str, place: Place, findings: Findings) -> None:
    """Add the images of a lock file.

    Raises:
        UsageError: a line is none of a lock file; it is named.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            locked = parse_lock_line(line)
            parse_source_name(locked.source)
        except OciexportError as error:
            raise UsageError(f"{place.at(number)}: expected a line of a lock file: {error}") from error
        findings.add(ListEntry(locked.source, (place.at(number),), True, locked.choice, None, locked))


def parse_lock_line(line: str) -> LockedImage:
    """Return what a line of a lock file says.

    Raises:
        UsageError, InvalidImageError, InvalidDigestError: it breaks the format.
    """
    item = parse_json_object(line.encode("utf-8", "surrogatepass"), where="")
    version = item.integer(VERSION_KEY)
    if version != LOCK_VERSION:
        raise UsageError(f"{VERSION_KEY}: expected {LOCK_VERSION}, got {version}")
    # A lock file of 10,000 images is in memory during the whole run: what is the same is there once.
    digests: dict[str, Digest] = {}
    manifests = tuple(_parse_manifest(one, digests) for one in item.objects("platforms"))
    requested = item.texts("requested")
    if not requested:
        raise InvalidImageError("expected a platform or 'all', got none", where="requested")
    name, source = item.text("name"), item.text("source")
    return LockedImage(
        name,
        name if source == name else source,
        _digest(item.text("digest"), digests),
        _digest(item.text("listed"), digests),
        _choice_of(requested),
        manifests,
        item.integer("size"),
        item.optional_text("created"),
        item.optional_text("time"),
    )


@lru_cache(maxsize=16)
def _choice_of(requested: tuple[str, ...]) -> PlatformChoice:
    return PlatformChoice() if requested == ("all",) else PlatformChoice(tuple(map(parse_platform, requested)))


def _digest(text: str, known: dict[str, Digest]) -> Digest:
    return known.get(text) or known.setdefault(text, Digest.parse(text))


def _parse_manifest(item: JsonObject, digests: dict[str, Digest]) -> LockedManifest:
    return LockedManifest(
        item.optional_text("platform"),
        _digest(item.text("digest"), digests),
        _digest(item.text("configDigest"), digests),
        item.integer("size"),
    )
