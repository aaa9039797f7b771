"""Trusted authorities and client certificates for a host, from the directories that docker uses.

A directory ``certs.d/HOST[:PORT]`` holds authorities (``*.crt``) and pairs of a client certificate (``NAME.cert``) and
its key (``NAME.key``).

Spec: containers-certs.d(5); docs.docker.com "Verify repository client with certificates".
"""

from __future__ import annotations

from pathlib import Path

from ociexport.errors import UsageError
from ociexport.spec.named_tuple import NamedTuple


class ClientCertificate(NamedTuple):
    """A client certificate and its key; the key is None if one file holds both."""

    certificate: Path
    key: Path | None


class TlsSettings(NamedTuple):
    """How the server of a TLS connection is verified, and which certificate the client presents.

    Args:
        verify: whether the server's certificate is verified.
        ca_files: authorities in addition to those of the system.
        client_certificate: presented to servers that ask for one.
    """

    verify: bool = True
    ca_files: tuple[Path, ...] = ()
    client_certificate: ClientCertificate | None = None


DEFAULT_TLS = TlsSettings()


def tls_of_any_host(ca_file: Path | None) -> TlsSettings:
    """Return the settings for every host of a pull: the authorities that the user adds with ``--cacert``.

    Client certificates and ``--insecure`` apply to the registry's host only, and are not part of these settings.
    """
    return TlsSettings(ca_files=() if ca_file is None else (ca_file,))


def find_certificates(names: tuple[str, ...], cert_dir: Path | None, certs_dirs: tuple[Path, ...]) -> TlsSettings:
    """Return the certificates for a host.

    Args:
        names: names of the host, with its port; the first for which a directory exists is used.
        cert_dir: the value of ``--cert-dir``: only this directory is used, for any host.
        certs_dirs: each has one directory per host; the first that has one for this host is used.

    Raises:
        UsageError: ``cert_dir`` is not a directory, or a certificate has no key.
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
    """Return the certificates in one directory, in the order of the files' names."""
    names = sorted(directory.iterdir())
    pairs = []
    for name in names:
        if name.suffix == ".cert":
            key = name.with_suffix(".key")
            if not key.exists():
                raise UsageError(f"{name}: expected its key in {key.name}, found no such file")
            pairs.append(ClientCertificate(name, key))
    authorities = tuple(name for name in names if name.suffix == ".crt")
    # OpenSSL presents one certificate and does not choose among several, so the first is used.
    return TlsSettings(ca_files=authorities, client_certificate=pairs[0] if pairs else None)
