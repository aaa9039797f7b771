"""Two layers built from Debian's packages, and the size and the cost of an update from one to the other.

    python -m tests.bench.updates PLACE    builds the layers in PLACE

Both layers have the same packages. Those of `UPDATED` that apt offers in two versions differ: in Debian stable these
are what a point release or the security archive has updated.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.measuring import Contender, Timing, compare, removing
from tests.support.image_builder import build_image, write_layout
from tests.support.system_parts import run

UPDATED = (
    "libc6",
    "libssl3",
    "openssl",
    "curl",
    "libcurl4",
    "libcurl3-gnutls",
    "libexpat1",
    "libxml2",
    "libsystemd0",
    "libudev1",
    "libpam-modules",
    "perl-base",
    "libpython3.11-minimal",
    "python3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11",
    "liblzma5",
)
# The same on both sides, as many as fit.
UNCHANGED = (
    "g++-12",
    "cpp-12",
    "libicu72",
    "perl-modules-5.36",
    "git",
    "libperl5.36",
    "binutils-x86-64-linux-gnu",
    "libstdc++-12-dev",
    "coreutils",
    "libgcc-12-dev",
    "libc6-dev",
    "gnupg-l10n",
    "bash",
    "util-linux",
    "openssh-client",
    "libasan8",
    "libtsan2",
    "libgnutls30",
    "sqlite3",
    "gpg",
    "dpkg",
    "dirmngr",
    "libgcrypt20",
    "libsqlite3-0",
    "libdb5.3",
    "apt",
)
_LAYER_BYTES = 209_000_000
_NAME = "docker.io/library/bench"
_MAX_SHARE, _MAX_MAKING, _MAX_APPLYING, _MAX_MIB = 6.5, 2.5, 4.0, 96


def build_pair(place: Path, updated: Sequence[str] = UPDATED, unchanged: Sequence[str] = UNCHANGED) -> str | None:
    """Build ``old.tar`` and ``new.tar`` in ``place``, and layouts ``old`` and ``new`` with them as gzip layers.

    Returns:
        None, or why it can't be done here.
    """
    for program in ("apt-cache", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    versions = _versions([*updated, *unchanged])
    twice = [name for name in updated if len(versions.get(name, ())) > 1]
    if not twice:
        return "apt offers none of the packages in two versions"
    once = [name for name in (*updated, *unchanged) if name in versions and name not in twice]
    try:
        # apt downloads one version of a package at a time.
        _download(place, [f"{name}={versions[name][0]}" for name in (*twice, *once)])
        _download(place, [f"{name}={versions[name][-1]}" for name in twice])
    except AssertionError as error:
        return f"apt can't download the packages ({str(error).splitlines()[0]})"
    for name in twice:
        _unpack(place, name, versions[name][-1], "old")
        _unpack(place, name, versions[name][0], "new")
    count = len(twice)
    for name in once:
        if _size_of(place / "root-new") + _installed_bytes(place, name, versions[name][0]) < _LAYER_BYTES:
            _unpack(place, name, versions[name][0], "old", "new")
            count += 1
    for number, side in enumerate(("old", "new"), start=1):
        _write_layer(place, side, number)
    (place / "packages.json").write_text(json.dumps({"updated": len(twice), "all": count}))
    return None


def bench_updates(place: Path, ociexport: str) -> None:
    """Measure an update of a built pair, beside other tools on the two tars; print tables and the targets.

    Args:
        ociexport: the command.

    Raises:
        AssertionError: the update does not make the new layer.
    """
    update, far = place / "update", place / "far"
    pull = [ociexport, "pull", "-q", f"{place}/new", "--since", f"{place}/old", "--delta", "--allow-recompressed"]
    others = _others(place)

    def renew() -> None:
        removing(far)()
        shutil.copytree(place / "old", far)

    making = compare(
        "making an update",
        [
            Contender("pull --delta", [*pull, "--out", str(update)], removing(update)),
            *(Contender(name, make) for name, (make, _, _) in others.items()),
        ],
        runs=1,
    )
    applying = compare(
        "applying an update",
        [
            Contender("merge", [ociexport, "merge", "-q", str(far), str(update)], renew),
            *(Contender(name, apply) for name, (_, apply, _) in others.items()),
        ],
        runs=1,
    )
    recipe = json.loads((update / "bundle.json").read_bytes())["recipes"][0]
    made = far / "blobs" / recipe["digest"].replace(":", "/")
    if made.read_bytes() != (place / "new.tar").read_bytes():
        raise AssertionError("the update makes another layer")
    sizes = {
        "ociexport": recipe["recipe"]["size"],
        **{name: file.stat().st_size for name, (_, _, file) in others.items()},
    }
    making["ociexport"], applying["ociexport"] = making["pull --delta"], applying["merge"]
    _print_result(place, sizes, making, applying)


def _print_result(
    place: Path, sizes: Mapping[str, int], making: Mapping[str, Timing], applying: Mapping[str, Timing]
) -> None:
    tar_bytes, layer_bytes = ((place / name).stat().st_size for name in ("new.tar", "new.tar.gz"))
    packages = json.loads((place / "packages.json").read_bytes())
    print(
        f"\n{packages['updated']} of {packages['all']} packages updated; a layer of {tar_bytes / 1e6:.0f} MB, "
        f"{layer_bytes / 1e6:.1f} MB with gzip\n"
    )
    print("| update | MB | % of the gzip layer | making: CPU s | MiB | applying: CPU s | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, size in sizes.items():
        costs = " | ".join(f"{one[name].processor:.1f} | {one[name].peak_mib:.0f}" for one in (making, applying))
        print(f"| {name} | {size / 1e6:.2f} | {100 * size / layer_bytes:.1f} | {costs} |")
    ours = making["ociexport"], applying["ociexport"]
    of_200_mb = 200e6 / tar_bytes
    print()
    for what, value, most in (
        ("% of the gzip layer", 100 * sizes["ociexport"] / layer_bytes, _MAX_SHARE),
        ("CPU seconds per 200 MB, making", ours[0].processor * of_200_mb, _MAX_MAKING),
        ("CPU seconds per 200 MB, applying", ours[1].processor * of_200_mb, _MAX_APPLYING),
        ("MiB at most", max(one.peak_mib for one in ours), _MAX_MIB),
    ):
        print(f"{what}: {value:.2f}, target {most}: {'reached' if value <= most else 'NOT reached'}")


def _others(place: Path) -> dict[str, tuple[list[str], list[str], Path]]:
    """Return the commands of other tools that make and apply, and the file that they make; of those installed."""
    old, new, out = (str(place / name) for name in ("old.tar", "new.tar", "made.tar"))
    zstd, xdelta, bsdiff = (str(place / name) for name in ("zstd", "xdelta3", "bsdiff"))
    from_old = ["zstd", "-q", "-f", "--long=31", f"--patch-from={old}"]
    known = {
        "zstd --patch-from": ([*from_old, new, "-o", zstd], [*from_old, "-d", zstd, "-o", out], Path(zstd)),
        "xdelta3": (
            ["xdelta3", "-f", "-e", "-s", old, new, xdelta],
            ["xdelta3", "-f", "-d", "-s", old, xdelta, out],
            Path(xdelta),
        ),
        "bsdiff": (["bsdiff", old, new, bsdiff], ["bspatch", old, out, bsdiff], Path(bsdiff)),
    }
    for name in known:
        if shutil.which(name.split()[0]) is None:
            print(f"{name}: not installed")
    return {name: commands for name, commands in known.items() if shutil.which(name.split()[0])}


def _versions(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the versions that apt offers of each package, the newest first."""
    found: dict[str, list[str]] = {}
    for line in run("apt-cache", "madison", *names).splitlines():
        name, version, origin = (part.strip() for part in line.split("|"))
        if origin.endswith("Packages") and version not in found.setdefault(name, []):
            found[name].append(version)
    return found


def _download(place: Path, packages: Sequence[str]) -> None:
    (place / "packages").mkdir(exist_ok=True)
    run("apt-get", "download", "-qq", *packages, cwd=place / "packages")


def _package(place: Path, name: str, version: str) -> Path:
    return next((place / "packages").glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))


def _installed_bytes(place: Path, name: str, version: str) -> int:
    return int(run("dpkg-deb", "-f", _package(place, name, version), "Installed-Size")) * 1024


def _unpack(place: Path, name: str, version: str, *sides: str) -> None:
    for side in sides:
        run("dpkg-deb", "-x", _package(place, name, version), place / f"root-{side}")


def _size_of(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def _write_layer(place: Path, side: str, number: int) -> None:
    tar, compressed = place / f"{side}.tar", place / f"{side}.tar.gz"
    run(
        "tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-C", place / f"root-{side}", "-cf", tar, "."
    )
    # gzip is no zlib: as with Go's, nobody can repeat these bytes.
    with compressed.open("wb") as file:
        subprocess.run(["gzip", "-6", "-n", "-c", tar], stdout=file, check=True)
    stored = compressed.read_bytes()
    image = build_image([tar.read_bytes()], compress=lambda _tar, _kind: stored)
    write_layout(place / side, {f"{_NAME}:{number}": image})


if __name__ == "__main__":
    sys.exit(build_pair(Path(sys.argv[1])))
