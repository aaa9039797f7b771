"""The image for benchmarks: Debian with a toolchain and several large Python packages.

It has six layers, 640 MB of gzip, 1.9 GB of tar, and 69,000 paths. It is built once, as root, by mmdebstrap, pip and
umoci, and kept as an OCI layout:

    python -m tests.bench.bench_image DIRECTORY
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

IMAGE = "bench"
_TOOLCHAIN = "ca-certificates,build-essential,gfortran,python3,python3-dev,perl,git,cmake"
# One layer for each row. The wheels are for the interpreter that runs this; nothing in the image has to run.
_PYTHON_LAYERS = (
    ("numpy", "scipy"),
    ("pandas", "scikit-learn"),
    ("matplotlib", "sympy", "pillow", "networkx"),
    ("django", "babel", "botocore", "sqlalchemy", "pygments", "ansible-core", "twisted", "mypy", "fonttools", "nltk"),
)


def build_bench_image(target: Path) -> Path:
    """Return the OCI layout in ``target``, built if it does not exist yet."""
    layout = target / "layout"
    if (target / "complete").exists():
        return layout
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    base, full = target / "base.tar", target / "full.tar"
    _run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(base))
    _run("mmdebstrap", "--variant=minbase", f"--include={_TOOLCHAIN}", "bookworm", str(full))
    image = f"{layout}:{IMAGE}"
    _run("umoci", "init", "--layout", str(layout))
    _run("umoci", "new", "--image", image)
    _run("umoci", "raw", "add-layer", "--image", image, str(base))
    bundle = target / "bundle"
    _run("umoci", "unpack", "--image", image, str(bundle))
    rootfs = bundle / "rootfs"
    _run("tar", "-C", str(rootfs), "-xpf", str(full), "--xattrs", "--numeric-owner", "--overwrite")
    _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    for number, packages in enumerate(_PYTHON_LAYERS):
        packages_directory = rootfs / "usr" / "local" / "lib" / f"python-{number}"
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages_directory), *packages)
        _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    _run("umoci", "gc", "--layout", str(layout))
    for leftover in (base, full):
        leftover.unlink()
    shutil.rmtree(bundle)
    (target / "complete").touch()
    return layout


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})


if __name__ == "__main__":
    print(build_bench_image(Path(sys.argv[1])))
