"""How the command imports other code without what it does not use; a program with the library imports all as ever."""

from __future__ import annotations

from ociexport.system.late_patterns import compile_patterns_late
from ociexport.system.ownership import owns_process
from ociexport.system.stand_ins import LateModule, stand_in, standing_in


def make_imports_lean() -> None:
    """From now on patterns are compiled late; argparse is imported without translations, pathlib without addresses.

    gettext would look for a translation of argparse in directories of each of the user's languages. There is none.
    pathlib imports urllib.parse, which needs ipaddress only for an IPv6 address in a URL.
    """
    if owns_process():
        compile_patterns_late()
        untranslated = stand_in("gettext", gettext=str, ngettext=_one_or_many)
        with standing_in({"gettext": untranslated, "ipaddress": LateModule("ipaddress")}):
            import argparse  # noqa: F401, PLC0415 - start-up: as above
            import pathlib  # noqa: F401, PLC0415 - start-up: as above


def _one_or_many(singular: str, plural: str, count: int) -> str:
    return singular if count == 1 else plural
