"""`ociexport login`: check credentials with a registry, and store them."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import sys
from contextlib import closing
from pathlib import Path

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import add_tls_arguments, add_verbose_argument, is_insecure, read_password
from ociexport.errors import AuthenticationError, InvalidReferenceError, UsageError
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.spec.reference import DEFAULT_REGISTRY, ImageReference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    add_registry_argument(parser)
    parser.add_argument("-u", "--username", metavar="USER", help="user name; prompted for on a terminal if not given")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add_json_argument(parser)
    add_verbose_argument(parser)
    add_tls_arguments(parser.add_argument_group("reaching the registry"))


def add_registry_argument(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the registry and for the file that stores its credentials."""
    parser.add_argument(
        "registry", metavar="REGISTRY", nargs="?", default=DEFAULT_REGISTRY, help="host[:port] (default: docker.io)"
    )
    parser.add_argument("--authfile", metavar="FILE", type=Path, help="file that stores the credentials")
    parser.add_argument(
        "--compat",
        choices=["docker", "containers"],
        default="docker",
        help="use the file of docker (default), or that of podman and skopeo",
    )


def run(options: argparse.Namespace) -> int:
    """Log in, and print where the credentials are stored."""
    from ociexport.registry.auth.auth_files import search_credentials  # noqa: PLC0415 - start-up: only some runs need it
    from ociexport.registry.auth.login import Compat, login_file, verify_login_file, write_login  # noqa: PLC0415 - start-up: as above
    from ociexport.registry.client import RegistryClient  # noqa: PLC0415 - start-up: the wire, which --help does not need

    registry = parse_registry(options.registry)
    file = login_file(options.authfile, Compat(options.compat))
    verify_login_file(file)
    credentials = _ask(options)
    settings = RegistryOptions(
        credentials=credentials,
        plain_http=options.plain_http,
        insecure=is_insecure(options),
        ca_file=options.cacert,
        cert_dir=options.cert_dir,
        verbose=options.verbose,
    )
    with closing(RegistryClient(settings, progress_from(options))) as client:
        wants_login = client.verify_login(registry)
    place = write_login(file, registry, credentials)
    if not options.quiet:
        checked = "accepted" if wants_login else "not checked: this registry requires no login"
        print(f"ociexport: {registry}: {credentials} {checked}; stored in {place}", file=sys.stderr)
    # A credential helper that fails here is reported when its credentials are needed.
    with contextlib.suppress(AuthenticationError):
        first = search_credentials(registry, "", options.authfile)
        if first.credentials and first.place != str(file.path):
            print(
                f"ociexport: warning: {registry}: {first.place} also has credentials for it, which take precedence",
                file=sys.stderr,
            )
    if options.json:
        members = {"registry": registry, "username": credentials.username, "tried": wants_login, "keptIn": str(place)}
        print_json("login", members)
    return OK


def parse_registry(text: str) -> str:
    """Return the registry that ``text`` names, in the form that image references use.

    Raises:
        UsageError: it does not name a registry.
    """
    name = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, path = name.partition("/")
    if path not in ("", "v1", "v2"):
        raise UsageError(f"registry: expected host[:port], got '{text}'")
    try:
        # The parser of references knows all names of Docker Hub; it takes a first part with a dot or colon as a host.
        return ImageReference.parse(f"{host}/login").registry if set(host) & set(".:") else _named(host)
    except InvalidReferenceError as error:
        raise UsageError(f"registry: expected host[:port], got '{text}'") from error


def _named(host: str) -> str:
    return ImageReference(host, "login", "latest").registry


def _ask_for(prompt: str) -> str:
    # input() would write its prompt to standard output.
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _ask(options: argparse.Namespace) -> Credentials:
    if options.password_stdin:
        if options.username is None:
            raise UsageError("--password-stdin: expected --username with it")
        return Credentials(options.username, read_password())
    if not sys.stdin.isatty():
        raise UsageError(
            "login: expected --username and --password-stdin, or a terminal to ask on, got neither",
            hint="for example ociexport login registry.example -u alice --password-stdin <password.txt",
        )
    username = options.username or _ask_for("Username: ")
    password = getpass.getpass("Password: ")
    if not username or not password:
        raise UsageError("login: expected a user and a password, got nothing")
    return Credentials(username, password)
