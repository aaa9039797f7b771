"""How many round trips a client waited for one after another, from what `FakeRegistry.round_trips` recorded."""

from __future__ import annotations

from tests.support.fake_registry import FakeRegistry


def sequential_round_trips(*registries: FakeRegistry) -> int:
    """Return the length of the longest row of requests of which each was sent after the answer to the one before.

    The registries need `round_trip_seconds`; what they recorded is forgotten.
    """
    # Of the requests that begin after the last answer, the one that is answered first leaves the most time.
    answered = sorted((end, begin) for registry in registries for begin, end in registry.round_trips)
    for registry in registries:
        registry.round_trips.clear()
    count, last = 0, 0.0
    for end, begin in answered:
        if begin >= last:
            count, last = count + 1, end
    return count
