"""The user's TOML files, with the same checked access to members as JSON."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ociexport.errors import InvalidImageError, UsageError
from ociexport.spec.json_fields import JsonObject
from ociexport.system.ownership import owns_process
from ociexport.system.stand_ins import annotations_unread, standing_in


def read_toml(path: Path) -> JsonObject | None:
    """Return the content of the file at ``path``; None if there is no such file.

    Raises:
        UsageError: the file is not TOML.
        OSError: the file can't be read.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return JsonObject(_parsed(raw), str(path))
    except ValueError as error:
        raise UsageError(f"{path}: expected TOML: {error}") from error


@lru_cache(maxsize=32)
def _parsed(raw: bytes) -> dict[str, object]:
    """Return the content of a file; a command reads the same files twice, and parsing takes longer than reading."""
    content: dict[str, object] = _tomllib().loads(raw.decode("utf-8"))
    return content


def _tomllib() -> ModuleType:
    """Return `tomllib`, which is imported when first used: most machines have no such file."""
    if not owns_process() or "tomllib" in sys.modules:
        return importlib.import_module("tomllib")
    # `datetime` defines its classes in Python first, and then replaces them by these.
    with annotations_unread(), standing_in({"datetime": importlib.import_module("_datetime")}):
        return importlib.import_module("tomllib")


@contextmanager
def wrong_file_is_usage() -> Iterator[None]:
    """Turn an InvalidImageError about a member into a UsageError: the user wrote this file."""
    try:
        yield
    except InvalidImageError as error:
        raise UsageError(str(error)) from error
