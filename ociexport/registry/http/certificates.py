"""Whose certificates are believed, and the client certificates for a host, from the directories that docker knows.

A directory ``certs.d/HOST[:PORT]`` holds authorities (``*.crt``) and pairs of a client certificate (``NAME.cert``) and
its key (``NAME.key``).

Spec: containers-certs.d(5); docs.docker.com "Verify repository client with certificates".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ociexport.errors import UsageError


class ClientCertificate(NamedTuple):
    """A certificate that we show, and its key; None where one file holds both."""

    certificate: Path
    key: Path | None


class TlsSettings(NamedTuple):
    """How the other side of a TLS connection is believed, and what it is shown.

    Args:
        verify: whether its certificate is looked at.
        ca_files: authorities beside those of the system.
        client_certificate: shown to servers that ask for one.
    """

    verify: bool = True
    ca_files: tuple[Path, ...] = ()
    client_certificate: ClientCertificate | None = None


DEFAULT_TLS = TlsSettings()


def tls_of_any_host(ca_file: Path | None) -> TlsSettings:
    """Return what holds for every host of a pull: the authorities that the user names for it (``--cacert``).

    Client certificates and ``--insecure`` are for the registry's host, and not in it.
    """
    return TlsSettings(ca_files=() if ca_file is None else (ca_file,))


def find_certificates(names: tuple[str, ...], cert_dir: Path | None, certs_dirs: tuple[Path, ...]) -> TlsSettings:
    """Return the certificates for a host.

    Args:
        names: of the host, with its port; the first that a directory has decides.
        cert_dir: what ``--cert-dir`` says: this directory and no other, whatever the host.
        certs_dirs: directories that have one for each host; the first that has one for this decides.

    Raises:
        UsageError: ``cert_dir`` is no directory, or a certificate has no key.
    """
    if cert_dir is not None:
        if not cert_dir.is_dir():
            raise UsageError(f"--cert-dir: {cert_dir}: expected a directory")
        return read_cert_dir(cert_dir)
    for directory in certs_dirs:
        for name in names:
            if (directory / name).is_dir():
                return read_cert_dir(directory / name)
    return DEFAULT_TLS


def read_cert_dir(directory: Path) -> TlsSettings:
    """Return what one directory holds, in the order of the files' names."""
    names = sorted(directory.iterdir())
    pairs = []
    for name in names:
        if name.suffix == ".cert":
            key = name.with_suffix(".key")
            if not key.exists():
                raise UsageError(f"{name}: expected its key in {key.name}, there is none")
            pairs.append(ClientCertificate(name, key))
    authorities = tuple(name for name in names if name.suffix == ".crt")
    # OpenSSL shows one and does not choose by what the server asks for, so the first it is.
    return TlsSettings(ca_files=authorities, client_certificate=pairs[0] if pairs else None)
