"""An open source of an image in a registry, without the conversions and signature checks that commands add."""

from __future__ import annotations

from ociexport.registry.client import RegistryClient
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.registry.source import RegistrySource, registry_source
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT, Progress


def open_registry_source(
    reference: ImageReference,
    *,
    options: RegistryOptions = DEFAULT_OPTIONS,
    progress: Progress = SILENT,
    client: RegistryClient | None = None,
) -> RegistrySource:
    """Return a source for the image that ``reference`` names; nothing is sent until the source is used.

    Args:
        options: how registries are reached.
        progress: receives retries, skipped mirrors and registries' warnings.
        client: used instead of options and progress; shared with other sources, closed by the caller.
    """
    if client is not None:
        return registry_source(client, reference)
    return registry_source(RegistryClient(options, progress), reference, owns_client=True)
