"""Certificates for tests, made on the spot by an authority that nobody knows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """An authority of our own.

    Args:
        ca_file: its certificate, to be trusted by a client that is told to.
        client_cert, client_key: files with a certificate that it issued to a client.
    """

    ca: trustme.CA
    ca_file: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def new(cls, directory: Path) -> Authority:
        """Return a new authority that keeps its files in ``directory``."""
        ca = trustme.CA(organization_name="Example Org", organization_unit_name="Example CA")
        ca_file, cert, key = directory / "ca.crt", directory / "client.cert", directory / "client.key"
        ca.cert_pem.write_to_path(str(ca_file))
        client = ca.issue_cert("client@example.com")
        client.cert_chain_pems[0].write_to_path(str(cert))
        client.private_key_pem.write_to_path(str(key))
        return cls(ca, ca_file, cert, key)

    def server_context(self, *names: str, wants_client: bool = False) -> ssl.SSLContext:
        """Return what a server with a certificate for ``names`` speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        if wants_client:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
