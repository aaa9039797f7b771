"""FallbackReferrers: the list of referrers under a tag, which clients keep where the registry has no referrers API.

Spec: distribution-spec 1.1, "Pushing Manifests with Subject", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError
from ociexport.images.companions import referrers_tag
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest, parse_document

_SUBJECT_HEADER = "OCI-Subject"


class _Place(Protocol):
    def fetch(self, selector: str) -> ReceivedManifest | None: ...

    def put(self, manifest: ReceivedManifest, selector: str) -> None: ...

    def has_referrers_api(self, digest: Digest) -> bool: ...


class FallbackReferrers:
    """Adds manifests with a subject to the list under the subject's tag, for a registry without the API.

    Args:
        place: the repository.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._has_api: bool | None = None

    def note_answer(self, headers: Mapping[str, str]) -> None:
        """Learn from the answer to a manifest with a subject that the registry keeps the list itself."""
        if _SUBJECT_HEADER in headers:
            self._has_api = True

    def add(self, manifest: ReceivedManifest) -> None:
        """List a stored manifest under its subject's tag, if it has a subject and the registry keeps no list."""
        try:
            document = parse_document(manifest.raw, manifest.media_type, manifest.digest)
        except UnsupportedMediaTypeError:
            return
        if document.subject is None:
            return
        subject = document.subject.digest
        if self._has_api is None:
            self._has_api = self._place.has_referrers_api(subject)
        if self._has_api:
            return
        tag = referrers_tag(subject)
        received = self._place.fetch(tag)
        entries = _entries_of(received, tag)
        if any(entry.get("digest") == str(manifest.digest) for entry in entries):
            return
        listed = Descriptor(
            document.media_type,
            manifest.digest,
            len(manifest.raw),
            annotations=document.annotations,
            artifact_type=_artifact_type_of(document),
        )
        entries.append(listed.to_json())
        index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}
        raw = json.dumps(index, separators=(",", ":")).encode("ascii")
        self._place.put(ReceivedManifest(raw, mediatypes.OCI_INDEX, Digest.of(raw)), tag)


def _entries_of(received: ReceivedManifest | None, tag: str) -> list[dict[str, Any]]:
    """Return the entries of the list, all members unchanged.

    Raises:
        InvalidImageError: the tag leads to something else.
    """
    if received is None:
        return []
    if not isinstance(parse_document(received.raw, received.media_type, received.digest), Index):
        raise InvalidImageError("expected the list of referrers, which is an index, got a manifest", where=tag)
    entries: list[dict[str, Any]] = json.loads(received.raw).get("manifests") or []
    return entries


def _artifact_type_of(document: Index | Manifest) -> str | None:
    """Spec: distribution-spec 1.1, "Listing Referrers": the config's type where there is no artifact type."""
    config_type = document.config.media_type if isinstance(document, Manifest) else None
    return document.artifact_type or config_type
