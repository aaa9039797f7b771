"""Variables in compose files: ``$VAR``, ``${VAR}``, ``${VAR:-default}`` and its siblings; and the file ``.env``.

Spec: compose-spec 12-interpolation.md; docs.docker.com, "Set environment variables", "Syntax for environment files".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ociexport.errors import UsageError, quoted

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")
# Defaults nest two or three deep.
_MAX_DEPTH = 20
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*(?:[=:]\s*(.*))?", re.DOTALL)
_ESCAPE = re.compile(r"\\([nrt\"\\$])")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def interpolate(text: str, variables: Mapping[str, str], unset: dict[str, None], depth: int = 0) -> str:
    """Return ``text`` with the variables in it replaced; ``$$`` is a dollar sign.

    Args:
        unset: gets the name of each variable that has neither a value nor a default, and becomes an empty text.

    Raises:
        UsageError: a variable is required and not set, or the syntax is wrong.
    """
    if depth > _MAX_DEPTH:
        raise UsageError(f"variables: expected defaults at most {_MAX_DEPTH} deep in each other, got deeper ones")
    parts: list[str] = []
    place = 0
    while (dollar := text.find("$", place)) >= 0:
        parts.append(text[place:dollar])
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            parts.append("$")
            place = dollar + 2
        elif following == "{":
            end = _closing(text, dollar + 2)
            parts.append(_value_of(text[dollar + 2 : end], variables, unset, depth))
            place = end + 1
        elif (name := _NAME.match(text, dollar + 1)) is not None:
            parts.append(_plain(name[0], variables, unset))
            place = name.end()
        else:
            raise UsageError(f"variables: expected a name after '$', got {quoted(text[dollar:])}", hint="$$ is a '$'")
    return "".join([*parts, text[place:]])


def _closing(text: str, start: int) -> int:
    """Return the place of the brace that closes the one before ``start``."""
    depth, place = 1, start
    while place < len(text):
        if text.startswith("${", place):
            depth += 1
            place += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place
        place += 1
    raise UsageError(f"variables: expected '}}' at the end, got {quoted('${' + text[start:])}")


def _value_of(inner: str, variables: Mapping[str, str], unset: dict[str, None], depth: int) -> str:
    found = _NAME.match(inner)
    if found is None:
        raise UsageError(f"variables: expected a name in '${{…}}', got {quoted(inner)}")
    name, rest = found[0], inner[found.end() :]
    if not rest:
        return _plain(name, variables, unset)
    operator = next((operator for operator in _OPERATORS if rest.startswith(operator)), None)
    if operator is None:
        raise UsageError(f"variables: expected one of {' '.join(_OPERATORS)} after {name}, got {quoted(rest)}")
    word = rest[len(operator) :]
    value = variables.get(name)
    has_value = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("-"):
        return (value or "") if has_value else interpolate(word, variables, unset, depth + 1)
    if operator.endswith("+"):
        return interpolate(word, variables, unset, depth + 1) if has_value else ""
    if not has_value:
        told = interpolate(word, variables, unset, depth + 1) or "it is not set"
        raise UsageError(f"variable {name} is required: {quoted(told)}", hint=f"set {name}, or write it into .env")
    return value or ""


def _plain(name: str, variables: Mapping[str, str], unset: dict[str, None]) -> str:
    if name not in variables:
        unset[name] = None
    return variables.get(name, "")


def parse_env_file(text: str, environment: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the variables that an env file sets; those above a line can be used in it.

    Args:
        environment: takes precedence where values of the file refer to variables.
        where: the file's name in messages.

    Raises:
        UsageError: a line does not parse.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise UsageError(f"{where}:{number}: expected NAME=VALUE, got another line")
        name, raw = found[1], found[2]
        if raw is None:
            if name in environment:
                values[name] = environment[name]
            continue
        try:
            values[name] = _env_value(raw, {**values, **environment})
        except UsageError as error:
            raise UsageError(f"{where}:{number}: {error}", hint=error.hint) from error
    return values


def _env_value(raw: str, variables: Mapping[str, str]) -> str:
    if raw.startswith("'"):
        end = raw.find("'", 1)
        if end < 0:
            raise UsageError("expected a closing quote, got the end of the line")
        return raw[1:end]
    if raw.startswith('"'):
        closing = re.match(r'"((?:[^"\\]|\\.)*)"', raw)
        if closing is None:
            raise UsageError("expected a closing quote, got the end of the line")
        text = _ESCAPE.sub(lambda found: "$$" if found[1] == "$" else _ESCAPES.get(found[1], found[1]), closing[1])
        return interpolate(text, variables, {})
    return interpolate(re.split(r"\s+#|^#", raw)[0].rstrip(), variables, {})
