"""`ociexport logout`: forget the credentials for a registry."""

from __future__ import annotations

import argparse
import contextlib
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.login import add_registry_argument, parse_registry
from ociexport.errors import AuthenticationError
from ociexport.registry.authfiles import search_credentials
from ociexport.registry.logins import Compat, login_file, remove_login


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    add_registry_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Log out; it is no error not to have been logged in."""
    registry = parse_registry(options.registry)
    file = login_file(options.authfile, Compat(options.compat))
    was_there = remove_login(file, registry)
    if not options.quiet:
        done = "removed from" if was_there else "nothing in"
        print(f"ociexport: {registry}: {done} {file.path}", file=sys.stderr)
    if options.authfile is None:
        # A helper that fails here is no reason to say that the logout did.
        with contextlib.suppress(AuthenticationError):
            left = search_credentials(registry, "")
            if left.credentials:
                print(f"ociexport: warning: {registry}: {left.place} has credentials for it still", file=sys.stderr)
    return OK
