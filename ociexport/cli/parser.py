"""The parser of command lines: short help that fits a screen, errors in one line, and what was probably meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, cast

from ociexport.errors import UsageError, quoted

_HELP_ALL = "--help-all"
# Of difflib's ratio: a letter too many or too few in a short word, two in a longer one.
_NEAR = 0.72


class CommandParser(argparse.ArgumentParser):
    """An argument parser that tells what it can't parse as all errors are told: in one line, and a hint.

    ``--help`` shows the options of the command itself; those in further groups, which many commands share, are shown by
    ``--help-all``.

    Args:
        example: one command line, as people would type it.
    """

    def __init__(self, *, example: str | None = None, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self._example = example
        self._further_groups: list[argparse._ArgumentGroup] = []

    def add_argument_group(self, *arguments: Any, **settings: Any) -> argparse._ArgumentGroup:
        """Return a new group, whose options the short help leaves out."""
        group = super().add_argument_group(*arguments, **settings)
        # The first two are the parser's own, made before there is anything to hide.
        if hasattr(self, "_further_groups"):
            self._further_groups.append(group)
        return group

    def add_help_all(self) -> None:
        """Add ``--help-all``, if there is anything that the short help leaves out."""
        if self._further_groups:
            self.add_argument(_HELP_ALL, action=_HelpAll, nargs=0, help="show the other options too")

    def error(self, message: str) -> NoReturn:
        """Tell what can't be parsed."""
        raise UsageError(message, hint=f"see {self.prog} --help")

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Tell of options that there are not, and which was probably meant."""
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        guesses = [closest(word.partition("=")[0], known) for word in words]
        meant = ", ".join(guess for guess in guesses if guess)
        raise UsageError(
            f"unrecognized arguments: {' '.join(words)}",
            hint=f"did you mean {meant}?" if meant else f"see {self.prog} --help",
        )

    def format_help(self) -> str:
        """Return the short help."""
        return self._help(self._further_groups)

    def format_help_all(self) -> str:
        """Return the help with all options."""
        return self._help([])

    def _help(self, hidden: Sequence[argparse._ArgumentGroup]) -> str:
        hidden_actions = {id(action) for group in hidden for action in group._group_actions}
        formatter = self._get_formatter()
        shown = [action for action in self._actions if id(action) not in hidden_actions]
        formatter.add_usage(self.usage, shown, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        if self._example is not None:
            formatter.start_section("example")
            formatter.add_text(self._example)
            formatter.end_section()
        for group in self._action_groups:
            if group not in hidden:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        if hidden:
            titles = ", ".join(group.title or "" for group in hidden)
            formatter.add_text(f"{self.prog} {_HELP_ALL} shows more: {titles}.")
        formatter.add_text(self.epilog)
        return formatter.format_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(cast(CommandParser, parser).format_help_all(), end="")
        parser.exit()


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return which of ``known`` was probably meant by ``word``; None where none is near."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=_NEAR)), None)


def refuse_command(word: str, known: Iterable[str]) -> NoReturn:
    """Tell of a command that there is not, and which was probably meant."""
    meant = closest(word, known)
    raise UsageError(
        f"command {quoted(word)}: there is none",
        hint=f"did you mean ociexport {meant}?" if meant else "see ociexport --help",
    )
