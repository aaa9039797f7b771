"""What makes the old names work after a push: mapping.txt, and the configurations of podman, containerd and k3s.

Each configuration makes the new registry a mirror of the old one. A configuration can't change a tag, and containerd's
can't change a path: an image that would need that is left out, and named.

Spec: containers-registries.conf(5); containerd's docs/hosts.md; docs.k3s.io, "Private Registry Configuration".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.transfer.push_list import ImageToPush
from ociexport.transfer.push_names import reference_of

MAPPING_FILE = "mapping.txt"
PROGRAMS = ("podman", "containerd", "k3s")


@dataclass(frozen=True, slots=True)
class MirrorServer:
    """The registry that images were pushed to.

    Args:
        registry: host and port, as in names.
        url: without a path.
        is_insecure: whether its certificate was not verified.
    """

    registry: str
    url: str
    is_insecure: bool

    @property
    def is_plain(self) -> bool:
        """Whether it speaks http."""
        return self.url.startswith("http://")


class Renamed(NamedTuple):
    """An image that was pushed: its name before, its name there, and its digest."""

    image: ImageToPush
    digest: Digest


class _Move(NamedTuple):
    """A repository and where it went."""

    registry: str
    repository: str
    to: str


def mapping_text(pushed: Iterable[Renamed]) -> str:
    """Return ``mapping.txt``: a line ``SRC=DST@digest`` for each image."""
    lines = (f"{one.image.full_name}={one.image.destination.with_digest(one.digest)}\n" for one in pushed)
    return "".join(dict.fromkeys(lines))


def configurations(program: str, pushed: Sequence[Renamed], server: MirrorServer) -> tuple[dict[str, str], list[str]]:
    """Return the files for a program, by their names, and the images whose old names will not work with them."""
    moves, left_out = _moves_of(pushed)
    if program == "podman":
        return {"registries.conf": _registries_conf(moves, server)}, left_out
    if program == "k3s":
        return {"registries.yaml": _registries_yaml(moves, server)}, left_out
    files = {}
    for registry in dict.fromkeys(move.registry for move in moves):
        of_registry = [move for move in moves if move.registry == registry]
        root = _common_root(of_registry)
        if root is None:
            left_out += [f"{move.registry}/{move.repository}" for move in of_registry]
        else:
            files[f"certs.d/{registry}/hosts.toml"] = _hosts_toml(root, server)
    return files, left_out


def _moves_of(pushed: Sequence[Renamed]) -> tuple[list[_Move], list[str]]:
    """Return where repositories went, and the images that a configuration can't express."""
    moves: dict[tuple[str, str], _Move] = {}
    left_out = []
    for one in pushed:
        there = one.image.destination
        before = reference_of(one.image.name)
        if before is None or before.tag != there.tag:
            left_out.append(one.image.full_name)
            continue
        move = _Move(before.registry, before.repository, there.repository)
        if moves.setdefault((before.registry, before.repository), move) != move:
            left_out.append(one.image.full_name)
    return list(moves.values()), left_out


def _common_root(moves: Sequence[_Move]) -> str | None:
    """Return the path below which all repositories kept their own; None if some did not."""
    roots = {move.to.removesuffix(move.repository) if move.to.endswith(move.repository) else None for move in moves}
    root = roots.pop()
    if roots or root is None or (root and not root.endswith("/")):
        return None
    return root.rstrip("/")


def _registries_conf(moves: Sequence[_Move], server: MirrorServer) -> str:
    return "\n".join(_registries_conf_entries(moves, server))


def _registries_conf_entries(moves: Sequence[_Move], server: MirrorServer) -> Iterator[str]:
    for move in moves:
        name = f"{move.registry}/{move.repository}"
        yield "[[registry]]"
        yield f"prefix = {json.dumps(name)}"
        yield f"location = {json.dumps(name)}"
        yield "[[registry.mirror]]"
        yield f"location = {json.dumps(f'{server.registry}/{move.to}')}"
        if server.is_plain or server.is_insecure:
            yield "insecure = true"
        yield ""


def _hosts_toml(root: str, server: MirrorServer) -> str:
    url = f"{server.url}/v2/{root}" if root else server.url
    lines = [f"[host.{json.dumps(url)}]", '  capabilities = ["pull", "resolve"]']
    if root:
        lines.append("  override_path = true")
    if server.is_insecure and not server.is_plain:
        lines.append("  skip_verify = true")
    return "\n".join([*lines, ""])


def _registries_yaml(moves: Sequence[_Move], server: MirrorServer) -> str:
    # JSON strings are YAML strings.
    lines = ["mirrors:"]
    for registry in dict.fromkeys(move.registry for move in moves):
        lines += [f"  {json.dumps(registry)}:", "    endpoint:", f"      - {json.dumps(server.url)}"]
        changed = [move for move in moves if move.registry == registry and move.to != move.repository]
        lines += ["    rewrite:"] if changed else []
        for move in changed:
            escaped = move.repository.replace(".", r"\.")
            lines.append(f"      {json.dumps(f'^{escaped}$')}: {json.dumps(move.to)}")
    if server.is_insecure and not server.is_plain:
        lines += ["configs:", f"  {json.dumps(server.registry)}:", "    tls:", "      insecure_skip_verify: true"]
    return "\n".join([*lines, ""])
