"""How many round trips a small pull waits for in a row, beside crane and skopeo, with 50 ms to the registry.

The registry is the fake one of the tests: it delays each answer and records when each request came, so the number does
not depend on how fast the machine is. Making a connection is not delayed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, build_index
from tests.support.memory_source import member
from tests.support.round_trips import sequential_round_trips

_ROUND_TRIP_SECONDS = 0.05
_RUNS = 5
_IMAGE = build_image([[member(name, name.encode() * 9000)] for name in ("a", "b", "c")], platform=host_platform())
_INDEX = build_index([_IMAGE, build_image([[member("d", b"d")]], platform=Platform("linux", "s390x"))])


def bench_round_trips(work: Path, ociexport: str) -> None:
    """Print a table of round trips and requests; a peer that is not installed is left out."""
    out = work / "out"
    tools: dict[str, Callable[[str], Sequence[str]]] = {
        "ociexport": lambda name: [ociexport, "pull", "-q", name, "--out", str(out)],
        "crane": lambda name: ["crane", "pull", "--insecure", "--format=oci", name, str(out)],
        "skopeo": lambda name: ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{out}:1"],
    }
    print("\nround trips in a row (all requests; median seconds), 50 ms each; target: never more than the peers\n")
    present = [name for name in tools if name == "ociexport" or shutil.which(name)]
    print(f"| pull | {' | '.join(present)} |\n|---|{'---|' * len(present)}")
    for title, image, needs_token, is_again in [
        ("one image, open registry", _IMAGE, False, False),
        ("one image of an index, open registry", _INDEX, False, False),
        ("one image, token, blobs on another host", _IMAGE, True, False),
        ("the same image again", _IMAGE, False, True),
        ("the same image again, with token", _IMAGE, True, True),
    ]:
        cells = []
        for tool in present:
            with (
                FakeRegistry(round_trip_seconds=_ROUND_TRIP_SECONDS) as storage,
                FakeRegistry(round_trip_seconds=_ROUND_TRIP_SECONDS, service="bench") as registry,
            ):
                if needs_token:
                    registry.auth, registry.redirect_to = "bearer", storage
                command = tools[tool](image.serve(registry, "bench/image", "1"))
                cells.append(_measured(command, out, (registry, storage), is_again=is_again))
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


def _measured(command: Sequence[str], out: Path, registries: Sequence[FakeRegistry], *, is_again: bool) -> str:
    seconds, trips, requests = [], [], []
    for _ in range(_RUNS):
        shutil.rmtree(out, ignore_errors=True)
        if is_again:
            subprocess.run(command, check=True, capture_output=True)
            sequential_round_trips(*registries)
        for registry in registries:
            registry.requests.clear()
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
        trips.append(sequential_round_trips(*registries))
        requests.append(sum(len(registry.requests) for registry in registries))
    return f"{statistics.median(trips):g} ({statistics.median(requests):g}; {statistics.median(seconds):.2f})"
