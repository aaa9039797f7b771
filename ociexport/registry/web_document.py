"""fetch_web_document(): a small document at a URL that the user gave, such as a list of images."""

from __future__ import annotations

from contextlib import closing

from ociexport.errors import RegistryError, UsageError, counted, printable
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.system.progress.protocol import SILENT, Progress


def fetch_web_document(
    url: str, max_bytes: int, options: RegistryOptions | None = None, progress: Progress = SILENT
) -> bytes:
    """Return the document's bytes. No credentials of registries are sent, and no headers of ``options``.

    Raises:
        UsageError: the URL does not parse.
        RegistryError: the server has no such document, or one of more than ``max_bytes``.
    """
    try:
        parsed = WebUrl.parse(url)
    except InvalidUrlError as error:
        raise UsageError(f"list {printable(redacted(url))}: {error}") from error
    with closing(Transport(options or DEFAULT_OPTIONS, progress)) as transport:
        subject = f"list {printable(redacted(url))}"
        answer = transport.send(WireRequest("GET", parsed, subject, document_bytes=max_bytes + 1))
        raw = undo_for_document(answer.read_up_to(max_bytes + 1), answer)
    if len(raw) > max_bytes:
        raise RegistryError(
            f"{subject}: expected at most {counted(max_bytes, 'byte')}, got more", method="GET", url=redacted(url)
        )
    return raw
