"""Short names: what registries.conf says that ``fedora`` stands for."""

from __future__ import annotations

from ociexport.registry.hosts.registries_conf import read_registries_conf
from ociexport.spec.reference import ImageReference, names_registry


def parse_image(text: str) -> ImageReference:
    """Return the reference that ``text`` means, with the aliases of registries.conf; else docker's defaults.

    Raises:
        InvalidReferenceError: ``text`` does not parse.
        UsageError: registries.conf is wrong.

    Spec: containers-registries.conf(5), "Short-name aliases".
    """
    if names_registry(text):
        return ImageReference.parse(text)
    name = text.partition("@")[0]
    path, slash, last = name.rpartition("/")
    name = path + slash + last.partition(":")[0]
    full = read_registries_conf().aliases.get(name, name)
    return ImageReference.parse(full + text[len(name) :])
