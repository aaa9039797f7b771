"""The commands that choose an image by its platform; ``{}`` is the image, which has a file ``arch``."""

from __future__ import annotations

COMMANDS = [
    "pull {} -o out",
    "unpack {} root",
    "unpack {} --to-tar a.tar",
    "inspect {}",
    "inspect --config {}",
    "inspect --raw {}",
    "ls {} /",
    "cat {} /arch",
    "verify {}",
]
