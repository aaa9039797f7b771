"""Environment variables: the directories of the user's own files, and SOURCE_DATE_EPOCH.

Spec: reproducible-builds.org, "SOURCE_DATE_EPOCH specification".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ociexport.errors import UsageError, quoted
from ociexport.spec.numerals import number_in

# The largest time that fits a tar header without an extension.
_MAX_EPOCH = 8**11 - 1


def home_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the user's home directory: ``HOME``, or the system's entry for the user, or ``/``.

    In a container or a service, a process may have a uid without a user, and no ``HOME``; docker uses ``/`` then.
    """
    if home := environment.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def configuration_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of the user's configuration files.

    Spec: XDG Base Directory Specification, ``XDG_CONFIG_HOME``.
    """
    return Path(environment.get("XDG_CONFIG_HOME") or home_directory(environment) / ".config")


def source_date_epoch() -> int | None:
    """Return the value of ``SOURCE_DATE_EPOCH``, in seconds since 1970; None if it is not set or empty.

    Raises:
        UsageError: it is not a number; the specification requires the build to fail then.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    seconds = number_in(text, _MAX_EPOCH)
    if seconds is None:
        limit = f", at most {_MAX_EPOCH}" if text.isdecimal() else ""
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970{limit}, got {quoted(text)}")
    return seconds
