"""`ociexport cat`: print files from an image without unpacking it."""

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
from ociexport.spec.digest import CHUNK_BYTES, Chunk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    add_source_argument(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="file in the image; links are followed within it")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print while reading the layer a second time, without a temporary file; the output is verified only if "
        "the exit code is 0",
    )
    add_looking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the files one after another.

    An error leaves nothing printed; with ``--stream``, it leaves what was printed before. On a terminal, control
    characters are written as escapes.
    """
    access = access_from(options)
    output = _Terminal() if sys.stdout.isatty() else sys.stdout.buffer
    if options.stream:
        copy_files(options.source, options.paths, output.write, access=access)
    else:
        for file in open_files(options.source, options.paths, access=access):
            with file:
                shutil.copyfileobj(file, output, CHUNK_BYTES)
    output.flush()
    return OK


class _Terminal:
    """Standard output on a terminal: text, newlines and tabs are written unchanged, other bytes as escapes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, chunk: Chunk, /) -> int:
        """Write the next bytes."""
        self._show(self._decoder.decode(bytes(chunk)))
        return len(chunk)

    def flush(self) -> None:
        """Write the rest of an incomplete character."""
        self._show(self._decoder.decode(b"", final=True))
        sys.stdout.flush()

    @staticmethod
    def _show(text: str) -> None:
        sys.stdout.write("".join(part if part in "\n\t" else escaped(part) for part in re.split(r"([\n\t])", text)))
