"""The options about registries, the same for every command that reads from one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.counts import count_from
from ociexport.errors import UsageError, quoted
from ociexport.registry.auth.credentials import parse_user_and_password
from ociexport.registry.options import DEFAULT_OPTIONS, Credentials, Mirror, RegistryOptions

# Where the options of a command line are kept once they are parsed.
_PARSED = "parsed_registry_options"


def add_registry_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    add_verbose_argument(parser)
    _add_credential_arguments(parser.add_argument_group("logging in to registries"))
    _add_reaching_arguments(parser.add_argument_group("reaching registries"))
    _add_patience_arguments(parser.add_argument_group("slow and failing networks"))


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option, which ``login`` has too."""
    parser.add_argument("-v", "--verbose", action="store_true", help="log each registry request and the identity used")


def _add_credential_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--creds", metavar="USER:PASSWORD", help="user and password; other users of this machine can see them"
    )
    group.add_argument("-u", "--username", metavar="USER", help="user name; needs --password-stdin")
    group.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    group.add_argument("--registry-token", metavar="TOKEN", help="bearer token to send unchanged")
    group.add_argument(
        "--authfile", metavar="FILE", type=Path, help="file to read credentials from, instead of podman's and docker's"
    )


def _add_reaching_arguments(group: argparse._ArgumentGroup) -> None:
    add_tls_arguments(group)
    group.add_argument(
        "--mirror",
        metavar="[REGISTRY=]URL",
        action="append",
        default=[],
        type=_parse_mirror,
        help="try this server first, for images of REGISTRY or of every registry; may be repeated",
    )
    group.add_argument(
        "-H",
        "--header",
        metavar="NAME:VALUE",
        action="append",
        default=[],
        type=_parse_header,
        help="send this header to the registry, and to no other server; may be repeated",
    )
    group.add_argument(
        "--v1", action="store_true", help="use Docker's first registry protocol, for registries from before 2015"
    )
    group.add_argument(
        "--foreign", action="store_true", help="fetch layers that the registry does not store from their own URLs"
    )


def add_tls_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the options about TLS, which ``login`` has too."""
    group.add_argument("--plain-http", action="store_true", help="use http; registries on loopback don't need this")
    group.add_argument("--insecure", action="store_true", help="accept any TLS certificate")
    group.add_argument("--tls-verify", choices=["true", "false"], help="false means --insecure, as in skopeo")
    group.add_argument(
        "--cacert", "--ca-file", metavar="FILE", type=Path, help="trust these authorities beside the system's (PEM)"
    )
    group.add_argument(
        "--cert-dir",
        metavar="DIR",
        type=Path,
        help="trust the authorities in *.crt, and send the client certificates in *.cert and *.key, for all hosts",
    )


def _add_patience_arguments(group: argparse._ArgumentGroup) -> None:
    default = DEFAULT_OPTIONS
    for name, kind, meaning, value in [
        ("--retry-times", count_from(0), "retries after a temporary failure", default.retry_times),
        ("--retry-delay", _parse_seconds, "seconds before the first retry; it doubles", default.retry_delay_seconds),
        ("--max-wait", _parse_seconds, "longest Retry-After to obey, in seconds", default.max_wait_seconds),
        ("--connect-timeout", _parse_seconds, "seconds to wait for a connection", default.connect_timeout_seconds),
        ("--read-timeout", _parse_seconds, "seconds to wait for the next bytes", default.read_timeout_seconds),
        ("--stall-limit", count_from(0), "bytes/s; a slower body is requested again", default.min_bytes_per_second),
    ]:
        group.add_argument(name, metavar="N", type=kind, default=value, help=f"{meaning} (default: {value:g})")


def registry_options_from(options: argparse.Namespace) -> RegistryOptions:
    """Return the options about registries; a password on standard input is read once for all calls.

    Raises:
        UsageError: options exclude each other.
    """
    known: RegistryOptions | None = getattr(options, _PARSED, None)
    if known is None:
        known = _parse_registry_options(options)
        setattr(options, _PARSED, known)
    return known


def _parse_registry_options(options: argparse.Namespace) -> RegistryOptions:
    if options.v1:
        leave_out_configured(options, "mirror")
    if options.v1 and options.mirror:
        raise UsageError("--mirror: expected no --v1, got it", hint="an index of that protocol names the hosts itself")
    return RegistryOptions(
        credentials=credentials_from(options),
        authfile=options.authfile,
        plain_http=options.plain_http,
        insecure=is_insecure(options),
        ca_file=options.cacert,
        cert_dir=options.cert_dir,
        mirrors=tuple(options.mirror),
        headers=tuple(options.header),
        foreign=options.foreign,
        v1=options.v1,
        retry_times=options.retry_times,
        retry_delay_seconds=options.retry_delay,
        max_wait_seconds=options.max_wait,
        connect_timeout_seconds=options.connect_timeout,
        read_timeout_seconds=options.read_timeout,
        min_bytes_per_second=options.stall_limit,
        verbose=options.verbose,
    )


def is_insecure(options: argparse.Namespace) -> bool:
    """Return whether any certificate is accepted."""
    return bool(options.insecure or options.tls_verify == "false")


def credentials_from(options: argparse.Namespace) -> Credentials | None:
    """Return the credentials from the command line, or None without any.

    Raises:
        UsageError: they are given in more than one way, or are incomplete.
    """
    given = [
        name
        for name, value in [
            ("--creds", options.creds),
            ("--username", options.username),
            ("--registry-token", options.registry_token),
        ]
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]}: expected one of them")
    if (options.username is not None) != options.password_stdin:
        raise UsageError("--username and --password-stdin: expected both of them")
    if options.creds is not None:
        return parse_user_and_password(options.creds)
    if options.registry_token is not None:
        return Credentials(registry_token=options.registry_token)
    return Credentials(options.username, read_password()) if options.username is not None else None


def read_password() -> str:
    """Return the password from standard input, without the newline at its end.

    Raises:
        UsageError: it is empty, or is not text.
    """
    try:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
        password.encode()  # in a locale without UTF-8, Python reads invalid bytes as surrogates
    except UnicodeError as error:
        # The message leaves out the bytes: they are a secret.
        raise UsageError("--password-stdin: expected a password in UTF-8, got other bytes") from error
    if not password:
        raise UsageError("--password-stdin: expected a password, got nothing", hint="--password-stdin <password.txt")
    return password


def _parse_mirror(text: str) -> Mirror:
    registry, equals, url = text.partition("=")
    return Mirror(url, registry) if equals and "://" not in registry else Mirror(text)


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not name.isascii() or not value.isprintable():
        # The message leaves out the value: it may be a secret.
        raise UsageError(
            f"--header: expected NAME:VALUE, got {quoted(name)} and something else",
            hint="for example --header 'X-Trace: 1'",
        )
    return name.strip(), value.strip()


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds, a number from 0 on, got {quoted(text)}")
    return seconds
