"""The picture in the README: a shell on a terminal, recorded while commands run, as an animated SVG.

    python -m tests.support.recording [FILE]                  writes docs/recording.svg by default; run as root

The image is Debian by mmdebstrap, with Python packages in two more layers, served on this machine at 64 Mbit/s for each
connection. The picture shows the commands' real output at its real times.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

from ociexport.spec.platforms import host_platform
from tests.bench.throttle import throttled
from tests.support.document_blocks import PROJECT, Workplace, workplace
from tests.support.image_builder import BuiltImage, build_image
from tests.support.stand_ins import Images
from tests.support.system_parts import require, run

COMMANDS = (
    "ociexport pull registry.example/team/app:1 --out ./layout",
    "ociexport unpack ./layout ./rootfs",
    "chroot ./rootfs /bin/cat /etc/debian_version",
    "ociexport verify ./layout",
)
COLUMNS, ROWS = 104, 24
_BYTES_PER_SECOND = 8_000_000
_PROMPT = "$ "
# A few frames a second are enough for the eye, and keep the file small.
_FRAME_SECONDS = 0.12
_KEY_SECONDS = 0.03
_PAUSE_SECONDS = 1.2
_LAST_SECONDS = 4.0
_COMMAND_SECONDS = 120
_CELL_WIDTH, _LINE_HEIGHT, _FONT_SIZE, _MARGIN = 8.4, 18, 14, 12

Screen = tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The content of the terminal from ``seconds`` on."""

    seconds: float
    lines: Screen


class Recorder:
    """A shell on its own terminal."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.frames: list[Frame] = []
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._begun = time.monotonic()
        self._terminal, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        variables = {name: value for name, value in environment.items() if name != "COLUMNS"}
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting"],
            env={**variables, "PS1": _PROMPT, "TERM": "xterm"},
            cwd=directory,
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        self._read_until(self._is_at_prompt)

    def type(self, command: str) -> None:
        """Type a command at human speed, and record until the next prompt."""
        for key in command:
            os.write(self._terminal, key.encode())
            self._read_for(_KEY_SECONDS)
        os.write(self._terminal, b"\n")
        before = self._screen.cursor.y
        self._read_until(lambda: self._is_at_prompt() and self._screen.cursor.y != before)
        self._read_for(_PAUSE_SECONDS)

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)

    def _is_at_prompt(self) -> bool:
        cursor = self._screen.cursor
        return cursor.x == len(_PROMPT) and self._screen.display[cursor.y].startswith(_PROMPT)

    def _read_until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _COMMAND_SECONDS
        while not is_done():
            assert time.monotonic() < deadline, "\n".join(self._screen.display)
            self._read_for(_FRAME_SECONDS)

    def _read_for(self, seconds: float) -> None:
        """Read output for some time, and keep the terminal's content at its end if it changed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._terminal], [], [], left)[0]:
                self._stream.feed(os.read(self._terminal, 65536))
        lines = tuple(line.rstrip() for line in self._screen.display)
        if not self.frames or self.frames[-1].lines != lines:
            self.frames.append(Frame(time.monotonic() - self._begun, lines))


def record(place: Workplace, commands: Sequence[str]) -> list[Frame]:
    """Return the frames that a terminal shows while ``commands`` are typed."""
    recorder = Recorder(place.environment, place.directory)
    try:
        for command in commands:
            recorder.type(command)
    finally:
        recorder.close()
    return recorder.frames


def svg_of(frames: Sequence[Frame]) -> str:
    """Return an SVG that shows the frames in a loop; a viewer without animation shows the last one.

    It has no script, so it works as an image in a page: the frames form a column, each line occurs once, and CSS moves
    the column.
    """
    width, height = round(COLUMNS * _CELL_WIDTH) + 2 * _MARGIN, ROWS * _LINE_HEIGHT + 2 * _MARGIN
    begun, ended = frames[0].seconds, frames[-1].seconds + _LAST_SECONDS
    numbers = {line: number for number, line in enumerate(sorted({line for frame in frames for line in frame.lines}))}
    texts = "\n".join(
        f'<text id="t{number}" textLength="{len(line) * _CELL_WIDTH:.1f}" xml:space="preserve">{escape(line)}</text>'
        for line, number in numbers.items()
        if line
    )
    steps = "".join(
        f"{(frame.seconds - begun) / (ended - begun):.3%}{{transform:translateY({-number * height}px)}}"
        for number, frame in enumerate(frames)
    )
    column = "\n".join(
        "".join(
            f'<use href="#t{numbers[line]}" x="{_MARGIN}" '
            f'y="{number * height + _MARGIN + (row + 1) * _LINE_HEIGHT - 4}"/>'
            for row, line in enumerate(frame.lines)
            if line
        )
        for number, frame in enumerate(frames)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<title>ociexport in a terminal</title>
<style>
text {{ font: {_FONT_SIZE}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d8dee9 }}
#column {{ animation: roll {ended - begun:.1f}s step-end infinite }}
@media (prefers-reduced-motion: reduce) {{ #column {{ animation: none }} }}
@keyframes roll {{{steps}}}
</style>
<defs>
{texts}
</defs>
<rect width="{width}" height="{height}" rx="8" fill="#20242c"/>
<g id="column" transform="translate(0 {-(len(frames) - 1) * height})">
{column}
</g>
</svg>
"""


def debian_with_packages(work: Path) -> BuiltImage:
    """Return an image of Debian, with this interpreter's Python packages in two more layers."""
    require("mmdebstrap", root=True)
    run("mmdebstrap", "--variant=minbase", "bookworm", work / "debian.tar")
    packages = sorted(Path(sysconfig.get_path("purelib")).iterdir())
    halves = (packages[: len(packages) // 2], packages[len(packages) // 2 :])
    layers = [(work / "debian.tar").read_bytes(), *map(_tar_of_packages, halves)]
    return build_image(layers, platform=host_platform())


def _tar_of_packages(packages: Sequence[Path]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for package in packages:
            tar.add(package, f"opt/app/{package.name}")
    return buffer.getvalue()


@contextmanager
def far_registry(work: Path) -> Iterator[Workplace]:
    """Yield a workplace whose registry is as slow as one on the internet."""
    images: Images = {"registry.example/team/app:1": debian_with_packages(work)}
    with workplace(work, images=images, through=_slowly) as place:
        yield place


@contextmanager
def _slowly(address: str) -> Iterator[str]:
    with throttled(address, bytes_per_second=_BYTES_PER_SECOND, request_delay_seconds=0.03) as far:
        yield far


def main() -> int:
    """Record, and write the picture."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "docs" / "recording.svg"
    with tempfile.TemporaryDirectory() as work, far_registry(Path(work)) as place:
        target.write_text(svg_of(record(place, COMMANDS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
