"""`python -m ociexport` is the command `ociexport`."""

from ociexport.cli.main import run

run()
