"""Importing requests without the parts of other libraries that only its other users need.

requests and urllib3 import what they may need for the text of pages, international host names, compressed bodies,
HTTP/2, proxies, cookies and logs. We read raw bytes over HTTP/1.1, from hosts that are ASCII by then. Importing these
parts takes a third of the time. So within the command, whose process has no other user of requests, other modules stand
in for them while requests is imported. Afterwards they can be imported as ever.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

from ociexport.registry.http.late_logging import LateLogging
from ociexport.system.ownership import owns_process
from ociexport.system.stand_ins import LateModule, annotations_unread, stand_in, standing_in

# Parts that requests and urllib3 do without if they are not installed: guessing a text's encoding, compressed bodies,
# proxies.
_OPTIONAL = (
    "chardet",
    "charset_normalizer",
    "backports.zstd",
    "compression.zstd",
    "brotli",
    "brotlicffi",
    "simplejson",
    "urllib3.contrib.socks",  # `ask_socks_proxy` is ours
)
# Modules that are imported when first used, with the functions that others name in `from module import function`:
# international host names, archives with certificates in them, uploads, fingerprints of certificates, dates of cookies,
# temporary files, names of messages, other ways to open URLs.
_LATER = {
    "idna": (),
    "encodings.idna": (),
    "zipfile": (),
    "tempfile": (),
    "mimetypes": (),
    "hmac": (),
    "calendar": ("timegm",),
    "random": (),
    "urllib.request": (
        "getproxies",
        "getproxies_environment",
        "parse_http_list",
        "proxy_bypass",
        "proxy_bypass_environment",
    ),
}


def import_requests() -> None:
    """Import requests and urllib3, unless that was done; in the command's own process without the parts above."""
    if owns_process() and "requests" not in sys.modules and "urllib3" not in sys.modules:
        try:
            _import_narrowly()
        except (ImportError, AttributeError, TypeError):
            # Another version needs more of them: it gets all, from the beginning.
            for name in [name for name in sys.modules if name.partition(".")[0] in ("requests", "urllib3")]:
                del sys.modules[name]
    importlib.import_module("requests")


def _import_narrowly() -> None:
    modules: dict[str, ModuleType | None] = {
        **dict.fromkeys(_OPTIONAL),
        **{name: LateModule(name, *functions) for name, functions in _LATER.items()},
        "logging": LateLogging(),
        # urllib3 asks for a version when HTTP/2 is switched on.
        "importlib.metadata": stand_in("importlib.metadata", version=_version),
        # requests asks for the path of its certificates; `new_context` does so if it needs them.
        "certifi": stand_in("certifi", where=str),
        # requests asks whether a cookie's value is of this class.
        "http.cookies": stand_in("http.cookies", Morsel=_Morsel),
        # The same classes, without those in Python that `datetime` defines first.
        "datetime": importlib.import_module("_datetime"),
    }
    with warnings.catch_warnings(), annotations_unread(), standing_in(modules):
        warnings.simplefilter("ignore")  # requests misses chardet
        importlib.import_module("requests")


class _MorselType(type):
    def __call__(cls, *arguments: object, **options: object) -> object:
        return importlib.import_module("http.cookies").Morsel(*arguments, **options)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, importlib.import_module("http.cookies").Morsel)


class _Morsel(metaclass=_MorselType):
    """The class of `http.cookies`, which is imported when an object is made or compared with it."""


def _version(name: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415 - start-up: never asked for

    return version(name)
