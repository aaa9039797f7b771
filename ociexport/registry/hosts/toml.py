"""TOML files of the user's, with the same checked access to their members as JSON has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ociexport.errors import InvalidImageError, UsageError
from ociexport.spec.json_fields import JsonObject


def read_toml(path: Path) -> JsonObject | None:
    """Return what the file at ``path`` says; None where there is no such file.

    Raises:
        UsageError: it is not TOML.
        OSError: it can't be read.
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
    """Turn the errors of members that are not as they should be into those of a file that the user wrote."""
    try:
        yield
    except InvalidImageError as error:
        raise UsageError(str(error)) from error
