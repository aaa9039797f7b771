"""The entry point of the command `ociexport`, and of `python -m ociexport`."""

from __future__ import annotations

import os


def run() -> None:
    """Run the command; Ctrl-C while it is being loaded prints one line and no traceback."""
    try:
        # Imported here, so that the interrupt of a slow import is caught too.
        from ociexport.cli.main import run as run_command  # noqa: PLC0415 - start-up: as above
    except KeyboardInterrupt:
        os.write(2, b"ociexport: error: interrupted\n")
        os._exit(130)
    run_command()


if __name__ == "__main__":
    run()
