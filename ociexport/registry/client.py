"""RegistryClient: the state that all images of a run share: connections, tokens, mirrors that are down."""

from __future__ import annotations

import functools
import threading

from ociexport.errors import OciexportError, TransferError
from ociexport.registry.auth.credentials import Finding, is_any_auth_place
from ociexport.registry.early import EarlyConnections
from ociexport.registry.hosts.endpoints import Endpoint, endpoint_for
from ociexport.registry.hosts.registries_conf import RegistriesConf, read_registries_conf
from ociexport.registry.hosts.routes import Route, routes_for
from ociexport.registry.http.transport import Transport
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.registry.session import RegistrySession
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT, Progress


class RegistryClient:
    """The state that all sources of a run share: connections, tokens, and which mirrors are down.

    Args:
        options: how registries are reached.
        progress: receives retries, skipped mirrors and registries' warnings.
        early: connections that are being made; the client closes them.
    """

    def __init__(
        self,
        options: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = SILENT,
        early: EarlyConnections | None = None,
    ) -> None:
        self.options = options
        self.progress = progress
        self.transport = Transport(options, progress, early)
        self._sessions: dict[tuple[Endpoint, bool], RegistrySession] = {}
        self._lock = threading.Lock()
        self._down: set[Endpoint] = set()
        self._verified: set[tuple[str, str]] = set()  # names only: a list may have 10,000 repositories

    @functools.cached_property
    def registries_conf(self) -> RegistriesConf:
        """The configuration files; read once, when first needed."""
        return read_registries_conf(self.options.registries_conf)

    def home(self, reference: ImageReference) -> Route:
        """Return the route to the registry itself, for requests that a mirror can only answer in part.

        Raises:
            UsageError, OSError: a configuration file is invalid or can't be read.
        """
        return routes_for(reference, self.options, self.registries_conf)[-1]

    def verify_login(self, registry: str) -> bool:
        """Return True if ``registry`` accepts the given credentials, and False if it asks for none.

        Raises:
            AuthenticationError: the registry does not accept them.
            RegistryError: the registry can't be reached.
        """
        endpoint = endpoint_for(registry, self.options)
        return self.session(Route(endpoint, "")).verify_login()

    def session(self, route: Route, kind: type[RegistrySession] = RegistrySession) -> RegistrySession:
        """Return the session with the server of ``route``; its credentials can be read.

        Args:
            kind: how the server is asked; for a server of files, see `web_layout`.

        Raises:
            UsageError, OSError: a file with credentials is invalid or can't be read, or the named one does not exist.
        """
        endpoint = route.endpoint
        given = None if route.is_mirror else self.options.credentials
        self.verify_auth_files(endpoint, route.repository, is_given=given is not None)
        with self._lock:
            key = (endpoint, route.is_mirror)
            if key not in self._sessions:
                unasked = given.registry_token if given is not None else None
                search = functools.partial(self.search, endpoint, given is not None)
                self._sessions[key] = kind(endpoint, search, self.transport, unasked=unasked)
            return self._sessions[key]

    def verify_auth_files(self, endpoint: Endpoint, repository: str, *, is_given: bool) -> None:
        """Return if the files with credentials can be read; they are read again when the server asks for credentials.

        Args:
            is_given: as for `search`; then only ``--authfile`` is read.

        Raises:
            UsageError, OSError: as `session`.
        """
        if is_given and self.options.authfile is None:
            return
        key = (endpoint.registry, repository)
        if key not in self._verified:
            if is_any_auth_place(self.options.authfile):
                from ociexport.registry.auth.auth_files import (  # noqa: PLC0415 - start-up: many machines have no such file
                    verify_auth_files,
                )

                verify_auth_files(endpoint.registry, repository, self.options.authfile)
            self._verified.add(key)

    def search(self, endpoint: Endpoint, is_given: bool, repository: str) -> Finding:
        """Return the credentials for a repository, and where they were found.

        Args:
            is_given: whether the credentials of the command line (``--creds``) are for this server.
        """
        # Credentials from the command line are for the registry in the image's name, not for its mirrors.
        if is_given and self.options.credentials is not None:
            return Finding(self.options.credentials, "the command line")
        from ociexport.registry.auth.auth_files import (  # noqa: PLC0415 - start-up: few registries ask for credentials
            search_credentials,
        )

        return search_credentials(endpoint.registry, repository, self.options.authfile)

    def suggest_tag(self, reference: ImageReference, error: OciexportError) -> None:
        """Set the hint of ``error``, a tag not found, to the tag closest in spelling, if there is one."""
        from ociexport.registry.tags import nearest_tag  # noqa: PLC0415 - start-up: only a missing tag needs it

        home = self.home(reference)
        meant = nearest_tag(self.session(home), home.repository, reference.manifest_selector)
        if meant is not None:
            error.hint = f"did you mean {reference.name}:{meant}?"

    def is_down(self, route: Route) -> bool:
        """Whether a mirror could not be reached, and so is not asked again."""
        return route.is_mirror and route.endpoint in self._down

    def pass_over(self, route: Route, error: OciexportError) -> None:
        """Report that a mirror is skipped; if it could not be reached, it is not asked again."""
        if isinstance(error, TransferError):
            self._down.add(route.endpoint)
        self.progress.say(f"skipping mirror {route.endpoint.host}: {error}")

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()
