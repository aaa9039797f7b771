"""SavedUploads: the uploads of a layout's blobs that were begun, kept in the layout so that the next run goes on.

Each is a file in ``.ociexport/uploads`` that only this user can read, since the URL of an upload may let others write
to it. A layout may come from a stranger, so a file that is another user's, or that others may read, is ignored.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress

from ociexport.errors import InvalidImageError
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout_directory import LayoutDirectory

UPLOADS_DIRECTORY = f"{OWN_DIRECTORY}/uploads"
# A URL with a signed state has a few hundred characters.
_MAX_FILE_BYTES = 64 * 1024


class SavedUploads:
    """The URLs of uploads that were begun; several threads may call its methods.

    A layout that can't be written keeps none, which is no error: uploads then begin anew in each run.

    Args:
        path: of the layout.
        registry: host and port.
        repository: on that registry.
    """

    def __init__(self, path: str, registry: str, repository: str) -> None:
        self._directory = LayoutDirectory(path)
        self._registry = registry
        self._repository = repository

    def find(self, digest: Digest) -> str | None:
        """Return the URL of the upload of a blob that an earlier run began; None without one."""
        with suppress(OSError, InvalidImageError):
            with self._directory.open_file(self._name_of(digest)) as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    return None
                raw = file.read(_MAX_FILE_BYTES)
            saved = parse_json_object(raw, where="upload")
            if all(saved.text(name) == value for name, value in self._key_of(digest).items()):
                return saved.text("url")
        return None

    def write(self, digest: Digest, url: str) -> None:
        """Keep the URL of the upload of a blob, in place of an earlier one."""
        content = json.dumps({**self._key_of(digest), "url": url}).encode("ascii")
        with suppress(OSError, InvalidImageError):
            self._directory.make_directory(UPLOADS_DIRECTORY)
            self._directory.write_file(self._name_of(digest), content, aside=UPLOADS_DIRECTORY, mode=0o600)

    def remove(self, digest: Digest) -> None:
        """Forget the upload of a blob, and remove the directories if nothing is left in them."""
        with suppress(OSError, InvalidImageError):
            self._directory.remove(self._name_of(digest))
            self._directory.remove_directory(UPLOADS_DIRECTORY)
            self._directory.remove_directory(OWN_DIRECTORY)

    def _key_of(self, digest: Digest) -> dict[str, str]:
        return {"registry": self._registry, "repository": self._repository, "digest": str(digest)}

    def _name_of(self, digest: Digest) -> str:
        key = json.dumps(self._key_of(digest), sort_keys=True).encode("ascii")
        return f"{UPLOADS_DIRECTORY}/{Digest.of(key).encoded}"
