"""Finds what was probably meant by an unknown word: a similar one, or our name for another tool's option or command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from ociexport.errors import UsageError, quoted

# The smallest ratio of difflib that counts as similar: it allows one letter too many or too few in a short word, two in
# a longer one.
_NEAR = 0.72
# Names in other tools of what we call otherwise.
_OPTIONS_ELSEWHERE = {
    "--arch": "--platform",
    "--cert": "--cert-dir",
    "--debug": "--verbose",
    "--dest": "--out",
    "--force": "--replace",
    "--override-arch": "--platform",
    "--output": "--out",
    "--password": "--password-stdin",
    "--skip-tls-verify": "--insecure",
    "--src-creds": "--creds",
    "--src-tls-verify": "--tls-verify",
    "--token": "--registry-token",
    "--user": "--username",
}
_COMMANDS_ELSEWHERE = {
    "check": "verify",
    "config": "inspect --config",
    "cp": "pull",
    "download": "pull",
    "export": "unpack --to-tar",
    "extract": "unpack",
    "fetch": "pull",
    "images": "tags",
    "list-tags": "tags",
    "manifest": "inspect --raw",
    "prune": "gc",
    "registry": "serve",
    "save": "pull",
    "validate": "verify",
    "version": "--version",
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the word in ``known`` that was probably meant by ``word``, or None if none is similar."""
    from difflib import get_close_matches  # noqa: PLC0415 - start-up: only a mistake needs it

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=_NEAR)), None)


def closest_option(option: str, known: Iterable[str]) -> str | None:
    """Return the option in ``known`` that was probably meant by ``option``, or None."""
    return closest(_OPTIONS_ELSEWHERE.get(option, option), known)


def refuse_command(word: str, known: Iterable[str]) -> NoReturn:
    """Raise UsageError for an unknown command, with the one that was probably meant."""
    meant = _COMMANDS_ELSEWHERE.get(word) or closest(word, known)
    raise UsageError(
        f"unknown command {quoted(word)}",
        hint=f"did you mean ociexport {meant}?" if meant else "see ociexport --help",
    )
