"""Importing requests without the parts of other libraries that only its other users need.

requests and urllib3 import what they may need for the text of pages, international host names, compressed bodies and
HTTP/2. We read raw bytes over HTTP/1.1, from hosts that are ASCII by then. Importing these parts takes a third of the
time. So within the command, whose process has no other user of requests, they are hidden while requests is imported.
Afterwards they can be imported as ever.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

from ociexport.system.ownership import owns_process

# Parts that requests and urllib3 do without if they are not installed: guessing a text's encoding, compressed bodies.
_OPTIONAL = (
    "chardet",
    "charset_normalizer",
    "backports.zstd",
    "compression.zstd",
    "brotli",
    "brotlicffi",
    "simplejson",
)
# Modules that are imported when first used: international host names, archives with certificates in them, uploads.
_LATER = ("idna", "zipfile", "mimetypes")


class _Later(ModuleType):
    """A module that is imported when one of its members is first used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def import_requests() -> None:
    """Import requests and urllib3, unless that was done; in the command's own process without the parts above."""
    if owns_process() and "requests" not in sys.modules and "urllib3" not in sys.modules:
        try:
            _import_narrowly()
        except (ImportError, AttributeError):
            # Another version needs more of them: it gets all, from the beginning.
            for name in [name for name in sys.modules if name.partition(".")[0] in ("requests", "urllib3")]:
                del sys.modules[name]
    importlib.import_module("requests")


def _import_narrowly() -> None:
    hidden: dict[str, ModuleType | None] = {
        **dict.fromkeys(_OPTIONAL),
        **{name: _Later(name) for name in _LATER},
        # urllib3 asks for a version when HTTP/2 is switched on.
        "importlib.metadata": _stand_in("importlib.metadata", version=_version),
        # requests asks for the path of its certificates; `new_context` does so if it needs them.
        "certifi": _stand_in("certifi", where=str),
    }
    hidden = {name: module for name, module in hidden.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type] # None says that a module is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests misses chardet
            importlib.import_module("requests")
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _stand_in(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def _version(name: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415 - start-up: never asked for

    return version(name)
