"""Stand-ins for the images in documents: debian, nginx, alpine and a company's signed ones, served on loopback.

Each is small, and contains busybox to be runnable. A registries.conf redirects the registries' names here.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.registry.server import LayoutServer
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from ociexport.storage.layout.layout import ImageLayout
from tests.support.image_builder import BuiltImage, build_attestation, build_image, build_index, write_layout
from tests.support.memory_source import Member, directory, member, symlink
from tests.support.signing import pem_of, signature_of, tag_of
from tests.support.system_parts import require

_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = pem_of(_KEY)
REGISTRIES = ("docker.io", "registry.example", "mirror.example")
_COMMANDS = ("sh", "cat", "echo", "id", "ls", "sleep", "stat", "true", "uname")
_OTHER = Platform("linux", "s390x")


Images: TypeAlias = Mapping[str, BuiltImage]


@contextmanager
def served_images(path: Path, images: Images) -> Iterator[str]:
    """Serve ``images``, by their full names, from a layout written to ``path``; yield ``host:port``."""
    write_layout(path, images)
    with LayoutServer(ImageLayout(str(path)), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.address
        finally:
            server.shutdown()
            thread.join()


def configuration_for(address: str) -> str:
    """Return a registries.conf that redirects each of `REGISTRIES` to ``address``."""
    return "".join(f'[[registry]]\nprefix = "{name}"\nlocation = "{address}"\ninsecure = true\n' for name in REGISTRIES)


def free_port() -> int:
    """Return a free port, for a server that a document starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stand_ins() -> Images:
    """Return the images by their full names; images in one row share layers."""
    debian, alpine = _base("Debian GNU/Linux", "12"), _published([_base("Alpine Linux", "3.20")])
    cleaned = [member("etc/.wh.obsolete"), symlink("etc/message", "motd")]
    app = [
        _published([debian, [member("srv/app", f"#!/bin/sh\necho app {version}\n".encode(), mode=0o755)]])
        for version in (1, 2)
    ]
    return {
        "docker.io/library/debian:12": _published([debian, cleaned]),
        "docker.io/library/nginx:latest": _published([debian, [member("srv/index.html", b"hello\n", mode=0o644)]]),
        "docker.io/library/alpine:latest": alpine,
        "docker.io/library/alpine:3.20": alpine,
        "registry.example/team/app:1": app[0],
        f"registry.example/team/app:{tag_of(app[0])}": signature_of(app[0], _KEY),
        "registry.example/team/app:2": app[1],
    }


def _base(name: str, version: str) -> list[Member]:
    """Return a root file system that runs on this machine, with the files that systemd-nspawn needs."""
    require("busybox")
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    return [
        *(directory(path) for path in ("bin", "dev", "etc", "proc", "root", "run", "srv", "sys", "usr", "var")),
        directory("tmp", mode=0o1777),
        member("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{command}", "busybox") for command in _COMMANDS),
        member("bin/bash", b'#!/bin/sh\nexec /bin/sh "$@"\n', mode=0o755),
        symlink("usr/bin", "../bin"),
        member("etc/os-release", f'NAME="{name}"\nVERSION_ID="{version}"\n'.encode(), mode=0o644),
        member("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n", mode=0o644),
        member("etc/group", b"root:x:0:\ndaemon:x:1:\n", mode=0o644),
        member("etc/motd", f"{name} {version}\n".encode(), mode=0o644),
        member("etc/obsolete", b"the next layer hides this\n", mode=0o644),
    ]


def _published(layers: list[list[Member]]) -> BuiltImage:
    """Return an index as BuildKit publishes it: two platforms, and an attestation of the first."""
    image = build_image(layers, platform=host_platform())
    return build_index([image, build_image(layers[:1], platform=_OTHER), build_attestation(image)])
