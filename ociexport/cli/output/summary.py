"""The last line of `pull` and `unpack`: source, target and digest, each once, and how much there was."""

from __future__ import annotations

import re

from ociexport.spec.digest import Digest

_DIGEST_AT_END = re.compile(r":?@sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})\Z")


def summary(done: str, source: str, target: str, digest: Digest, *details: str) -> str:
    """Return the line: ``pulled registry.example/app:1 to ./layout: sha256:0123456789ab, 3 blobs (2 MB) fetched``.

    The digest is short, since standard output has it in full; one in the source's name is left out.

    Args:
        done: what was done.
        source: the image's name in messages.
        target: where it is now, as the user wrote it.
        digest: the one that the command prints.
        details: numbers.
    """
    name = _DIGEST_AT_END.sub("", source) if "@sha" in source else source
    return f"{done} {name} to {target}: {', '.join((f'{digest.algorithm}:{digest.short}', *details))}"
