"""The command run as an ordinary user, for tests that run as root."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member
from tests.support.system_parts import require

# Debian's "nobody"; any other user would do.
UID = GID = 65534

# All modules are imported before the user changes, since only root may be able to read them.
_SCRIPT = textwrap.dedent(
    f"""
    import base64, bisect, bz2, contextlib, ctypes, encodings.unicode_escape, io, lzma, os, pwd, shutil, subprocess, sys
    import isal.igzip_lib
    import ociexport.storage.archive.reader, ociexport.cli.errors
    import ociexport.rootfs.compare, ociexport.rootfs.compare_images
    from ociexport.cli.main import main
    with contextlib.redirect_stdout(io.StringIO()):
        main(["unpack", "--help"])
        main(["rm", "--help"])
        main(["diff", "--help"])
        main(["treehash", "--help"])
    if os.environ.get("BEGIN"):
        import concurrent.futures.thread, importlib, multiprocessing, pkgutil, resource, shutil, tempfile, tomllib
        import encodings.idna, ociexport
        for found in pkgutil.walk_packages(ociexport.__path__, "ociexport."):
            found.name.endswith("__main__") or importlib.import_module(found.name)
    os.setgroups([])
    os.setgid({GID})
    os.setuid({UID})
    begin = os.environ.get("BEGIN")
    if begin:
        exec(begin)
    sys.exit(main(sys.argv[1:]))
    """
)


def run_as_ordinary_user(*words: str | Path, begin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``ociexport`` with ``words`` as `UID`, in a process that runs ``begin`` first."""
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, words)],
        env={**os.environ, "BEGIN": begin},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def open_place(layers: Sequence[Iterable[Member]]) -> Iterator[Path]:
    """Yield a directory with ``work``, which every user may write, and ``layout``, which every user may read."""
    # Not in pytest's directory, which other users can't enter.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        write_layout(place / "layout", {"1": build_image(layers)})
        (place / "work").mkdir()
        (place / "work").chmod(0o777)
        yield place


@contextmanager
def subordinate_ids_of(text: str) -> Iterator[None]:
    """Give the ordinary user the subordinate ids in ``text`` (the format of /etc/subuid), during a test."""
    require("newuidmap", "newgidmap")
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    before = [path.read_text() if path.exists() else None for path in files]
    try:
        for path, old in zip(files, before, strict=True):
            path.write_text(f"{old or ''}{text}")
        yield
    finally:
        for path, old in zip(files, before, strict=True):
            if old is None:
                path.unlink()
            else:
                path.write_text(old)
