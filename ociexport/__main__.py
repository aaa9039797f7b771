"""`python -m ociexport` is the command `ociexport`."""

import sys

from ociexport.cli.main import main

sys.exit(main())
