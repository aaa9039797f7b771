"""A soak: pulls with a random fault in each, by the real command, and a valid layout in the end every time.

    python -m tests.soak [PULLS] [SEED]

A fault is a body that is cut or reset, an error status that passes, wrong bytes that pass, or a kill -9 of the process
at any moment, after which the pull is begun again. Ten pulls in a row go into one layout, so that what one leaves is
what the next finds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import BuiltImage, build_image
from tests.memory_source import member
from tests.system_parts import OCIEXPORT

_PULLS_INTO_ONE_LAYOUT = 10
_MAX_TRIES = 5
_STATUSES = {"408": 408, "429": 429, "500": 500, "502": 502, "503": 503}
_FAULTS = ("cut", "reset", "wrong bytes", "kill -9", *_STATUSES)


def soak(pulls: int, seed: int) -> Counter[str]:
    """Make so many pulls; returns how many faults of each kind were survived.

    Raises:
        AssertionError: a pull failed for good, or left a layout that is not whole.
    """
    generator = random.Random(seed)
    survived: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for number in range(pulls):
            image = _some_image(generator, number)
            layout = Path(name) / f"layout-{number // _PULLS_INTO_ONE_LAYOUT}"
            fault = generator.choice(_FAULTS)
            # A new registry each time: a fault that was not met, since its blob was there already, shall not wait.
            with FakeRegistry() as registry:
                reference = image.serve(registry, "soak/image", f"{number}")
                _pull_with(fault, generator, registry, image, reference, layout)
            _verify_layout(layout, image, fault)
            survived[fault] += 1
    return survived


def _some_image(generator: random.Random, number: int) -> BuiltImage:
    """Return an image of a layer that all share, and some of its own that do not compress."""
    shared = [member("etc/shared", b"shared " * 50_000)]
    own = [
        [member(f"own-{number}-{layer}", generator.randbytes(generator.randrange(1, 1_500_000)))]
        for layer in range(generator.randrange(1, 4))
    ]
    return build_image([shared, *own])


def _pull_with(
    fault: str, generator: random.Random, registry: FakeRegistry, image: BuiltImage, reference: str, layout: Path
) -> None:
    layer = generator.choice(image.layers)
    where = generator.randrange(0, max(1, layer.size))
    pattern = str(layer.digest)
    if fault == "cut":
        registry.misbehave(pattern, Fault(cut_after=where), times=1)
    elif fault == "reset":
        registry.misbehave(pattern, Fault(reset_after=where), times=1)
    elif fault == "wrong bytes":
        registry.misbehave(pattern, Fault(change=lambda raw: raw[:where] + b"?" + raw[where + 1 :]), times=1)
    elif fault in _STATUSES:
        pattern = generator.choice([pattern, "/manifests/", "/v2/"])
        registry.misbehave(pattern, Fault(status=_STATUSES[fault]), times=generator.randrange(1, 3))
    command = [*OCIEXPORT, "pull", "-q", "--retry-delay", "0.05", reference, "--out", str(layout)]
    for _ in range(_MAX_TRIES):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if fault == "kill -9":
            # Start-up takes a third of it; the second try is left alone.
            time.sleep(generator.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
            fault = "killed"
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            return
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"{fault}: exit {process.returncode}: {errors}")
    raise AssertionError(f"{fault}: never ended well")


def _verify_layout(layout: Path, image: BuiltImage, fault: str) -> None:
    """Check by the specification alone, with none of our own code: every blob hashes to its name, none is missing."""
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
