"""`ociexport logout`: forget the credentials for a registry."""

from __future__ import annotations

import argparse
import contextlib
import sys

from ociexport.cli.commands.login import add_registry_argument, parse_registry
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.errors import AuthenticationError
from ociexport.registry.auth.auth_files import search_credentials
from ociexport.registry.auth.login import Compat, login_file, remove_login


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    add_registry_argument(parser)
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Log out; it is no error not to have been logged in."""
    registry = parse_registry(options.registry)
    file = login_file(options.authfile, Compat(options.compat))
    was_there = remove_login(file, registry)
    if not options.quiet:
        done = "removed from" if was_there else "nothing in"
        print(f"ociexport: {registry}: {done} {file.path}", file=sys.stderr)
    left = _place_of_others(registry) if options.authfile is None else None
    if left is not None:
        print(f"ociexport: warning: {registry}: {left} has credentials for it still", file=sys.stderr)
    if options.json:
        members = {"registry": registry, "removed": was_there, "file": str(file.path), "stillIn": left}
        print_json("logout", members)
    return OK


def _place_of_others(registry: str) -> str | None:
    """Return where there are credentials for ``registry`` still; None where there are none."""
    # A helper that fails here is no reason to say that the logout did.
    with contextlib.suppress(AuthenticationError):
        left = search_credentials(registry, "")
        return left.place if left.credentials else None
    return None
