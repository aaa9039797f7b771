"""`make bench`: ociexport compared with other tools, on an image that is built first, in a memory file system.

    python -m tests.bench [startup] [same] [unpack] [pull] [deep] [throttled] [many] [growth] [updates] [roundtrips]

Each part prints the target beside the measurement. docs/about/performance.md keeps the results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ociexport.images.resolve import resolve_manifest
from ociexport.spec.platforms import host_platform
from ociexport.storage.layout.layout import ImageLayout
from tests.bench.bench_image import IMAGE, build_bench_image
from tests.bench.installed import installed_ociexport, memory_directory
from tests.bench.many_tags import bench_tags
from tests.bench.measuring import Contender, compare, removing
from tests.bench.round_trips import bench_round_trips
from tests.bench.throttle import throttled
from tests.bench.updates import bench_updates
from tests.support.system_parts import docker_registry, run
from tests.support.tree_metadata import describe_tree, differences

_IMAGE_DIRECTORY = Path(".bench")
_INFLATE_AND_HASH = """
import hashlib, sys
from ociexport.system.compression import read_tar_chunks
for path in sys.argv[1:]:
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as blob:
        for chunk in read_tar_chunks(blob, 256 * 1024):
            hasher.update(chunk)
"""


def main() -> int:
    """Run the named parts, or all; return an exit code."""
    parts = {
        "startup": bench_startup,
        "same": check_same,
        "unpack": bench_unpack,
        "pull": bench_pull,
        "deep": bench_deep,
        "throttled": bench_throttled,
        "many": bench_many,
        "growth": bench_growth,
        "updates": bench_updates_of_packages,
        "roundtrips": bench_round_trips_of_pulls,
    }
    for name in sys.argv[1:] or parts:
        parts[name]()
    return 0


def bench_startup() -> None:
    """Time `ociexport --version`: under three times ``python -c pass``."""
    python = str(Path(installed_ociexport()).with_name("python"))
    timings = compare(
        "start-up; target: under 3.00",
        [
            Contender("ociexport --version", [installed_ociexport(), "--version"]),
            Contender("python -c pass", [python, "-c", "pass"]),
        ],
        runs=30,
    )
    ratio = timings["ociexport --version"].wall / timings["python -c pass"].wall
    print(f"\nstart-up: {ratio:.2f} times python -c pass: {'reached' if ratio < 3 else 'NOT reached'}")


def check_same() -> None:
    """Check that the timed work is the same: umoci's tree and ours have equal metadata and content.

    Raises:
        AssertionError: they differ.
    """
    built = build_bench_image(_IMAGE_DIRECTORY)
    with memory_directory() as work:
        run(installed_ociexport(), "unpack", "-q", built, work / "ours")
        run("umoci", "raw", "unpack", "--image", f"{built}:{IMAGE}", work / "theirs")
        ours, theirs = describe_tree(work / "ours"), describe_tree(work / "theirs")
    found = differences(ours, theirs)
    if found:
        raise AssertionError(f"{len(found)} differences to umoci, the first of {min(found)!r}: {found[min(found)]}")
    print(f"\nthe {len(ours)} paths of the bench image equal umoci's in all metadata and content")


def bench_unpack() -> None:
    """Time unpacking, with umoci, igzip with tar, and inflating alone for comparison."""
    built = build_bench_image(_IMAGE_DIRECTORY)
    with memory_directory() as work:
        layout = work / "layout"
        shutil.copytree(built, layout)
        layers = [str(layout / "blobs" / digest.replace(":", "/")) for digest in _layer_digests(layout)]
        target = work / "rootfs"
        clear = removing(target)
        each = f"for l in {' '.join(layers)}; do igzip -dc $l"
        tar = f"mkdir {target} && {each} | tar -C {target} -xpf - --xattrs --numeric-owner; done"
        inflate = f"{each} >/dev/null; done"
        with _served(layout, work / "registry") as reference:
            compare(
                "unpack; target: umoci 0.23, igzip with tar 0.72, inflating alone 1.7, from the registry 0.80",
                [
                    Contender(
                        "ociexport unpack", [installed_ociexport(), "unpack", "-q", str(layout), str(target)], clear
                    ),
                    Contender(
                        "umoci raw unpack",
                        ["umoci", "raw", "unpack", "--image", f"{layout}:{IMAGE}", str(target)],
                        clear,
                    ),
                    Contender("igzip -dc | tar -x", ["sh", "-c", tar], clear),
                    Contender("igzip -dc alone", ["sh", "-c", inflate]),
                    Contender(
                        "ociexport unpack, from a registry",
                        [installed_ociexport(), "unpack", "-q", reference, str(target)],
                        clear,
                    ),
                ],
            )


def bench_pull() -> None:
    """Time pulling from Debian's registry into a layout, with skopeo for comparison."""
    built = build_bench_image(_IMAGE_DIRECTORY)
    with memory_directory() as work, _served(built, work / "registry") as reference:
        compare("pull; target: skopeo 0.5", _pull_contenders(reference, work))


def bench_deep() -> None:
    """Time ``pull --deep`` against the plain pull: from memory, where the processor is the limit, and over a network.

    Inflating and hashing the tars alone is timed for comparison: this is the least that ``--deep`` adds, divided by the
    number of processors that are free.
    """
    built = build_bench_image(_IMAGE_DIRECTORY)
    with memory_directory() as work:
        layout = work / "layout"
        shutil.copytree(built, layout)
        layers = [str(layout / "blobs" / digest.replace(":", "/")) for digest in _layer_digests(layout)]
        least = [str(Path(installed_ociexport()).with_name("python")), "-c", _INFLATE_AND_HASH, *layers]
        with (
            _served(layout, work / "registry") as reference,
            throttled(reference.partition("/")[0], bytes_per_second=20_000_000, request_delay_seconds=0.05) as proxy,
        ):
            timings = compare("pull --deep; target: 0.63", _deep_contenders(reference, work))
            compare("the least that --deep adds", [Contender("inflate and hash, one processor", least)])
            far = f"{proxy}/{reference.partition('/')[2]}"
            compare("pull --deep, throttled; target: 0.63", _deep_contenders(far, work), runs=3)
    plain, deep = timings.values()
    print(f"\npull --deep: {deep.wall / plain.wall:.2f} times the plain pull, target: at most 1.60")


def _deep_contenders(reference: str, work: Path) -> list[Contender]:
    target = work / "pulled"
    return [
        Contender(
            f"ociexport pull {option}",
            [installed_ociexport(), "pull", "-q", option, reference, "--out", str(target)],
            removing(target),
        )
        for option in ("--no-deep", "--deep")
    ]


def _pull_contenders(reference: str, work: Path) -> list[Contender]:
    ours, theirs = work / "ours", work / "theirs"
    return [
        Contender(
            "ociexport pull", [installed_ociexport(), "pull", "-q", reference, "--out", str(ours)], removing(ours)
        ),
        Contender(
            "skopeo copy",
            ["skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{theirs}:1"],
            removing(theirs),
        ),
    ]


def bench_throttled() -> None:
    """Time the same through a proxy that limits each connection to 20 MB/s and delays each request by 50 ms."""
    built = build_bench_image(_IMAGE_DIRECTORY)
    with (
        memory_directory() as work,
        _served(built, work / "registry") as reference,
        throttled(reference.partition("/")[0], bytes_per_second=20_000_000, request_delay_seconds=0.05) as proxy,
    ):
        far = f"{proxy}/{reference.partition('/')[2]}"
        compare("pull, throttled; target: skopeo 0.5", _pull_contenders(far, work), runs=3)


def bench_many() -> None:
    """Time two hundred small images into one layout, with as many runs of skopeo for comparison, and half as many."""
    with memory_directory() as work, _many_served(200, work, installed_ociexport()) as host:
        _bench_many(host, work)


@contextmanager
def _many_served(count: int, work: Path, ociexport: str) -> Iterator[str]:
    """Serve a layout of many small images on loopback; yield the server's name."""
    run(sys.executable, "-m", "tests.bench.many_images", work / "images", str(count))
    command = [ociexport, "serve", str(work / "images"), "--addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield server.stdout.readline().strip() if server.stdout is not None else ""
        finally:
            server.terminate()


def _bench_images(count: int, work: Path, command: str) -> None:
    """Time what is done with one image of a layout of ``count``, and pulling all of them again."""
    with _many_served(count, work, command) as host:
        layout = str(work / "ours")
        references = [f"{host}/bench/image-{number}:1" for number in range(count)]
        pull = [command, "pull", "-q", "--out", layout]
        run(*pull, *references)
        contenders = [
            Contender("pull all again", [*pull, *references]),
            Contender("pull one again", [*pull, references[0]]),
            Contender("ls of one", [command, "ls", "-q", f"{layout}:{references[0]}"]),
            Contender("verify all", [command, "verify", "-q", layout]),
        ]
        compare(f"growth: {count} images in a layout", contenders, runs=3)


def _bench_many(host: str, work: Path) -> None:
    references = [f"{host}/bench/image-{number}:1" for number in range(200)]
    ours, theirs = work / "ours", work / "theirs"
    copies = " && ".join(
        f"skopeo copy --src-tls-verify=false docker://{reference} oci:{theirs}:{number}"
        for number, reference in enumerate(references)
    )
    pull = [installed_ociexport(), "pull", "-q", "--out", str(ours)]
    compare(
        "200 small images; target: skopeo 0.5",
        [
            Contender("ociexport pull, 200 images", [*pull, *references], removing(ours)),
            Contender("ociexport pull, 100 of them", [*pull, *references[:100]], removing(ours)),
            Contender("200 runs of skopeo copy", ["sh", "-c", copies], removing(theirs)),
        ],
        runs=3,
    )


def bench_growth() -> None:
    """Time 127 layers, very many tiny files, images of a layout, and tags: time should grow with their number."""
    for files in (25_000, 50_000, 100_000, 200_000):
        _bench_built(f"{files} tiny files", 1, files)
    for layers in (32, 64, 127):
        _bench_built(f"{layers} layers of 200 tiny files", layers, 200)
    command = installed_ociexport()
    for images in (250, 500, 1000):
        with memory_directory() as work:
            _bench_images(images, work, command)
    for tags in (2_500, 5_000, 10_000):
        with memory_directory() as work:
            bench_tags(tags, work, command)


def bench_updates_of_packages() -> None:
    """Measure a layer update by recipe: at most 6.5 % of the gzip layer, 2.5 and 4 CPU seconds per 200 MB, 96 MiB."""
    with memory_directory() as work:
        # In a separate process, as above.
        build = [sys.executable, "-m", "tests.bench.updates", str(work)]
        ended = subprocess.run(build, stderr=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            print(f"updates: skipped: {ended.stderr.strip()}")
            return
        os.environ["TMPDIR"] = str(work)
        bench_updates(work, installed_ociexport())


def bench_round_trips_of_pulls() -> None:
    """Count the round trips of a pull that follow one another, with crane and skopeo for comparison."""
    with memory_directory() as work:
        bench_round_trips(work, installed_ociexport())


def _bench_built(name: str, layers: int, files: int) -> None:
    with memory_directory() as work:
        layout, target = work / "layout", work / "rootfs"
        # In a separate process: a child's peak includes its parent's memory at the time of the fork.
        run(sys.executable, "-m", "tests.bench.growth_image", layout, str(layers), str(files))
        contender = Contender(name, [installed_ociexport(), "unpack", "-q", str(layout), str(target)], removing(target))
        compare(f"growth: {name}", [contender], runs=3)


@contextmanager
def _served(layout: Path, directory: Path) -> Iterator[str]:
    """Put the image into Debian's registry on loopback; yield its reference."""
    with docker_registry(directory) as host:
        reference = f"{host}/bench/image:1"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:{IMAGE}", f"docker://{reference}")
        yield reference


def _layer_digests(layout: Path) -> list[str]:
    manifest = resolve_manifest(ImageLayout(layout).open_image(IMAGE), host_platform()).manifest
    return [str(layer.digest) for layer in manifest.layers]


if __name__ == "__main__":
    sys.exit(main())
