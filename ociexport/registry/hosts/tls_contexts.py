"""The one place that makes TLS contexts, for connections that are begun early and for all others."""

from __future__ import annotations

import os
import ssl
import threading
from contextlib import suppress
from pathlib import Path

from ociexport.errors import OciexportError, UsageError
from ociexport.registry.hosts.certificates import TlsSettings


class TlsContexts:
    """The contexts of a run. Each is made once, or fails once: reading all authorities takes 25 ms and more."""

    def __init__(self) -> None:
        self._made: dict[TlsSettings, ssl.SSLContext | OciexportError | OSError] = {}
        self._lock = threading.Lock()

    def get(self, tls: TlsSettings) -> ssl.SSLContext:
        """Return the context for ``tls``; another thread that makes it is waited for. Raises as `new_context` does."""
        with self._lock:
            if tls not in self._made:
                try:
                    self._made[tls] = new_context(tls)
                except (OciexportError, OSError) as error:
                    self._made[tls] = error
            made = self._made[tls]
        if isinstance(made, Exception):
            raise made
        return made

    def prepare(self, tls: TlsSettings) -> None:
        """Make the context for ``tls``; an error is raised by `get`."""
        with suppress(OciexportError, OSError):
            self.get(tls)


def may_be_made_in_a_thread(tls: TlsSettings) -> bool:
    """Whether making this context needs no other module, and no passphrase, which OpenSSL asks for on the terminal."""
    return tls.client_certificate is None and (_named_bundle() is not None or _system_has_authorities())


def new_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return the TLS context for the settings ``tls``.

    The system's authorities are OpenSSL's. ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace them, and so do
    ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE``, which users set for other programs. On a machine without authorities
    those that come with requests are used.

    Raises:
        UsageError: a file has no certificate, or a certificate's key is missing or wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # urllib3 would set this before each handshake, and ours begins without it.
    context.set_alpn_protocols(["http/1.1"])
    if (bundle := _named_bundle()) is not None:
        _load(context, Path(bundle), "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE")
    else:
        context.load_default_certs()
        if not _system_has_authorities():
            import certifi  # noqa: PLC0415 - start-up: most machines have authorities

            context.load_verify_locations(certifi.where())
    for path in tls.ca_files:
        _load(context, path, "certificate authority")
    if pair := tls.client_certificate:
        try:
            context.load_cert_chain(pair.certificate, pair.key)
        except OSError as error:
            raise UsageError(f"{pair.certificate}: expected a client certificate with its key: {error}") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _named_bundle() -> str | None:
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None


def _load(context: ssl.SSLContext, path: Path, what: str) -> None:
    try:
        context.load_verify_locations(cafile=None if path.is_dir() else path, capath=path if path.is_dir() else None)
    except OSError as error:
        raise UsageError(f"{path}: expected certificates ({what}): {error}") from error


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    # None for a path that does not exist, which typeshed does not declare.
    named = [Path(name) for name in (paths.cafile, paths.capath) if name]
    return any(path.is_file() or any(path.iterdir()) for path in named)
