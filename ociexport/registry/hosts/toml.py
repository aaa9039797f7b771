"""The user's TOML files, with the same checked access to members as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ociexport.errors import InvalidImageError, UsageError
from ociexport.spec.json_fields import JsonObject


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
    import tomllib  # noqa: PLC0415 - start-up: most machines have no such file

    try:
        return JsonObject(tomllib.loads(raw.decode("utf-8")), str(path))
    except ValueError as error:
        raise UsageError(f"{path}: expected TOML: {error}") from error


@contextmanager
def wrong_file_is_usage() -> Iterator[None]:
    """Turn an InvalidImageError about a member into a UsageError: the user wrote this file."""
    try:
        yield
    except InvalidImageError as error:
        raise UsageError(str(error)) from error
