"""Which server refused a request, and why, for the messages about it."""

from __future__ import annotations

from collections.abc import Iterable

from ociexport.errors import AuthenticationError, RegistryError, RegistryNotFoundError, TransferError, quoted
from ociexport.registry.auth.access import Access
from ociexport.registry.auth.challenges import Challenge
from ociexport.registry.auth.credentials import Finding
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl

# In the path of each URL of a registry's API; a proxy may put a directory before it.
_API = "/v2/"


def without_usable_challenge(refusal: RegistryError, challenges: Iterable[Challenge]) -> AuthenticationError:
    """Return ``refusal`` with the schemes that the server offers, none of which can be answered."""
    offered = ", ".join(dict.fromkeys(quoted(challenge.scheme) for challenge in challenges)) or "none"
    return AuthenticationError(
        f"{refusal}; expected a challenge with the scheme Basic or Bearer, got {offered}",
        method=refusal.method,
        url=refusal.url,
        status=refusal.status,
        codes=refusal.codes,
        hint="check that this is a registry; if its operators give out tokens, send one with --registry-token",
    )


def is_of_other_server(error: RegistryError, asked: WebUrl) -> bool:
    """Whether the answer came from a server that sees none of the credentials for ``asked``."""
    try:
        answered = WebUrl.parse(error.url.partition("?")[0])
    except InvalidUrlError:
        return False
    return not asked.may_show_secrets_to(answered)


def is_of_storage(error: RegistryError, asked: WebUrl) -> bool:
    """Whether the answer came from where a redirect led: another server, or a place outside the API on the same one."""
    if is_of_other_server(error, asked):
        return True
    try:
        answered = WebUrl.parse(error.url.partition("?")[0])
    except InvalidUrlError:
        return False
    return _API in asked.target and _API not in answered.target


def blaming_registry(error: TransferError, host: str, realm: str) -> TransferError:
    """Return an error that blames the registry: the user named only the registry, not its token service."""
    return TransferError(
        f"{error}; the registry's own token service is misconfigured or unreachable",
        method=error.method,
        url=error.url,
        status=error.status,
        codes=error.codes,
        hint=f"registry {host} directs clients to {realm} for tokens: report this to its operators",
    )


def hint_for_refusal(error: RegistryError, finding: Finding | None, access: Access, registry: str) -> str | None:
    """Return a hint with the likely cause and what the user can do; None if the error's own hint is better.

    Args:
        finding: the credentials used; None if the server asked for none.
        access: what the request did.
        registry: the name to log in to.
    """
    login = f"ociexport login {registry}"
    if finding is None or not finding.credentials:
        if isinstance(error, RegistryNotFoundError):
            return f"check the spelling; if it is private, log in with '{login}'"
        if isinstance(error, AuthenticationError):
            return f"the registry requires credentials: log in with '{login}'"
        return None
    who = f"{finding.credentials} (from {finding.place})"
    if isinstance(error, RegistryNotFoundError):
        return f"check the spelling; {who} may also lack access to this repository"
    if isinstance(error, AuthenticationError) and error.status == 401:
        return f"the registry does not accept {who}: log in again with '{login}'"
    if isinstance(error, AuthenticationError) and error.status == 403:
        verb = "write to" if access.writes else "read"
        return f"{who} may not {verb} this repository, or the registry blocks this client"
    return None
