"""`ociexport auth explain`: explain which credentials an image would be pulled with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.registry.auth.auth_files import search_credentials
from ociexport.registry.auth.credentials import Finding
from ociexport.registry.hosts.registries_conf import parse_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    explain = actions.add_parser(
        "explain", help="show which file and entry the credentials for an image come from", allow_abbrev=False
    )
    explain.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="as for auth itself")
    explain.add_argument("image", metavar="IMAGE", help="an image reference")
    explain.add_argument("--authfile", metavar="FILE", type=Path, help="as for pull")
    add_json_argument(explain)


def run(options: argparse.Namespace) -> int:
    """Print the places that were searched and the credentials that were found, without secrets."""
    reference = parse_image(options.image.removeprefix("docker://"))
    finding = search_credentials(reference.registry, reference.repository, options.authfile)
    if options.json:
        print_json("auth", {"image": reference.name, **_to_json(finding)})
        return OK
    for place, reason in finding.passed_over:
        sys.stdout.write(f"{place}: {reason}\n")
    identity = f"as {finding.credentials}" if finding.credentials else "anonymously"
    sys.stdout.write(f"{finding.origin}\n{reference.name}: pulled {identity}\n")
    return OK


def _to_json(finding: Finding) -> dict[str, object]:
    return {
        "passedOver": [{"place": place, "reason": reason} for place, reason in finding.passed_over],
        "place": finding.place,
        "entry": finding.key,
        "helper": finding.helper,
        "credentials": str(finding.credentials) if finding.credentials else None,
    }
