"""The parser of command lines: its short help fits a screen, and its errors are one line."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from ociexport.cli.spelling import closest, closest_option
from ociexport.errors import UsageError, quoted

_HELP_ALL = "--help-all"
# The words of argparse's messages.
_MISSING = "the following arguments are required: "
_NO_VALUE = ": expected one argument"
# Of these types argparse would show the function's name.
_KINDS = {int: "a whole number", float: "a number"}


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises UsageError: one line and a hint, like all our errors.

    ``--help`` shows the command's own options; ``--help-all`` also shows further groups, which many commands share.

    Args:
        example: one command line, as a user would type it.
    """

    def __init__(self, *, example: str | None = None, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self._example = example
        self._further_groups: list[argparse._ArgumentGroup] = []
        self._is_second_try = False

    def _get_formatter(self) -> argparse.HelpFormatter:
        # argparse makes one for each option, to check it. With a width it does not measure the terminal, for which it
        # would import what packs archives. `_help` makes one that measures it.
        return argparse.HelpFormatter(prog=self.prog, width=78)

    def add_argument_group(self, *arguments: Any, **settings: Any) -> argparse._ArgumentGroup:
        """Return a new group, whose options the short help leaves out."""
        group = super().add_argument_group(*arguments, **settings)
        # argparse makes its own two groups in its constructor, before this attribute exists; they stay visible.
        if hasattr(self, "_further_groups"):
            self._further_groups.append(group)
        return group

    def takes_value(self, option: str) -> bool:
        """Whether the word after ``option`` belongs to it."""
        return any(option in action.option_strings and action.nargs != 0 for action in self._actions)

    def add_help_all(self) -> None:
        """Add ``--help-all``, if the short help leaves anything out."""
        if self._further_groups:
            self.add_argument(_HELP_ALL, action=_HelpAll, nargs=0, help="show the other options too")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the options and the words that are not recognised; an optional positional may follow options.

        argparse alone would not see PATH in ``ls SRC --long PATH``: it decides about PATH as soon as it has SRC.
        """
        parsed, rest = super().parse_known_args(args, namespace)
        may_be_left_out = any(not action.option_strings and action.nargs in ("?", "*") for action in self._actions)
        if self._is_second_try or not may_be_left_out or not any(map(_is_no_option, rest)):
            return parsed, rest
        self._is_second_try = True
        try:
            return self.parse_known_intermixed_args(args)
        finally:
            self._is_second_try = False

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message in our form."""
        missing = message.removeprefix(_MISSING)
        if missing != message:
            raise UsageError(
                f"{self._command}: expected {missing.replace(', ', ' and ')}, got none",
                hint=f"for example {self._example}" if self._example else f"see {self.prog} --help",
            )
        text = message.removeprefix("argument ")
        if text.endswith(_NO_VALUE):
            option = text.removesuffix(_NO_VALUE)
            value = next(action.metavar for action in self._actions if option == "/".join(action.option_strings))
            text = f"{option}: expected {value or 'a value'}, got nothing"
        raise UsageError(text, hint=f"see {self.prog} --help")

    @property
    def _command(self) -> str:
        return self.prog.partition(" ")[2] or self.prog

    def verify_options(self, words: Sequence[str]) -> None:
        """Return if the command has all options in ``words``.

        It is called before parsing, which would report a missing argument first.

        Raises:
            UsageError: an option is unknown; its hint is the one that was probably meant.
        """
        known = set(long_options(self))
        options = itertools.takewhile(lambda word: word != "--", words)
        unknown = [
            word
            for word in options
            if word.startswith("--") and " " not in word and word.partition("=")[0] not in known
        ]
        if unknown:
            self.refuse_unknown(unknown)

    def attributes_given(self, words: Sequence[str]) -> set[str]:
        """Return the names of the attributes that the options in ``words`` set."""
        given = set()
        for word in itertools.takewhile(lambda word: word != "--", words):
            names = [word.partition("=")[0]] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
            for name in names if word.startswith("-") else ():
                action = self._option_string_actions.get(name)
                if action is None:
                    break
                given.add(action.dest)
                if action.nargs != 0:  # the rest of the word is the option's value
                    break
        return given

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Raise UsageError for unknown options, with those that were probably meant, or for surplus arguments."""
        options = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
        if not options:
            expected = " ".join(str(action.metavar) for action in self._actions if not action.option_strings)
            raise UsageError(
                f"{self._command}: expected {expected or 'no argument'}, got {' '.join(map(quoted, words))} too",
                hint=f"for example {self._example}" if self._example else f"see {self.prog} --help",
            )
        guesses = [closest_option(option, long_options(self)) for option in options]
        meant = ", ".join(guess for guess in guesses if guess)
        raise UsageError(
            f"{self._command}: unknown option {', '.join(map(quoted, options))}",
            hint=f"did you mean {meant}?" if meant else f"see {self.prog} --help",
        )

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Mostly an unset shell variable; as a path it would be the working directory.
        if "" in arg_strings and not isinstance(action, argparse._SubParsersAction):
            option = "/".join(action.option_strings) or self._command
            raise UsageError(
                f"{option}: expected {action.metavar or 'a value'}, got an empty word",
                hint="is a shell variable unset?",
            )
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = _KINDS.get(action.type)  # type: ignore[call-overload] # any callable
            text = f"expected {kind}, got {quoted(arg_string)}" if kind else error.message
            raise UsageError(f"{_shown(action)}: {text}", hint=f"see {self.prog} --help") from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        meant = closest(str(value), choices)
        option = f"{action.option_strings[-1]}=" if action.option_strings else f"{self.prog} "
        raise UsageError(
            f"{_shown(action)}: expected {one_of(choices)}, got {quoted(str(value))}",
            hint=f"did you mean {option}{meant}?" if meant else f"see {self.prog} --help",
        )

    def format_help(self) -> str:
        """Return the short help."""
        return self._help(self._further_groups)

    def format_help_all(self) -> str:
        """Return the help with all options."""
        return self._help([])

    def _help(self, hidden: Sequence[argparse._ArgumentGroup]) -> str:
        hidden_actions = {id(action) for group in hidden for action in group._group_actions}
        formatter = super()._get_formatter()
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


def _is_no_option(word: str) -> bool:
    return word == "-" or not word.startswith("-")


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(cast(CommandParser, parser).format_help_all(), end="")
        parser.exit()


def one_of(words: Sequence[str]) -> str:
    """Return ``words`` as a sentence has them: ``bash, zsh or fish``."""
    return " or ".join([", ".join(words[:-1]), *words[-1:]]) if len(words) > 1 else "".join(words)


def _shown(action: argparse.Action) -> str:
    """Return the name of an option or an argument in messages."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)


def long_options(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long options of ``parser`` and of its subcommands."""
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            options += [option for below in action.choices.values() for option in long_options(below)]
    return options
