"""RegistryOptions: what a user can say about reaching registries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ociexport.registry.credentials import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """What a user can say about reaching registries; the defaults are what most want.

    Args:
        credentials: given outright; they go before every file.
        authfile: the only file to look for credentials in.
        plain_http: speak http, not https.
        insecure: believe any TLS certificate.
        retry_times: how often a request or body that failed for a passing reason is tried again.
        retry_delay_seconds: before the first retry; it doubles with each.
        max_wait_seconds: the longest Retry-After of a registry that we obey.
        min_bytes_per_second: a body that comes more slowly for `stall_seconds` has stalled; it is asked for again.
        connect_timeout_seconds: for a connection to be made.
        read_timeout_seconds: for the next bytes to arrive.
    """

    credentials: Credentials | None = None
    authfile: Path | None = None
    plain_http: bool = False
    insecure: bool = False
    retry_times: int = 3
    retry_delay_seconds: float = 1.0
    max_wait_seconds: float = 120.0
    connect_timeout_seconds: float = 15.0
    read_timeout_seconds: float = 60.0
    min_bytes_per_second: int = 1024
    stall_seconds: float = 30.0


DEFAULT_OPTIONS = RegistryOptions()
