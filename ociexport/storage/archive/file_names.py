"""The names of the files that list images in a docker archive, and so show that it is one."""

from __future__ import annotations

DOCKER_MANIFEST_FILE = "manifest.json"
# docker before 1.10 wrote only this one.
REPOSITORIES_FILE = "repositories"
