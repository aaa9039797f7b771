"""The zstd library: the standard library's from Python 3.14 on, before that the same code from PyPI.

It takes 2 ms to load, so `ociexport.system.compression` imports this module when a layer needs it.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["zstd"]
