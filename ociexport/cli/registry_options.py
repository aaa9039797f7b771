"""The options about reaching registries, the same for every command that reads from one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ociexport.registry.options import RegistryOptions


def add_registry_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options."""
    group = parser.add_argument_group("registries")
    group.add_argument(
        "--authfile", metavar="FILE", type=Path, help="where to look for credentials, instead of docker's"
    )
    group.add_argument("--plain-http", action="store_true", help="speak http; loopback registries need no flag")
    group.add_argument("--insecure", action="store_true", help="believe any TLS certificate")


def registry_options_from(options: argparse.Namespace) -> RegistryOptions:
    """Return what the command line says about registries."""
    return RegistryOptions(authfile=options.authfile, plain_http=options.plain_http, insecure=options.insecure)
