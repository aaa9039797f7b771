"""`python -m ociexport` is the command `ociexport`, which begins here."""

from __future__ import annotations

import os


def run() -> None:
    """Run the command; who presses Ctrl-C before it is loaded gets no traceback."""
    try:
        from ociexport.cli.main import run as run_command  # noqa: PLC0415 - start-up: what is loaded outside can't be caught
    except KeyboardInterrupt:
        os.write(2, b"ociexport: error: interrupted\n")
        os._exit(130)
    run_command()


if __name__ == "__main__":
    run()
