"""Credential helpers: programs that keep secrets for docker.

``docker-credential-NAME get`` reads a server's name from standard input and writes JSON with user and secret.
``store`` reads such JSON; ``erase`` reads a server's name.

Spec: github.com/docker/docker-credential-helpers, README "Development".
"""

from __future__ import annotations

import json
import os
import re
import subprocess

from ociexport.errors import AuthenticationError, InvalidImageError, quoted
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import parse_json_object

# A helper may prompt its user to unlock a key ring; in CI, a pull must not wait for this for ever.
HELPER_SECONDS = 60
# With this user name the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's word
_NOT_FOUND = "credentials not found in native keychain"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def fetch_from_helper(name: str, server: str, place: str) -> Credentials | None:
    """Return the helper's credentials for ``server``; None where it has none.

    Args:
        place: the file that names this helper, for messages.

    Raises:
        AuthenticationError: the helper is missing, fails, takes too long, or its answer is invalid.
    """
    finished = _run(name, "get", server, place)
    if finished.returncode != 0:
        said = finished.stdout.strip() or finished.stderr.strip()
        if said == _NOT_FOUND:
            return None
        raise _error(name, place, f"get {server} failed ({finished.returncode}): {quoted(said)}")
    try:
        item = parse_json_object(finished.stdout.encode("utf-8"), where="answer")
        username, secret = item.optional_text("Username"), item.optional_text("Secret")
    except InvalidImageError as error:
        # The parser's message shows none of the content, which is secret.
        raise _error(name, place, str(error)) from error
    if secret is None:
        return None
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


def store_in_helper(name: str, server: str, credentials: Credentials, place: str) -> None:
    """Store ``credentials`` for ``server`` in the helper.

    Raises:
        AuthenticationError: see `fetch_from_helper`.
    """
    username = _TOKEN_USER if credentials.identity_token is not None else credentials.username
    secret = credentials.identity_token or credentials.password
    item = {"ServerURL": server, "Username": username, "Secret": secret}
    finished = _run(name, "store", json.dumps(item), place)
    if finished.returncode != 0:
        raise _error(name, place, f"store failed ({finished.returncode}): {quoted(finished.stdout.strip())}")


def erase_from_helper(name: str, server: str, place: str) -> None:
    """Erase the credentials for ``server`` from the helper; having none is not an error.

    Raises:
        AuthenticationError: see `fetch_from_helper`.
    """
    finished = _run(name, "erase", server, place)
    if finished.returncode != 0 and finished.stdout.strip() != _NOT_FOUND:
        raise _error(name, place, f"erase failed ({finished.returncode}): {quoted(finished.stdout.strip())}")


def _run(name: str, action: str, stdin: str, place: str) -> subprocess.CompletedProcess[str]:
    if not _NAME.fullmatch(name):
        raise _error(quoted(name), place, "expected letters, digits, '.', '_' and '-' in its name")
    try:
        return subprocess.run(
            [f"docker-credential-{name}", action],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise _error(name, place, "program not found on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise _error(name, place, f"no answer in {HELPER_SECONDS} s") from error
    except OSError as error:
        import shutil  # noqa: PLC0415 - start-up: for an error only

        # If PATH contains a directory that may not be searched, the kernel reports EACCES instead of ENOENT.
        if isinstance(error, PermissionError) and shutil.which(f"docker-credential-{name}", mode=os.F_OK) is None:
            raise _error(name, place, "program not found on PATH") from error
        raise _error(name, place, f"can't be run: {error.strerror}") from error


def _error(name: str, place: str, message: str) -> AuthenticationError:
    return AuthenticationError(
        f"{place}: credential helper docker-credential-{name}: {message}",
        hint="install the helper, remove it from the file, or give credentials with --creds",
    )
