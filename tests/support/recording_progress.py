"""RecordingProgress: a `Progress` that records all messages."""

from __future__ import annotations

from ociexport.system.progress.protocol import SilentProgress


class RecordingProgress(SilentProgress):
    """Records all messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)
