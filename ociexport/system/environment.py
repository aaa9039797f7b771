"""Where the user's own files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


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
