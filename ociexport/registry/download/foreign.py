"""Foreign layers: blobs that a registry does not store, and that other servers provide.

Windows base layers were foreign because of their licence. They are fetched only with ``--foreign``, and without
credentials.

Spec: image-spec 1.1 descriptor.md, "urls"; layer.md, "Non-Distributable Layers".
"""

from __future__ import annotations

from collections.abc import Mapping

from ociexport.errors import RegistryError, RegistryNotFoundError, quoted
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import Answer, WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl, is_web_url
from ociexport.spec.descriptor import Descriptor


def open_foreign(
    descriptor: Descriptor, headers: Mapping[str, str], missing: RegistryNotFoundError, transport: Transport
) -> Answer:
    """Return an answer with the bytes of a foreign layer, from the first of its URLs that has them.

    Args:
        headers: the Range header; empty for the whole layer.
        missing: the registry's answer; raised without ``--foreign``.

    Raises:
        RegistryError: no URL provides the layer; this is the error of the last one.
    """
    if not transport.options.foreign:
        urls = ", ".join(quoted(redacted(url)) for url in descriptor.urls)
        missing.hint = f"a foreign layer, which its registry does not store; --foreign fetches it from {urls}"
        raise missing
    failure: RegistryError = missing
    for url in descriptor.urls:
        if not is_web_url(url):
            continue
        request = WireRequest(
            "GET",
            WebUrl.parse(url),
            f"foreign layer {descriptor.digest}",
            headers=headers,
            accepted=frozenset({200, 206, 416}) if headers else frozenset({200}),
            sent_by=WebUrl.parse(missing.url),
        )
        try:
            return transport.send(request)
        except RegistryError as error:
            failure = error
    raise failure
