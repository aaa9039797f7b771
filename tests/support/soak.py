"""A soak: the real command pulls with a random fault each time, and must leave a valid layout each time.

    python -m tests.support.soak [PULLS] [SEED]

A fault is a body that is cut or reset, a temporary error status, temporarily wrong bytes, or a kill -9 of the process
at any moment, after which the pull is repeated. It hits a layer, the config or the manifest. Every fourth image has a
layer so large, and a registry so slow, that the layer comes over several connections; there the fault hits one of the
parts. Ten pulls in a row go into one layout, so each finds what the previous ones left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.fake_registry import FakeRegistry, Fault, Request
from tests.support.image_builder import BuiltImage, build_image
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT

_PULLS_INTO_ONE_LAYOUT = 10
_MAX_TRIES = 5
_STATUSES = {"408": 408, "429": 429, "500": 500, "502": 502, "503": 503}
_FAULTS = ("cut", "reset", "wrong bytes", "kill -9", "error status")
_LARGE_BYTES = 20 * 1024 * 1024
# The limit of each connection for a large layer, which would take over two seconds on a single one.
_SLOW_BYTES_PER_SECOND = 8 * 1024 * 1024
# As in `ociexport.registry.download.parts`; bytes before the first part come over one connection.
_PART_BYTES = 4 * 1024 * 1024
_EVERY_NTH_IS_LARGE = 4
# The blob already existed, or the process ended before the kill.
_NOT_MET = "the fault came too late"


def soak(pulls: int, seed: int) -> Counter[str]:
    """Make ``pulls`` pulls; return how many faults of each kind were survived, with faults in parts counted separately.

    Raises:
        AssertionError: a pull failed permanently, or left an incomplete layout.
    """
    generator = random.Random(seed)
    survived: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for number in range(pulls):
            is_large = number % _EVERY_NTH_IS_LARGE == 0
            image = _some_image(generator, number, is_large=is_large)
            layout = Path(name) / f"layout-{number // _PULLS_INTO_ONE_LAYOUT}"
            fault = generator.choice(_FAULTS)
            if fault == "error status":
                fault = generator.choice(list(_STATUSES))
            # A new registry each time, so an unused fault does not remain for the next pull.
            with FakeRegistry(bytes_per_second=_SLOW_BYTES_PER_SECOND if is_large else None) as registry:
                reference = image.serve(registry, "soak/image", f"{number}")
                was_killed = _pull_with(fault, generator, registry, image, reference, layout, is_large=is_large)
                came_in_parts = _connections(registry, image) > 1
                was_met = was_killed or registry.faults_met
            _verify_layout(layout, image, fault)
            kind = fault if was_met else _NOT_MET
            survived[f"{kind}, over several connections" if came_in_parts and was_met else kind] += 1
    return survived


def _some_image(generator: random.Random, number: int, *, is_large: bool) -> BuiltImage:
    """Return an image with a layer that all images share, and incompressible layers of its own; a large one is last."""
    shared = [member("etc/shared", b"shared " * 50_000)]
    own = [
        [member(f"own-{number}-{layer}", generator.randbytes(generator.randrange(1, 1_500_000)))]
        for layer in range(generator.randrange(1, 4))
    ]
    if is_large:
        own.append([member(f"own-{number}", generator.randbytes(_LARGE_BYTES))])
    return build_image([shared, *own])


def _connections(registry: FakeRegistry, image: BuiltImage) -> int:
    """Return the number of connections over which the last layer came."""
    path = str(image.layers[-1].digest)
    return len({request.connection for request in registry.requests if path in request.path})


def _pull_with(
    fault: str,
    generator: random.Random,
    registry: FakeRegistry,
    image: BuiltImage,
    reference: str,
    layout: Path,
    *,
    is_large: bool,
) -> bool:
    """Pull until it succeeds; return whether a process was killed on the way."""
    if is_large:
        blob, size = image.layers[-1], _PART_BYTES
        pattern = str(blob.digest)
    else:
        blob = generator.choice([*image.layers, image.config])
        pattern, size = generator.choice([(str(blob.digest), blob.size), ("/manifests/", image.descriptor.size)])
    where = generator.randrange(0, max(1, size))
    # Not in the first part of a large layer, which measures the speed of one connection.
    first = generator.randrange(1, _LARGE_BYTES // _PART_BYTES) * _PART_BYTES if is_large else 0

    def is_hit(request: Request) -> bool:
        begin = re.match(r"bytes=(\d+)-", request.headers.get("range", "bytes=0-"))
        return begin is not None and int(begin[1]) >= first

    if fault == "cut":
        registry.misbehave(pattern, Fault(cut_after=where), times=1, when=is_hit)
    elif fault == "reset":
        registry.misbehave(pattern, Fault(reset_after=where), times=1, when=is_hit)
    elif fault == "wrong bytes":
        wrong = Fault(change=lambda raw: raw[:where] + b"?" + raw[where + 1 :])
        registry.misbehave(pattern, wrong, times=1, when=is_hit)
    elif fault in _STATUSES:
        pattern = pattern if is_large else generator.choice([pattern, "/manifests/", "/v2/"])
        times = generator.randrange(1, 3)
        registry.misbehave(pattern, Fault(status=_STATUSES[fault]), times=times, when=is_hit)
    was_killed = False
    command = [*OCIEXPORT, "pull", "-q", "--retry-delay", "0.05", reference, "--out", str(layout)]
    for _ in range(_MAX_TRIES):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if fault == "kill -9":
            # Start-up takes a third of this time; the second try is not killed.
            time.sleep(generator.uniform(0.05, 1.5 if is_large else 0.6))
            process.send_signal(signal.SIGKILL)
            fault = "killed"
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            return was_killed
        was_killed = True
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"{fault}: exit {process.returncode}: {errors}")
    raise AssertionError(f"{fault}: never ended well")


def _verify_layout(layout: Path, image: BuiltImage, fault: str) -> None:
    """Check by the specification, without the package's code: every blob hashes to its name, and none is missing."""
    index = json.loads((layout / "index.json").read_bytes())
    named = {entry["digest"] for entry in index["manifests"]}
    if str(image.digest) not in named:
        raise AssertionError(f"{fault}: the image has no name")
    for path in (layout / "blobs" / "sha256").iterdir():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                raise AssertionError(f"{fault}: {path.name} is not what its name says")
    there = set(os.listdir(layout / "blobs" / "sha256"))
    for digest in named:
        manifest = json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())
        wanted = {item["digest"].removeprefix("sha256:") for item in [manifest["config"], *manifest["layers"]]}
        if not wanted <= there:
            raise AssertionError(f"{fault}: blobs are missing")


if __name__ == "__main__":
    total = soak(*(int(word) for word in (sys.argv[1:] + ["200", "1"][len(sys.argv) - 1 :])))
    print(f"{total.total()} pulls, each with a fault, and a valid layout every time:")
    for kind, count in sorted(total.items()):
        print(f"  {kind}: {count}")
