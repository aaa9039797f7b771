"""Whom a container of the image runs as: the config's User, looked up in the root filesystem's own passwd and group.

Spec: image-spec 1.1 config.md, "User"; conversion.md, "process.user".
"""

from __future__ import annotations

from dataclasses import dataclass

from ociexport.errors import InvalidImageError, quoted
from ociexport.rootfs.disk.walk import open_regular_file
from ociexport.spec.numerals import number_in

# A passwd file of a hundred thousand accounts stays below it; it is read into memory.
_MAX_FILE_BYTES = 8 * 1024 * 1024
_MAX_ID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a process runs as.

    Args:
        uid: of the process.
        gid: its primary group.
        additional_gids: groups that the user is a member of; none where the config names a group.
        home: the user's directory; None where passwd does not tell.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str | None


def find_account(root_fd: int, user: str | None) -> Account:
    """Return whom ``user`` means in the tree at ``root_fd``.

    Args:
        root_fd: the root directory; the files are read below it, a hostile link leads nowhere else.
        user: ``name``, ``uid``, ``name:group``, ``uid:gid``, ``uid:group`` or ``name:gid``; None for root.

    Raises:
        InvalidImageError: a name that the tree's files do not have.
    """
    user_text, colon, group_text = (user or "").partition(":")
    # Nothing before the colon is root, as to docker and runc.
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
    # A name goes before a number, as docker has it, though no sane image has a user called by digits.
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
    """Return the rows of ``/etc/<name>``; none where there is no such file, and none of those that are broken."""
    text = _read_etc_file(root_fd, name).decode("utf-8", "surrogateescape")
    rows = (line.split(":") for line in text.split("\n"))
    return [row for row in rows if len(row) == columns]


def _read_etc_file(root_fd: int, name: bytes) -> bytes:
    """Return the file's content, ``b""`` where it is missing, too large, or no file; links lead on within the root."""
    try:
        with open(open_regular_file(root_fd, b"etc/" + name), "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= _MAX_FILE_BYTES else b""
