"""Short names for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from ociexport.registry.hosts.registries_conf import parse_image

CONF = """
unqualified-search-registries = ["registry.fedoraproject.org"]
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
"ubi9/python" = "registry.access.redhat.com/ubi9/python"
"gone" = ""
"""


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("fedora", "registry.fedoraproject.org/fedora:latest"),
        ("fedora:40", "registry.fedoraproject.org/fedora:40"),
        ("fedora@sha256:" + 64 * "0", "registry.fedoraproject.org/fedora@sha256:" + 64 * "0"),
        ("ubi9/python:1", "registry.access.redhat.com/ubi9/python:1"),
        ("gone", "docker.io/library/gone:latest"),
        ("alpine", "docker.io/library/alpine:latest"),
        ("docker.io/fedora", "docker.io/library/fedora:latest"),
        ("localhost/fedora", "localhost/fedora:latest"),
    ],
)
def test_aliases_stand_for_names_with_no_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, image: str
) -> None:
    """containers-registries.conf(5), "Short-name aliases"; other names are on Docker Hub, as with docker."""
    path = tmp_path / "registries.conf"
    path.write_text(CONF)
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    assert str(parse_image(text)) == image
