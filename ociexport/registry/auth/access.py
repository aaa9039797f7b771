"""Access: what requests do in a repository."""

from __future__ import annotations

from ociexport.spec.named_tuple import NamedTuple


class Access(NamedTuple):
    """What requests do in a repository, which a token must permit.

    Args:
        repository: empty for a login, which has no scope.
        writes: whether they also write to it.
        mounted_from: the repository that a blob is mounted from; it is only read.
    """

    repository: str
    writes: bool = False
    mounted_from: str | None = None

    @property
    def scope(self) -> str:
        """The scopes to ask for, separated by spaces."""
        if not self.repository:
            return ""
        own = f"repository:{self.repository}:{'pull,push' if self.writes else 'pull'}"
        return own if self.mounted_from is None else f"{own} repository:{self.mounted_from}:pull"

    def scope_with(self, challenged: str) -> str:
        """Return the scopes to ask for after a challenge that names ``challenged``.

        A challenge for a reading request names less than a later writing request needs.
        """
        if not self.writes:
            return challenged or self.scope
        return " ".join(dict.fromkeys([*self.scope.split(), *challenged.split()]))
