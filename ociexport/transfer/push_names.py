"""The names that images get in a registry that they are pushed to.

An image keeps its registry and path below the prefix: ``docker.io/library/alpine:3`` becomes
``registry.example/prefix/docker.io/library/alpine:3``. Rules of ``--map`` give others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ociexport.errors import InvalidReferenceError, UsageError, quoted
from ociexport.images.source import ImageName
from ociexport.spec.digest import Digest
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.reference import DEFAULT_TAG, ImageReference

_REGISTRY_PREFIX = "docker://"
_NOT_IN_PATH = re.compile(r"[^a-z0-9.]+")
_MAX_RULES_BYTES = 4 * 1024 * 1024


class PushTarget(NamedTuple):
    """Where images are pushed to.

    Args:
        registry: host and port.
        prefix: the path below which they get their names; empty for the registry itself.
        tag: makes the prefix the whole name of the only image; None for names below the prefix.
    """

    registry: str
    prefix: str
    tag: str | None = None

    def __str__(self) -> str:
        place = f"{self.registry}/{self.prefix}".rstrip("/")
        return place if self.tag is None else f"{place}:{self.tag}"


def parse_target(text: str) -> PushTarget:
    """Return ``REGISTRY[/PREFIX]``, or ``REGISTRY/NAME:TAG`` for one image, as a target.

    Raises:
        UsageError: it is something else.
    """
    registry, _, path = text.removeprefix(_REGISTRY_PREFIX).rstrip("/").partition("/")
    prefix, _, tag = path.partition(":")
    is_registry = bool(set(registry) & set(".:[")) or registry == "localhost"
    try:
        if not is_registry or "@" in text:
            raise InvalidReferenceError("expected a registry with a dot or a port, and no digest")
        checked = ImageReference(registry, prefix or "x", tag or DEFAULT_TAG)
    except InvalidReferenceError as error:
        raise UsageError(
            f"{quoted(text)}: expected REGISTRY[/PREFIX], got something else ({error})",
            hint="for example registry.example:5000/mirror, or registry.example/team/app:1 for one image",
        ) from error
    return PushTarget(checked.registry, prefix, tag or None)


class MapRule(NamedTuple):
    """A rule of ``--map``: names that match a pattern, and the path that they get below the prefix.

    Args:
        text: as the user wrote it.
        pattern: of the whole name, with the tag if the rule has one.
        path: has a ``*`` for each of the pattern, or none.
        tag: of the new name; None to keep the tag.
    """

    text: str
    pattern: re.Pattern[str]
    has_tag: bool
    path: str
    tag: str | None

    def apply(self, reference: ImageReference) -> tuple[str, str | None] | None:
        """Return the path and the tag for a name; None if the rule is not for it."""
        matched = self.pattern.fullmatch(f"{reference.name}:{reference.tag}" if self.has_tag else reference.name)
        if matched is None:
            return None
        parts = iter(matched.groups())
        return re.sub(r"\*", lambda _: next(parts), self.path), self.tag or reference.tag


def parse_rules(texts: Iterable[str]) -> tuple[MapRule, ...]:
    """Return the rules of ``--map``; a text without ``=`` is the name of a file with a rule in each line.

    Raises:
        UsageError: a rule is no ``PATTERN=PATH``, or the file is something else.
        OSError: the file can't be read.
    """
    rules: list[MapRule] = []
    for text in texts:
        if "=" in text:
            rules.append(_parse_rule(text, "--map"))
            continue
        with open(text, "rb") as file:
            raw = file.read(_MAX_RULES_BYTES + 1)
        if len(raw) > _MAX_RULES_BYTES:
            raise UsageError(f"--map {quoted(text)}: expected at most {_MAX_RULES_BYTES} bytes, got more")
        lines = [line.partition("#")[0].strip() for line in raw.decode("utf-8", "surrogateescape").splitlines()]
        rules += [_parse_rule(line, f"{text}: line {number}") for number, line in enumerate(lines, 1) if line]
    return tuple(rules)


def _parse_rule(text: str, where: str) -> MapRule:
    left, equals, right = (part.strip() for part in text.partition("="))
    left_name, left_tag = _split_tag(left)
    path, _, tag = right.strip("/").partition(":")
    if "*" not in left:
        try:
            left_name = ImageReference.parse(left_name).name
        except InvalidReferenceError:
            path = ""
    if not equals or not left_name or not path or path.count("*") not in (0, left.count("*")) or "*" in tag:
        raise UsageError(
            f"{where}: expected PATTERN=PATH, with as many * in PATH or none, got {quoted(text)}",
            hint="for example 'docker.io/library/*=mirror/hub/*'",
        )
    whole = left_name if left_tag is None else f"{left_name}:{left_tag}"
    pattern = re.compile("(.*)".join(map(re.escape, whole.split("*"))))
    return MapRule(text, pattern, left_tag is not None, path, tag or None)


def _split_tag(name: str) -> tuple[str, str | None]:
    path, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":") if slash else (last, "", "")
    return f"{path}{slash}{last}", tag if colon else None


def reference_of(name: ImageName) -> ImageReference | None:
    """Return an image's full name as a reference; None without one."""
    try:
        return ImageReference.parse(name.full) if name.full is not None else None
    except InvalidReferenceError:
        return None


def name_at(
    target: PushTarget, rules: Sequence[MapRule], name: ImageName, digest: Digest | None, shown: str
) -> tuple[ImageReference, MapRule | None]:
    """Return the name that an image gets, and the rule that gave it.

    Args:
        name: of the image at its source.
        digest: of the image; for one without a tag.
        shown: the image in messages.

    Raises:
        UsageError: the image has no name that could be kept, or the new one is invalid.
    """
    reference = reference_of(name)
    used = None
    path, tag = "", name.tag
    if target.tag is not None:
        tag = target.tag
    elif reference is not None:
        path, tag = f"{_as_path(reference.registry)}/{reference.repository}", reference.tag
        for rule in rules:
            if (mapped := rule.apply(reference)) is not None:
                used, (path, tag) = rule, mapped
                break
    repository = "/".join(filter(None, (target.prefix, path)))
    if not repository:
        got = f"the tag {quoted(tag)} alone" if tag is not None else "none"
        raise UsageError(
            f"{shown}: expected an image with a full name, got {got}",
            hint=f"name the one image, {target.registry}/NAME:TAG, or a repository for tags, {target.registry}/NAME",
        )
    if tag is None and digest is None and reference is not None:
        digest = reference.digest
    try:
        return ImageReference(target.registry, repository, tag, None if tag is not None else digest), used
    except InvalidReferenceError as error:
        where = f"--map {quoted(used.text)}: " if used is not None else ""
        raise UsageError(
            f"{where}{shown}: expected a valid name at {target.registry}, got {quoted(repository)}: {error}"
        ) from error


def _as_path(registry: str) -> str:
    """Return a registry as a part of a path, which has no colons or brackets."""
    return _NOT_IN_PATH.sub("-", registry.lower()).strip("-.")
