"""Compose files: the images of services whose profiles are active, with variables, ``include`` and ``extends``.

Spec: compose-spec 05-services.md, 14-include.md, 15-profiles.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from ociexport.errors import OciexportError, UsageError, printable, quoted
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.transfer.lists.entries import Findings
from ociexport.transfer.lists.interpolation import interpolate, parse_env_file
from ociexport.transfer.lists.nodes import MAX_LIST_BYTES, Field, Node, Place
from ociexport.transfer.lists.yaml_nodes import parse_yaml

_TOP = frozenset({"name", "version", "services", "networks", "volumes", "configs", "secrets", "include", "models"})
# The members of a service in compose-spec; those that name images are read below.
_SERVICE = frozenset(  # as text, since a list of one word a line hides the rest of this file
    """annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name
    cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset
    credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname
    entrypoint env_file environment expose extends external_links extra_hosts gpus group_add healthcheck
    hostname image init ipc isolation label_file labels links logging mac_address mem_limit mem_reservation
    mem_swappiness memswap_limit models network_mode networks oom_kill_disable oom_score_adj pid pids_limit
    platform ports post_start pre_stop privileged profiles provider pull_policy read_only restart runtime
    scale secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty
    ulimits use_api_socket user userns_mode uts volumes volumes_from working_dir""".split()  # noqa: SIM905
)
_INCLUDE = frozenset({"path", "project_directory", "env_file"})
_ALL_PROFILES = "*"
_MAX_FILES = 200
_IMAGE_CONTEXT = "docker-image://"
_MODEL = "a model, which is an artifact"
_PROFILES = "COMPOSE_PROFILES"
# The files that docker compose finds by itself, and then reads with the one that overrides them.
_DEFAULT_NAME = re.compile(r"(?:docker-)?compose\.ya?ml")


@dataclass(slots=True)
class ComposeProject:
    """What the files of one project share.

    Args:
        findings: gets the images.
        profiles: the active ones; ``*`` for all.
        environment: the variables of the process, which take precedence over ``.env``.
    """

    findings: Findings
    profiles: frozenset[str]
    environment: Mapping[str, str]
    files: list[str] = field(default_factory=list)


def read_compose(document: Field, directory: str | None, project: ComposeProject) -> None:
    """Add the images of a compose file.

    Args:
        directory: of the file; None for a list that is no file here, which then may not lead to files.

    Raises:
        UsageError: a variable is required and not set, or an included file can't be read or is no compose file.
    """
    variables = dict(project.environment)
    if directory is not None:
        variables = {**_env_files([os.path.join(directory, ".env")], project.environment, False), **variables}
        if _PROFILES not in project.environment:
            project.profiles |= active_profiles((), variables)
        _name_override(document, directory, project.findings)
    _ComposeFile(document, directory, project, variables).read()


def _name_override(document: Field, directory: str, findings: Findings) -> None:
    name = os.path.basename(document.document.file)
    if not _DEFAULT_NAME.fullmatch(name):
        return
    stem = name.rpartition(".")[0]
    for other in (f"{stem}.override.{ending}" for ending in ("yaml", "yml")):
        if os.path.isfile(os.path.join(directory, other)):
            findings.warn(document, f"{other} beside it is not read, docker compose config makes one file of both")


def _env_files(paths: Sequence[str], environment: Mapping[str, str], is_required: bool) -> dict[str, str]:
    values: dict[str, str] = {}
    for path in paths:
        if not is_required and not os.path.isfile(path):
            continue
        values |= parse_env_file(_read_text(path), {**values, **environment}, path)
    return values


def _read_text(path: str) -> str:
    with open(path, "rb") as file:
        raw = file.read(MAX_LIST_BYTES + 1)
    if len(raw) > MAX_LIST_BYTES:
        raise UsageError(f"{path}: expected at most {MAX_LIST_BYTES} bytes, got more")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8, got other bytes at {error.start}") from error


class _ComposeFile:
    def __init__(
        self, document: Field, directory: str | None, project: ComposeProject, variables: Mapping[str, str]
    ) -> None:
        self._document = document
        self._directory = directory
        self._project = project
        self._findings = project.findings
        self._variables = variables
        self._unset: dict[str, Field] = {}

    def read(self) -> None:
        self._findings.name_unknown(self._document, _TOP)
        for entry in self._findings.elements(self._document.get("include")):
            self._include(entry)
        for name, service in self._findings.members(self._document.get("services")):
            if service.is_mapping:
                self._read_service(name, service)
            else:
                self._findings.warn(service, f"expected a mapping, got {service.kind}, ignored")
        for _, model in self._findings.members(self._document.get("models")):
            image = model.get("model")
            if image is not None:
                self._image(image, is_sure=False, note=_MODEL)
        for name, place in self._unset.items():
            self._findings.warn(place, f"variable {name} is not set and has no default, it counts as empty")

    def _read_service(self, name: str, service: Field) -> None:
        self._findings.name_unknown(service, _SERVICE)
        profiles = [self._text(one) for one in self._findings.elements(service.get("profiles"))]
        active = self._project.profiles
        if profiles and _ALL_PROFILES not in active and not active.intersection(profiles):
            shown = ", ".join(map(quoted, profiles))
            self._findings.warn(
                service, f"left out: none of its profiles ({shown}) is active, --profile makes one active"
            )
            return
        platform = self._find(service, "platform")
        platforms = None
        if platform is not None and self._text(platform):
            platforms = self._findings.platforms(self._replaced(platform))
        image, build = self._find(service, "image"), self._find(service, "build")
        if image is not None:
            note = "" if build is None else "the service is also built from source"
            self._image(image, is_sure=build is None, note=note, platforms=platforms)
        elif build is not None:
            self._findings.warn(build, "left out: the service is built from source and names no image")
        elif (provider := self._find(service, "provider")) is not None:
            self._read_provider(provider)
        elif service.get("extends") is None or self._directory is not None:
            self._findings.warn(service, "expected an image or a build, there is neither")
        if build is not None:
            contexts = build.get("additional_contexts")
            named = [context for _, context in contexts.members()] if contexts is not None else []
            for context in named or build.list_of("additional_contexts"):
                text = self._text(context) if named else self._text(context).partition("=")[2]
                if text.startswith(_IMAGE_CONTEXT):
                    self._image(context, text.removeprefix(_IMAGE_CONTEXT), is_sure=False, note="needed for the build")
        for volume in self._findings.elements(service.get("volumes")):
            source = volume.get("source")
            if volume.get_text("type") == "image" and source is not None:
                self._image(source, note="a volume", platforms=platforms)

    def _read_provider(self, provider: Field) -> None:
        options = provider.get("options")
        model = options.get("model") if options is not None and provider.get_text("type") == "model" else None
        if model is not None:
            self._image(model, is_sure=False, note=_MODEL)
        else:
            self._findings.warn(provider, "left out: another program runs the service, which names no image")

    def _find(self, service: Field, key: str) -> Field | None:
        """Return a member of a service, or that of the service which it extends."""
        seen: set[str] = set()
        here: _ComposeFile = self
        while (found := service.get(key)) is None and (extended := service.get("extends")) is not None:
            base = here._text(extended.get("service") or extended)
            file = extended.get("file")
            if file is not None:
                path = here._path(file)
                if path is None:
                    return None
                here = here._other(path, file, here._variables)
            services = here._document.get("services")
            target = services.get(base) if services is not None else None
            mark = f"{here._document.document.file} {base}"
            if target is None or mark in seen:
                raise extended.error(f"expected another service to extend, got {quoted(base)}")
            seen.add(mark)
            service = target
        return found  # with its variables: the files of a project that services extend have the same

    def _include(self, entry: Field) -> None:
        self._findings.name_unknown(entry, _INCLUDE)
        paths = entry.get("path") if entry.is_mapping else entry
        files = list(paths.elements()) if paths is not None and paths.is_list else [paths] if paths is not None else []
        for file in files:
            path = self._path(file)
            if path is None:
                continue
            directory = os.path.dirname(path)
            if (given := entry.get("project_directory")) is not None:
                directory = self._path(given) or directory
            named = entry.get("env_file")
            if named is not None:
                env_files = [self._path(one) for one in (named.elements() if named.is_list else [named])]
                values = _env_files([one for one in env_files if one], self._project.environment, True)
            else:
                values = _env_files([os.path.join(directory, ".env")], self._project.environment, False)
            # The including project's own variables take precedence.
            other = self._other(path, file, {**values, **self._variables})
            other._directory = directory
            self._project.files.append(os.path.realpath(path))
            other.read()
            self._project.files.pop()

    def _other(self, path: str, named_by: Field, variables: Mapping[str, str]) -> _ComposeFile:
        if os.path.realpath(path) in self._project.files:
            raise named_by.error(f"expected another file, got {quoted(path)}, which leads to itself")
        if len(self._project.files) > _MAX_FILES:
            raise named_by.error(f"expected at most {_MAX_FILES} files within each other, got more")
        try:
            text = _read_text(path)
        except OSError as error:
            raise named_by.error(f"can't read {quoted(path)}: {error.strerror}") from error
        place = Place(path)
        documents = parse_yaml(text, place, self._findings.warnings)
        document = Field(place, "", documents[0]) if documents else None
        if document is None or not document.is_mapping or len(documents) > 1:
            raise named_by.error(f"expected one compose file in {quoted(path)}, got something else")
        other = _ComposeFile(document, os.path.dirname(path), self._project, variables)
        other._unset = self._unset
        return other

    def _path(self, named: Field) -> str | None:
        """Return the path that a field names; None after a warning if it is not a file here."""
        text = self._text(named)
        if self._directory is None:
            self._findings.warn(named, f"{printable(text)} is left out: the list is no file, so it can't lead to files")
            return None
        if "://" in text or text.startswith("git@"):
            self._findings.warn(named, f"{printable(text)} is left out: only files are read")
            return None
        return os.path.join(self._directory, text)

    def _image(self, named: Field, text: str | None = None, **details: object) -> None:
        if text is None and named.text is None:
            self._findings.warn(named, f"expected an image, got {named.kind}, left out")
            return
        text = self._text(named) if text is None else text
        if text:
            self._findings.image(named, text, **details)  # type: ignore[arg-type] # its callers name the members
        else:
            self._findings.warn(named, "left out: it is empty once its variables are replaced")

    def _replaced(self, named: Field) -> Field:
        return Field(named.document, named.path, Node(self._text(named), named.node.line))

    def _text(self, named: Field) -> str:
        """Return the field's text with its variables replaced; an empty one for another value."""
        unset: dict[str, None] = {}
        try:
            text = interpolate(named.text or "", self._variables, unset)
        except OciexportError as error:
            raise UsageError(f"{named.place}: {error}", hint=error.hint) from error
        for name in unset:
            self._unset.setdefault(name, named)
        return text


def active_profiles(given: Sequence[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Return the active profiles: those of the command line, and those in ``COMPOSE_PROFILES``."""
    words = environment.get(_PROFILES, "").split(",")
    return frozenset(word.strip() for word in (*given, *words) if word.strip())
