"""SOURCE_DATE_EPOCH: the time that reproducible builds ask for.

Spec: reproducible-builds.org, "SOURCE_DATE_EPOCH specification".
"""

from __future__ import annotations

import os

from ociexport.errors import UsageError, quoted
from ociexport.spec.numerals import number_in


def source_date_epoch() -> int | None:
    """Return the seconds since 1970 that the environment asks for; None where it asks for none.

    Raises:
        UsageError: it is no number; the specification has such a build fail.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    # What a tar header without an extension holds is far enough in the future.
    seconds = number_in(text, 8**11 - 1)
    if seconds is None:
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {quoted(text)}")
    return seconds
