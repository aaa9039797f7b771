"""CountingProgress: a `Progress` that records all messages."""

from __future__ import annotations

from ociexport.spec.digest import Digest


class CountingProgress:
    """Records all messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def phase(self, title: str, total_bytes: int) -> CountingProgress:
        return self

    def task(self, title: str, total_bytes: int | None, *, digest: Digest | None = None) -> CountingProgress:
        return self

    def __enter__(self) -> CountingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def resume(self, count: int) -> None:
        pass

    def leave_out(self, count: int) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)
