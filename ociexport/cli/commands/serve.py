"""`ociexport serve`: serve an OCI layout as a read-only registry."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.errors import UsageError, escaped, printable, quoted
from ociexport.registry.server import LayoutServer
from ociexport.spec.numerals import number_in
from ociexport.storage.layout.layout import ImageLayout

_DEFAULT_ADDRESS = "127.0.0.1:5000"
# A layout may have thousands of names; a start is told in a line.
_MOST_LISTED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("layout", metavar="LAYOUT", help="directory of an OCI layout")
    parser.add_argument(
        "--addr",
        metavar="HOST:PORT",
        default=_DEFAULT_ADDRESS,
        help=f"address to listen on; port 0 selects a free one (default: {_DEFAULT_ADDRESS})",
    )
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; the address is printed first."""
    host, port = parse_address(options.addr)
    # A signal is the normal end of a server: exit code 0.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with LayoutServer(ImageLayout(options.layout), host, port) as server:
        try:
            _tell(options, server)
            server.serve_forever()
        except KeyboardInterrupt:
            return OK
    return OK


def _tell(options: argparse.Namespace, server: LayoutServer) -> None:
    """Print the address on standard output, where scripts that use port 0 read it, and one line for people."""
    images = [
        f"{server.address}/{repository}:{tag}"
        for repository in server.catalog.repositories()
        for tag in server.catalog.tags(repository)
    ]
    if options.json:
        print_json("serve", {"address": server.address, "images": images})
    else:
        sys.stdout.write(f"{server.address}\n")
    sys.stdout.flush()
    if not options.quiet:
        example = f", such as {escaped(images[0])}" if images else ""
        print(f"ociexport: serving {printable(options.layout)}: tags: {len(images)}{example}", file=sys.stderr)
    if clashes := server.catalog.clashes():
        what = "ambiguous, answered with 404 (name the registry, or the digest)"
        print(f"ociexport: warning: {what}: {_listed(clashes)}", file=sys.stderr)
    if unusable := server.catalog.unusable_tags():
        listed = _listed([quoted(tag) for tag in unusable])
        print(f"ociexport: warning: served by digest only, not valid as tags: {listed}", file=sys.stderr)


def _listed(items: Sequence[str]) -> str:
    """Return the first of ``items``, and how many there are more."""
    more = f"; and {len(items) - _MOST_LISTED} more" if len(items) > _MOST_LISTED else ""
    return "; ".join(items[:_MOST_LISTED]) + more


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[IPv6]:port``; a missing host is 127.0.0.1.

    Raises:
        UsageError: ``text`` has another form.
    """
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    number = number_in(port, 65535)
    if not colon or number is None or (":" in host and not is_bracketed):
        raise UsageError(f"--addr {quoted(text)}: expected HOST:PORT", hint="for example --addr 127.0.0.1:5000")
    return host.strip("[]") or "127.0.0.1", number
