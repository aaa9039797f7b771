"""Image references, such as ``alpine:3.20``, parsed into registry, repository, tag and digest."""

from __future__ import annotations

import re

from ociexport.errors import InvalidDigestError, InvalidReferenceError, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.numerals import number_in

DEFAULT_REGISTRY = "docker.io"
# The host that serves Docker Hub differs from its name in references.
DOCKER_HUB_HOST = "registry-1.docker.io"
DEFAULT_TAG = "latest"
MAX_REPOSITORY_CHARACTERS = 255

# The grammar of github.com/distribution/reference, rule by rule.
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])"
_REGISTRY_PATTERN = re.compile(rf"{_HOST}(?::[0-9]+)?")
_REPOSITORY_PATTERN = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_TAG_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

# URLs that lead to an image in a registry, but do not begin with its name: those of a registry's API, and web pages.
_IMAGE_URLS = (
    (re.compile(r"https?://([^/]+)/v2/(.+)/manifests/([^/?#:]+:[^/?#]+)/?"), r"\1/\2@\3"),
    (re.compile(r"https?://([^/]+)/v2/(.+)/manifests/([^/?#]+)/?"), r"\1/\2:\3"),
    (re.compile(r"https?://([^/]+)/v2/(.+)/(?:tags/list|blobs/[^/]+)/?(?:[?#].*)?"), r"\1/\2"),
    (re.compile(r"https?://hub\.docker\.com/(?:_|r/library)/([^/?#:]+)(?:[/?#].*)?"), r"docker.io/library/\1"),
    (re.compile(r"https?://hub\.docker\.com/r/([^/?#:]+/[^/?#:]+)(?:[/?#].*)?"), r"docker.io/\1"),
    (re.compile(r"https?://quay\.io/repository/([^/?#:]+/[^/?#:]+)(?:[/?#].*)?"), r"quay.io/\1"),
)
_API_URL = re.compile(r"https?://[^/]+/v2(?:/.*)?|https?://(?:hub\.)?docker\.(?:com|io)(?:/.*)?", re.DOTALL)
# Hosts that are registries, by their names.
_REGISTRY_HOST = re.compile(
    r"registry\..+|ghcr\.io|quay\.io|nvcr\.io|(?:[a-z-]+\.)?gcr\.io|[a-z0-9-]+\.pkg\.dev|[a-z0-9]+\.azurecr\.io|"
    r"mcr\.microsoft\.com|public\.ecr\.aws|[0-9]+\.dkr\.ecr\.[a-z0-9.-]+"
)
# Names of Docker Hub, as in docker.
_DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

# Beginnings of paths that no reference has.
_PATH_PATTERN = re.compile(r"(?:\.{0,2}/|\.{1,2}$|\.{1,2}[:@])")


def is_path(text: str) -> bool:
    """Whether ``text``, typed by a user as an image, begins as only a path can."""
    return _PATH_PATTERN.match(text) is not None


def as_path(path: str) -> str:
    """Return ``path`` as a user types it as an image: with ``./`` in front where it would read as a reference."""
    return path if path == "-" or is_path(path) else f"./{path}"


def is_url_of_registry(text: str) -> bool:
    """Whether a URL, pasted as an image, leads to a registry's API, to its web page, or to a host that is a registry.

    A URL that ends with a slash, before its name if it has one, is that of a directory on whatever host.
    """
    if _API_URL.fullmatch(text) or any(pattern.fullmatch(text) for pattern, _ in _IMAGE_URLS):
        return True
    scheme, _, rest = text.partition("://")
    host, _, path = rest.partition("/")
    if scheme not in ("http", "https") or (path and re.search(r"(?:^|/)(?:[:@]|$)", path)):
        return False
    return host in _DOCKER_HUB_ALIASES or _REGISTRY_HOST.fullmatch(host.partition(":")[0]) is not None


def without_scheme(url: str) -> str:
    """Return the reference that a pasted URL probably means; another text as it is.

    >>> without_scheme("https://hub.docker.com/_/alpine")
    'docker.io/library/alpine'
    """
    for pattern, name in _IMAGE_URLS:
        if matched := pattern.fullmatch(url):
            return matched.expand(name)
    return re.sub(r"^https?://", "", url)


def names_registry(text: str) -> bool:
    """Whether a reference begins with a registry, rather than a path on Docker Hub."""
    first, slash, _ = text.partition("@")[0].partition("/")
    return bool(slash) and bool(set(first) & set(".:[") or first == "localhost" or first != first.lower())


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The location of an image: a registry, a repository in it, and a tag or a digest or both.

    With both, the digest selects the bytes, and the tag is only a name for people.

    Args:
        registry: host with optional port, as the user wrote it: ``docker.io``, ``localhost:5000``, ``[::1]:5000``.
        repository: path in the registry, such as ``library/alpine``.
        tag: None only if a digest is given.
        digest: digest of the manifest or index.

    Spec: distribution-spec 1.1, "Pulling manifests"; github.com/distribution/reference for the grammar.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not _REGISTRY_PATTERN.fullmatch(self.registry):
            raise InvalidReferenceError(f"registry: expected host[:port], got {quoted(self.registry)}")
        if self.registry.startswith("[") and not _is_ipv6(self.registry[1:].partition("]")[0]):
            raise InvalidReferenceError(f"registry: expected an IPv6 address, got {quoted(self.registry)}")
        port = self.registry.rpartition(":")[2]
        if port.isdigit() and not number_in(port, 65535):
            raise InvalidReferenceError(f"registry port: expected 1 to 65535, got {quoted(port)}")
        if self.repository != self.repository.lower():
            raise InvalidReferenceError(f"repository: must be lower case, got {quoted(self.repository)}")
        if not _REPOSITORY_PATTERN.fullmatch(self.repository):
            raise InvalidReferenceError(
                f"repository: expected lower-case letters, digits and single separators, got {quoted(self.repository)}"
            )
        if len(self.repository) > MAX_REPOSITORY_CHARACTERS:
            raise InvalidReferenceError(
                f"repository: expected at most {MAX_REPOSITORY_CHARACTERS} characters, got {len(self.repository)}"
            )
        if self.tag is not None and not _TAG_PATTERN.fullmatch(self.tag):
            raise InvalidReferenceError(
                f"tag: expected up to 128 letters, digits, '_', '.' and '-', got {quoted(self.tag)}"
            )
        if self.tag is None and self.digest is None:
            raise InvalidReferenceError("reference: expected a tag or a digest, got neither")

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Return ``text`` parsed as a reference, with docker's defaults filled in.

        ``alpine`` is ``docker.io/library/alpine:latest``. The first part is a registry if it has a dot, a colon,
        brackets or an upper-case letter, or is ``localhost``; everything else is a path on Docker Hub.

        Raises:
            InvalidReferenceError: ``text`` does not parse; the message names the part.
        """
        try:
            return cls._parse(text)
        except (InvalidReferenceError, InvalidDigestError) as error:
            raise InvalidReferenceError(
                f"image reference {quoted(text)}: {error}", hint=cls._meant(text) or error.hint
            ) from error

    @classmethod
    def _meant(cls, text: str) -> str | None:
        """Return a hint with the reference probably meant: without a scheme, in lower case; None if that fails too."""
        name, at, digest = without_scheme(text).partition("@")
        path, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        meant = f"{path.lower()}{slash}{last.lower()}{colon}{tag}{at}{digest}"
        try:
            cls._parse(meant)
        except (InvalidReferenceError, InvalidDigestError):
            return None
        return f"did you mean {meant}?" if meant != text else None

    @classmethod
    def _parse(cls, text: str) -> ImageReference:
        if re.fullmatch(r"[0-9a-f]{64}", text):
            # docker refuses this too, since it may be meant as an image ID.
            raise InvalidReferenceError("repository: expected a name, got 64 hexadecimal digits")
        name, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        registry, _, path = name.partition("/")
        if not names_registry(text):
            registry, path = DEFAULT_REGISTRY, name
        path, colon, tag_text = path.partition(":")
        tag = tag_text if colon else None
        if registry in _DOCKER_HUB_ALIASES:
            registry = DEFAULT_REGISTRY
            # An invalid path stays as the user wrote it, for the message.
            if "/" not in path and _REPOSITORY_PATTERN.fullmatch(path):
                path = f"library/{path}"
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, path, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository, ``docker.io/library/alpine``."""
        return f"{self.registry}/{self.repository}"

    @property
    def manifest_selector(self) -> str:
        """The last part of a manifest's URL, after ``/manifests/``: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest is not None else str(self.tag)

    @property
    def is_docker_hub(self) -> bool:
        """Whether the registry is Docker Hub."""
        return self.registry == DEFAULT_REGISTRY

    def with_digest(self, digest: Digest) -> ImageReference:
        """Return the same repository and tag, pinned to ``digest``."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def _is_ipv6(text: str) -> bool:
    import ipaddress  # noqa: PLC0415 - start-up: few references have an address

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
