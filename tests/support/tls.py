"""Certificates for tests, issued by a new authority that no system trusts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """A certificate authority.

    Args:
        ca_file: its certificate.
        client_cert, client_key: files with a certificate for a client.
    """

    ca: trustme.CA
    ca_file: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def new(cls, directory: Path) -> Authority:
        """Return a new authority with its files in ``directory``."""
        ca = trustme.CA(organization_name="Example Org", organization_unit_name="Example CA")
        ca_file, cert, key = directory / "ca.crt", directory / "client.cert", directory / "client.key"
        ca.cert_pem.write_to_path(str(ca_file))
        client = ca.issue_cert("client@example.com")
        client.cert_chain_pems[0].write_to_path(str(cert))
        client.private_key_pem.write_to_path(str(key))
        return cls(ca, ca_file, cert, key)

    def server_context(self, *names: str, wants_client: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a server with a certificate for ``names``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        if wants_client:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
