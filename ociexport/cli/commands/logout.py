"""`ociexport logout`: remove the stored credentials for a registry."""

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
    """Add the options of this command to ``parser``."""
    add_registry_argument(parser)
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Log out; without stored credentials this succeeds too."""
    registry = parse_registry(options.registry)
    file = login_file(options.authfile, Compat(options.compat))
    was_there = remove_login(file, registry)
    if not options.quiet:
        done = "removed from" if was_there else "nothing in"
        print(f"ociexport: {registry}: {done} {file.path}", file=sys.stderr)
    left = _place_of_others(registry) if options.authfile is None else None
    if left is not None:
        print(f"ociexport: warning: {registry}: {left} still has credentials for it", file=sys.stderr)
    if options.json:
        members = {"registry": registry, "removed": was_there, "file": str(file.path), "stillIn": left}
        print_json("logout", members)
    return OK


def _place_of_others(registry: str) -> str | None:
    """Return the place that still has credentials for ``registry``, or None."""
    # The logout itself has succeeded, even if a credential helper fails here.
    with contextlib.suppress(AuthenticationError):
        left = search_credentials(registry, "")
        return left.place if left.credentials else None
    return None
