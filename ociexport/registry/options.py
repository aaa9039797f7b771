"""RegistryOptions: how registries are reached."""

from __future__ import annotations

from pathlib import Path

from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.system.environment import configuration_home


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror that the command line names.

    Args:
        url: ``host[:port]``, or a URL.
        registry: the registry that it mirrors; None for every registry.
    """

    url: str
    registry: str | None = None


def _config_dirs(*names: str) -> tuple[Path, ...]:
    """Return a directory in the user's configuration, and the same in the machine's."""
    return tuple(base.joinpath(*names) for base in (configuration_home(), Path("/etc")))


def _certs_dirs() -> tuple[Path, ...]:
    return (*_config_dirs("containers", "certs.d"), Path("/etc/docker/certs.d"), Path("/etc/containerd/certs.d"))


def _hosts_dirs() -> tuple[Path, ...]:
    return _config_dirs("containerd", "certs.d")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How registries are reached.

    Args:
        credentials: from the command line; no file is searched then.
        authfile: the only file to search for credentials.
        plain_http: use http, not https.
        insecure: accept any TLS certificate.
        ca_file: certificate authorities to trust in addition to the system's.
        cert_dir: certificates for every host; laid out like a directory in ``certs.d``.
        mirrors: tried before those of the configuration files.
        headers: names and values, sent to the registry only; they may hold secrets.
        foreign: whether layers that the registry does not store are fetched from their ``urls``.
        registries_conf: the only such file to read; None for those of the user and the machine.
        certs_dirs: directories with certificates for each host.
        hosts_dirs: directories with containerd's hosts.toml for each registry.
        v1: whether registries speak Docker's first protocol.
        retry_times: how often a request or body that failed with a temporary error is retried.
        retry_delay_seconds: before the first retry; it doubles with each.
        max_wait_seconds: the longest Retry-After of a registry that we obey.
        connections_per_blob: how many connections a large blob may use where one is slow; 1 for no parallel ranges.
        min_bytes_per_second: a body that is slower than this for `stall_seconds` has stalled; it is requested again.
        connect_timeout_seconds: for a connection to be made.
        read_timeout_seconds: for the next bytes to arrive.
        verbose: whether the progress receives each request, and the identity used; no secrets.
    """

    credentials: Credentials | None = None
    authfile: Path | None = None
    plain_http: bool = False
    insecure: bool = False
    ca_file: Path | None = None
    cert_dir: Path | None = None
    mirrors: tuple[Mirror, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    foreign: bool = False
    v1: bool = False
    registries_conf: Path | None = None
    certs_dirs: tuple[Path, ...] = field(default_factory=_certs_dirs)
    hosts_dirs: tuple[Path, ...] = field(default_factory=_hosts_dirs)
    retry_times: int = 3
    retry_delay_seconds: float = 1.0
    max_wait_seconds: float = 120.0
    connect_timeout_seconds: float = 15.0
    read_timeout_seconds: float = 60.0
    connections_per_blob: int = 6
    min_bytes_per_second: int = 1024
    stall_seconds: float = 30.0
    verbose: bool = False


DEFAULT_OPTIONS = RegistryOptions()


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's identity for a registry; all None for anonymous access. Its repr shows no secret.

    Args:
        username: for basic authentication, with ``password``.
        password: or an access token used as one.
        identity_token: an OAuth2 refresh token, exchanged at the registry's token service.
        registry_token: a bearer token, sent unchanged.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    identity_token: str | None = field(default=None, repr=False)
    registry_token: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self != ANONYMOUS

    def __str__(self) -> str:
        """The identity, as messages name it; no secret."""
        if self.username is not None:
            return f"user {self.username}"
        if self.identity_token is not None:
            return "the holder of an identity token"
        return "the holder of a registry token" if self.registry_token is not None else "anonymous"


ANONYMOUS = Credentials()
