"""Finds the account that a container runs as: the config's User, looked up in the tree's own passwd and group files.

Spec: image-spec 1.1 config.md, "User"; conversion.md, "process.user".
"""

from __future__ import annotations

from ociexport.errors import InvalidImageError, quoted
from ociexport.rootfs.disk.walk import open_regular_file
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.numerals import number_in

# The file is read into memory; one with a hundred thousand accounts is smaller than this.
_MAX_FILE_BYTES = 8 * 1024 * 1024
_MAX_ID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a process runs as.

    Args:
        uid: of the process.
        gid: its primary group.
        additional_gids: groups that the user is a member of; empty if the config names a group.
        home: the user's home directory; None if passwd has no entry for the user.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str | None


def find_account(root_fd: int, user: str | None) -> Account:
    """Return the account that ``user`` names in the tree at ``root_fd``.

    Args:
        root_fd: the root directory; the files are read below it, and links can't lead out.
        user: ``name``, ``uid``, ``name:group``, ``uid:gid``, ``uid:group`` or ``name:gid``; None for root.

    Raises:
        InvalidImageError: the tree's files do not contain the name.
    """
    user_text, colon, group_text = (user or "").partition(":")
    # An empty user before the colon is root, as in docker and runc.
    user_text = user_text or "0"
    entry = _find_user(_read_table(root_fd, b"passwd", 7), user_text)
    groups = _read_table(root_fd, b"group", 4)
    if entry is None:
        uid, gid, name, home = _parse_id(user_text, "user", user), 0, None, None
    else:
        uid, gid, name, home = entry
    if colon and group_text:
        return Account(uid, _find_group(groups, group_text, user), (), home)
    members = {_id_or_none(row[2]) for row in groups if name is not None and name in row[3].split(",")}
    additional = sorted(number for number in members if number is not None and number != gid)
    return Account(uid, gid, tuple(additional), home)


def _find_user(rows: list[list[str]], text: str) -> tuple[int, int, str, str] | None:
    # A matching name takes precedence over a uid, as in docker, even if the name consists of digits.
    for row in sorted(rows, key=lambda row: row[0] != text):
        uid, gid = _id_or_none(row[2]), _id_or_none(row[3])
        if uid is not None and gid is not None and text in (row[0], row[2]):
            return uid, gid, row[0], row[5]
    return None


def _find_group(rows: list[list[str]], text: str, user: str | None) -> int:
    for row in rows:
        gid = _id_or_none(row[2])
        if row[0] == text and gid is not None:
            return gid
    return _parse_id(text, "group", user)


def _parse_id(text: str, kind: str, user: str | None) -> int:
    number = _id_or_none(text)
    if number is None:
        raise InvalidImageError(
            f"config: User {quoted(user)}: expected a number or a {kind} of the root filesystem's /etc, "
            f"got {quoted(text)}"
        )
    return number


def _id_or_none(text: str) -> int | None:
    return number_in(text, _MAX_ID)


def _read_table(root_fd: int, name: bytes, columns: int) -> list[list[str]]:
    """Return the rows of ``/etc/<name>``, without malformed ones; empty if the file is missing."""
    text = _read_etc_file(root_fd, name).decode("utf-8", "surrogateescape")
    rows = (line.split(":") for line in text.split("\n"))
    return [row for row in rows if len(row) == columns]


def _read_etc_file(root_fd: int, name: bytes) -> bytes:
    """Return the content; ``b""`` if missing, too large or not a regular file. Links are resolved within the root."""
    try:
        with open(open_regular_file(root_fd, b"etc/" + name), "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= _MAX_FILE_BYTES else b""
