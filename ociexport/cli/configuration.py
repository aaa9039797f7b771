"""Defaults of options from a file and from the environment.

Precedence, highest first: the command line; ``OCIEXPORT_<OPTION>`` in the environment; the command's table in the file;
the file's top level; the default that ``--help`` shows. The file is ``OCIEXPORT_CONFIG``, or else the user's
``~/.config/ociexport/ociexport.toml``, or else the machine's ``/etc/ociexport/ociexport.toml``. A file in the working
directory is not read, because that directory may hold files from an untrusted image.

`OPTION_NAMES` lists the options of all commands, to recognise a wrong name without loading the commands. A test
compares it with their parsers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ociexport.cli.parser import CommandParser
from ociexport.cli.spelling import closest
from ociexport.errors import UsageError, printable, quoted
from ociexport.system.environment import configuration_home

_PREFIX = "OCIEXPORT_"
_FILE_VARIABLE = "OCIEXPORT_CONFIG"
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})
# A configuration fills about one screen; the limit protects memory against a wrong file.
_MAX_BYTES = 1024 * 1024
OPTION_NAMES = frozenset(
    """
    addr against all all-images allow-recompressed authfile bundle ca-file cacert cache cert-dir compat compression
    config config-for connect-timeout creds csv decompress deep delta devices digestfile directory dry-run
    erofs-layers events exclude executor failed follow for foreign format free from gid-map header html include
    insecure into jobs json keep keep-dirlinks keep-newest kernel latest layer layers layers-dir legacy list locked
    long map mapping max-depth max-files max-header max-memory max-metadata max-path max-ratio max-size max-wait
    maybes mirror move-tags mtimes no-deep no-journal no-owners no-preflight no-progress null out owners
    password-stdin plain-http platform profile quiet raw read-timeout receipt recheck recursive referrers
    registry-token repair replace require retry-delay retry-times rootless run-files since sparse src-creds
    src-insecure src-plain-http stall-limit stream strict sync text tls-verify to-tar uid-map username userns v1
    verbose verify-key verity verity-beside volume-size why xattrs yes
    """.split()  # noqa: SIM905 - one name a line would be a page
)
# Values that an option of the same name has in other commands; a setting for all commands is then not for this one.
_OF_OTHER_COMMANDS = {
    "format": frozenset({"oci", "oci-archive", "docker-archive", "tree", "erofs", "squashfs", "ext4", "incus", "wsl"})
    | {f"{name}{ending}" for name in ("cpio", "tar") for ending in ("", ".gz", ".zst", ".xz")}
}


def apply_configuration(
    name: str,
    command: CommandParser,
    all_commands: Collection[str],
    environment: Mapping[str, str] = os.environ,
) -> dict[str, object]:
    """Set the defaults of the command's options from the file and the environment.

    Returns the previous default of each option that was set, by the name of its attribute.

    Args:
        name: the command's name.
        command: its parser, whose defaults are set.
        all_commands: the names that tables in the file may have.
        environment: the variables; one that belongs to no option causes a warning.

    Raises:
        UsageError: the file is not TOML, names an unknown option, or has an invalid value for an option.
    """
    actions = {
        option.removeprefix("--"): action
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--") and not isinstance(action, argparse._HelpAction | argparse._VersionAction)
    }
    actions.pop("help-all", None)
    before: dict[str, object] = {}
    for place, option, value in _settings(name, actions, all_commands, environment):
        before.setdefault(actions[option].dest, actions[option].default)
        actions[option].default = _value_for(actions[option], option, value, place)
        actions[option].required = False
    return before


def leave_out_configured(options: argparse.Namespace, *names: str) -> None:
    """Reset those of these options that only the configuration sets, because they don't fit this command line.

    The configuration is for many commands, and some settings fit only a few. A value from the command line stays, and
    may be an error.
    """
    configured: dict[str, object] = getattr(options, "configured", {})
    for name in configured.keys() & set(names):
        setattr(options, name, configured[name])


def _settings(
    name: str,
    actions: Mapping[str, argparse.Action],
    all_commands: Collection[str],
    environment: Mapping[str, str],
) -> Iterator[tuple[str, str, object]]:
    """Yield the place, the option and the value of each setting; a later one overrides an earlier one."""
    path = configuration_path(environment)
    if path is not None:
        settings = _read_file(path)
        if settings.keys() - actions.keys() - {name}:
            _verify_is_known(path, settings, all_commands)
        own = settings.get(name, {})
        if not isinstance(own, dict):
            raise UsageError(f"{path}: {name}: expected a table, got {quoted(str(own))}")
        for option, value in settings.items():
            # A setting at the top level is for every command that has the option.
            if option in actions and not isinstance(value, dict) and not _is_of_others(option, value, actions):
                yield f"{path}: {option}", option, value
        for option, value in own.items():
            if option not in actions:
                meant = closest(option, actions)
                raise UsageError(
                    f"{path}: {name}.{option}: there is no such option",
                    hint=f"did you mean {meant}?" if meant else f"see ociexport {name} --help-all",
                )
            yield f"{path}: {name}.{option}", option, value
    _warn_of_unknown(environment, actions)
    for option in actions:
        variable = _variable_of(option)
        # An empty variable counts as unset: this is how a script unsets one for a single command.
        value_there = environment.get(variable)
        if value_there and variable != _FILE_VARIABLE and not _is_of_others(option, value_there, actions):
            yield variable, option, environment[variable]


def _is_of_others(option: str, value: object, actions: Mapping[str, argparse.Action]) -> bool:
    """Whether only other commands have this value of the option."""
    return str(value) in _OF_OTHER_COMMANDS.get(option, ()) and value not in (actions[option].choices or ())


def _variable_of(option: str) -> str:
    return _PREFIX + option.upper().replace("-", "_")


def _warn_of_unknown(environment: Mapping[str, str], actions: Collection[str]) -> None:
    """Warn of each variable that has our prefix and belongs to no option of any command."""
    ours = {variable for variable in environment if variable.startswith(_PREFIX) and environment[variable]}
    unknown = ours - {_FILE_VARIABLE} - set(map(_variable_of, actions))
    if not unknown:
        return

    for variable in sorted(unknown.difference(map(_variable_of, OPTION_NAMES))):
        name = variable.removeprefix(_PREFIX).lower().replace("_", "-")
        meant = closest(name, [*OPTION_NAMES, "config"])
        advice = f"did you mean {_variable_of(meant)}?" if meant else "see ociexport help configuration"
        print(f"ociexport: warning: {printable(variable)}: there is no such option; {advice}", file=sys.stderr)


def _verify_is_known(path: Path, settings: Mapping[str, object], commands: Collection[str]) -> None:
    """Return if each name at the file's top level is a command, or an option of some command.

    Raises:
        UsageError: a name is neither, and would have no effect.
    """
    for name in sorted(settings.keys() - set(commands) - OPTION_NAMES):
        is_table = isinstance(settings[name], dict)
        meant = closest(name, commands if is_table else OPTION_NAMES)
        raise UsageError(
            f"{path}: {printable(name)}: there is no such {'command' if is_table else 'option'}",
            hint=f"did you mean {meant}?" if meant else "see ociexport help configuration",
        )


def configuration_path(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of the configuration file, or None without one. A file named by the variable must exist."""
    if named := environment.get(_FILE_VARIABLE):
        return Path(named)
    for directory in (configuration_home(environment), Path("/etc")):
        path = directory / "ociexport" / "ociexport.toml"
        # False also for a directory that we can't search: sudo -u keeps the variables of another user.
        if os.path.isfile(path):
            return path
    return None


def _read_file(path: Path) -> dict[str, object]:
    with open(path, "rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: expected at most {_MAX_BYTES} bytes, got more")
    import tomllib  # noqa: PLC0415 - start-up: most users have no such file

    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected TOML, got something else: {error}") from error


def _value_for(action: argparse.Action, option: str, value: object, place: str) -> object:
    """Return ``value`` as the option would have it from the command line."""
    if action.nargs == 0:
        return _switched(action, option, value, place)
    if isinstance(action, argparse._AppendAction):
        return _Replaceable(_parsed(action, one, place) for one in (value if isinstance(value, list) else [value]))
    return _parsed(action, value, place)


def _switched(action: argparse.Action, option: str, value: object, place: str) -> object:
    is_on = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.get(str(value).lower())
    if is_on is None:
        raise UsageError(f"{place}: expected true or false, got {quoted(str(value))}")
    if isinstance(action, argparse.BooleanOptionalAction):
        return is_on is not option.startswith("no-")
    return action.const if is_on else action.default


def _parsed(action: argparse.Action, value: object, place: str) -> object:
    if isinstance(value, list | dict | bool):
        raise UsageError(f"{place}: expected a text or a number, got {quoted(str(value))}")
    if not str(value) or "\0" in str(value):
        raise UsageError(f"{place}: expected a text or a number, got {quoted(str(value))}")
    try:
        parsed = action.type(str(value)) if callable(action.type) else str(value)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{place}: {error}") from error
    except UnicodeError:  # a name that the locale can't encode
        raise
    except ValueError as error:
        raise UsageError(f"{place}: expected a whole number, got {quoted(str(value))}") from error
    if action.choices is not None and parsed not in action.choices:
        raise UsageError(f"{place}: expected one of {', '.join(map(str, action.choices))}, got {quoted(str(value))}")
    return parsed


class _Replaceable(list[object]):
    """The default of a repeatable option; values from the command line replace it instead of adding to it."""

    def __copy__(self) -> list[object]:
        return []
