"""Which server refused a request, and why, for the messages about it."""

from __future__ import annotations

from collections.abc import Iterable

from ociexport.errors import AuthenticationError, RegistryError, TransferError, quoted
from ociexport.registry.auth.challenges import Challenge
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl


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
