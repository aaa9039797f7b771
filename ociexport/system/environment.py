"""What the environment says: where the user's own files are, and SOURCE_DATE_EPOCH.

Spec: reproducible-builds.org, "SOURCE_DATE_EPOCH specification".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ociexport.errors import UsageError, quoted
from ociexport.spec.numerals import number_in


def home_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the user's directory: ``HOME``, or what the system has for the user, or else the root.

    In a container, or as a service, a process may have a number that the system knows no user for, and no ``HOME``;
    docker gives such a one ``/``.
    """
    if home := environment.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def configuration_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the user keeps configurations.

    Spec: XDG Base Directory Specification, ``XDG_CONFIG_HOME``.
    """
    return Path(environment.get("XDG_CONFIG_HOME") or home_directory(environment) / ".config")


def source_date_epoch() -> int | None:
    """Return the seconds since 1970 that the environment asks for; None where it asks for none.

    Raises:
        UsageError: it is no number; the specification has such a build fail.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    # What a tar header without an extension holds is far enough in the future.
    seconds = number_in(text, 8**11 - 1)
    if seconds is None:
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {quoted(text)}")
    return seconds
