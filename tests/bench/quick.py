"""`make bench-quick`: a few ratios in some two minutes, beside those of the last release; for information only.

    python -m tests.bench.quick [--record] [--few]

A ratio compares ociexport with another program that ran in turn with it, so it hardly depends on the machine. A program
that is not installed is left out. ``--record`` writes the ratios to `last_release.json`, which is done with a release;
``--few`` makes three runs of each.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path

from tests.bench.installed import installed_ociexport, memory_directory
from tests.bench.measuring import Contender, compare, removing
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, directory, member
from tests.support.system_parts import docker_registry, run

_RECORD = Path(__file__).with_name("last_release.json")
_RUNS = 3 if "--few" in sys.argv else 7


def main() -> int:
    """Measure, and print a table of ratios; return an exit code."""
    ratios: dict[str, float] = {}
    with memory_directory() as work:
        _measure_start(ratios)
        write_layout(work / "small", {"1": build_image([[member("hello", b"hello")]])})
        write_layout(work / "middle", {"1": build_image([_files(number) for number in range(4)])})
        with docker_registry(work / "registry") as host:
            for name in ("small", "middle"):
                image = f"docker://{host}/bench/{name}:1"
                run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{work / name}:1", image)
                _measure_pull(name, f"{host}/bench/{name}:1", work, ratios)
        _measure_unpack(work, ratios)
    _print(ratios)
    if "--record" in sys.argv:
        _RECORD.write_text(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}, indent=2) + "\n")
    return 0


def _files(number: int) -> list[Member]:
    """Return a layer: 500 small files of text, and 12 MB that don't compress."""
    seeded = random.Random(number)
    small = [
        member(f"layer{number}/f{file}", b"%d " % file * seeded.randrange(1, 2000), mode=0o644) for file in range(500)
    ]
    return [directory(f"layer{number}"), *small, member(f"layer{number}/large", seeded.randbytes(12_000_000))]


def _measure_start(ratios: dict[str, float]) -> None:
    python = str(Path(installed_ociexport()).with_name("python"))
    ours, theirs = [installed_ociexport(), "--version"], [python, "-c", "pass"]
    _add(ratios, "--version to python -c pass", Contender("ociexport --version", ours), Contender("python", theirs))


def _measure_pull(name: str, reference: str, work: Path, ratios: dict[str, float]) -> None:
    ours, theirs = work / "ours", work / "theirs"
    pull = [installed_ociexport(), "pull", "-q", reference, "--out", str(ours)]
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"oci:{theirs}:1"]
    _add(
        ratios,
        f"pull, {name} image, to skopeo",
        Contender("ociexport pull", pull, removing(ours)),
        Contender("skopeo copy", copy, removing(theirs)),
    )
    _add(ratios, f"pull again, {name} image, to skopeo", Contender("pull again", pull), Contender("skopeo again", copy))


def _measure_unpack(work: Path, ratios: dict[str, float]) -> None:
    layout, ours, theirs = work / "middle", work / "tree", work / "their-tree"
    unpack = [installed_ociexport(), "unpack", "-q", str(layout), str(ours)]
    umoci = ["umoci", "raw", "unpack", "--image", f"{layout}:1", str(theirs)]
    _add(
        ratios,
        "unpack, middle image, to umoci",
        Contender("ociexport unpack", unpack, removing(ours)),
        Contender("umoci raw unpack", umoci, removing(theirs)),
    )
    look = [installed_ociexport(), "ls", str(layout), "/"]
    version = [installed_ociexport(), "--version"]
    run(*look)
    _add(ratios, "ls again to --version", Contender("ociexport ls", look), Contender("--version", version))


def _add(ratios: dict[str, float], name: str, ours: Contender, theirs: Contender) -> None:
    if shutil.which(theirs.command[0]) is None:
        print(f"{name}: left out, {theirs.command[0]} is not installed")
        return
    timings = compare(name, [ours, theirs], runs=_RUNS)
    ratios[name] = timings[ours.name].wall / timings[theirs.name].wall


def _print(ratios: dict[str, float]) -> None:
    before = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    print(f"\n| ratio of wall medians, {_RUNS} runs in turn, {os.cpu_count()} processors | now | last release |")
    print("|---|---|---|")
    for name, ratio in ratios.items():
        known = before.get(name)
        print(f"| {name} | {ratio:.2f} | {'' if known is None else f'{known:.2f}'} |")


if __name__ == "__main__":
    sys.exit(main())
