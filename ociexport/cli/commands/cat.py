"""`ociexport cat`: write the content of files in an image, without unpacking it."""

from __future__ import annotations

import argparse
import codecs
import re
import shutil
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.access import access_from, add_looking_arguments, add_source_argument
from ociexport.errors import escaped
from ociexport.inspection.open_files import copy_files, open_files
from ociexport.spec.digest import Chunk

_CHUNK_BYTES = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    add_source_argument(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="file in it; links are followed within the image")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write while reading the layer once more, with no temporary file; only exit code 0 says that it is right",
    )
    add_looking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the files one after another: all of them or, after an error, none; with ``--stream`` what came until then.

    On a terminal, what it would obey is written as escapes.
    """
    access = access_from(options)
    output = _Terminal() if sys.stdout.isatty() else sys.stdout.buffer
    if options.stream:
        copy_files(options.source, options.paths, output.write, access=access)
    else:
        for file in open_files(options.source, options.paths, access=access):
            with file:
                shutil.copyfileobj(file, output, _CHUNK_BYTES)
    output.flush()
    return OK


class _Terminal:
    """Standard output where it is a terminal: lines and tabs are shown, and text; other bytes as escapes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, chunk: Chunk, /) -> int:
        """Show the next bytes."""
        self._show(self._decoder.decode(bytes(chunk)))
        return len(chunk)

    def flush(self) -> None:
        """Show what is left of a character that was cut."""
        self._show(self._decoder.decode(b"", final=True))
        sys.stdout.flush()

    @staticmethod
    def _show(text: str) -> None:
        sys.stdout.write("".join(part if part in "\n\t" else escaped(part) for part in re.split(r"([\n\t])", text)))
