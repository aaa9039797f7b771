"""The names of all options that some command has, so that no command need load the others to tell a wrong name.

A test holds them against the commands.
"""

from __future__ import annotations

OPTION_NAMES = frozenset(
    """
    addr all authfile bundle ca-file cacert cache cert-dir compat config connect-timeout creds decompress deep devices
    digestfile directory dry-run events exclude follow foreign format from gid-map header include insecure jobs json
    keep-dirlinks latest layer layers legacy long max-depth max-files max-header max-memory max-metadata max-path
    max-ratio max-size max-wait mirror mtimes no-owners no-preflight no-progress null out owners password-stdin
    plain-http platform quiet raw read-timeout receipt recursive referrers registry-token repair replace retry-delay
    retry-times run-files sparse stall-limit stream strict sync tls-verify to-tar uid-map username userns v1 verbose
    verify-key xattrs
    """.split()  # noqa: SIM905 - one name a line would be a page
)
