"""Writes files that run an image's command without a container runtime: in a chroot, bubblewrap or systemd-nspawn.

The files are in one directory: ``env`` (the environment, for ``. ./env`` in a shell of the root filesystem),
``chroot.sh`` and ``bwrap.sh`` (run the image's command or another one), ``bwrap.args`` (for ``bwrap --args``),
``ROOTFS.nspawn`` (systemd.nspawn(5)).
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress

from ociexport.errors import InvalidImageError, quoted
from ociexport.rootfs.run.accounts import Account
from ociexport.rootfs.run.bundle import command_of, environment_of, working_dir_of
from ociexport.spec.config import ImageConfig
from ociexport.system.files import new_file_in
from ociexport.system.host_paths import real_target

_ENV_NOTE = (
    "# For a shell in the root filesystem. In a shell of the host, the image's PATH, LD_PRELOAD or PROMPT_COMMAND\n"
    "# would take effect there.\n"
)
_VARIABLE_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Variables that change how the C library loads and starts a program; it ignores them in setuid programs (glibc's
# unsecvars.h). The image's values are meant for programs of the image, and not for chroot(8), which is the host's.
_LOADER_PATTERN = re.compile(
    r"LD_.*|MALLOC_.*|GLIBC_TUNABLES|GCONV_PATH|GETCONF_DIR|HOSTALIASES|LOCALDOMAIN|LOCPATH|NIS_PATH|NLSPATH"
    r"|RESOLV_HOST_CONF|RES_OPTIONS|TMPDIR|TZDIR"
)


def write_run_files(directory: str, rootfs: str, config: ImageConfig, account: Account) -> None:
    """Write the files into ``directory``, which is made if missing.

    Args:
        rootfs: the root filesystem in which the command runs; written as an absolute path.
        config: of the image.
        account: that its User names in the root filesystem.

    Raises:
        InvalidImageError: the config contains text that can't be passed to a process; nothing was written.
    """
    # bwrap and nspawn can set a variable whose name is invalid in a shell; none of them can set one with an empty name.
    environment = [item for item in environment_of(config, account) if "=" in item[1:]]
    variables = [item for item in environment if _VARIABLE_PATTERN.fullmatch(item.partition("=")[0])]
    working_dir = working_dir_of(config)
    command = command_of(config)
    for text in (*environment, working_dir, *command):
        # NULs separate the arguments in bwrap.args: text after one would be an option, such as to bind the host's root.
        if "\0" in text:
            raise InvalidImageError(f"config: run files: expected text without NUL, got {quoted(text)}")
    rootfs = os.path.abspath(rootfs)
    with _Directory(directory) as target:
        target.write("env", _ENV_NOTE + "".join(f"export {_assignment(item)}\n" for item in variables))
        target.write("chroot.sh", _chroot_script(rootfs, variables, working_dir, command, account), mode=0o755)
        target.write("bwrap.args", "\0".join(_bwrap_arguments(rootfs, environment, working_dir, account)))
        target.write("bwrap.sh", _bwrap_script(command), mode=0o755)
        settings = _nspawn_settings(environment, working_dir, command, account)
        target.write(f"{os.path.basename(rootfs)}.nspawn", settings)


class _Directory:
    """A directory for the files, made if missing and opened once: all files are written to this same directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        place = real_target(path)
        with suppress(FileExistsError):
            os.mkdir(place)
        self._fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        with new_file_in(self._fd, name, os.path.join(self._path, name), mode=mode) as file:
            file.write(text.encode("utf-8", "surrogateescape"))


def _assignment(item: str) -> str:
    name, _, value = item.partition("=")
    return f"{name}={shlex.quote(value)}"


def _chroot_script(rootfs: str, variables: list[str], working_dir: str, command: list[str], account: Account) -> str:
    groups = ",".join(map(str, account.additional_gids))
    change = ""
    if working_dir != "/":
        change = f'set -- /bin/sh -c \'cd "$1" && shift && exec "$@"\' sh {shlex.quote(working_dir)} "$@"\n'
    held = [item for item in variables if _LOADER_PATTERN.fullmatch(item.partition("=")[0])]
    if held:
        script = f'export {" ".join(map(_assignment, held))} && exec "$@"'
        change += f'set -- /bin/sh -c {shlex.quote(script)} sh "$@"\n'
    for_chroot = [item for item in variables if item not in held]
    return (
        "#!/bin/sh\n"
        "# Run the image's command, or the one given as arguments, in a chroot; needs root.\n"
        "chroot=$(command -v chroot) || exit 127\n"
        f"[ $# -gt 0 ] || set -- {shlex.join(command)}\n"
        f"{change}"
        f"exec env -i {shlex.join(for_chroot)} "
        f'"$chroot" --userspec={account.uid}:{account.gid} --groups={shlex.quote(groups)} {shlex.quote(rootfs)} "$@"\n'
    )


def _bwrap_arguments(rootfs: str, environment: list[str], working_dir: str, account: Account) -> list[str]:
    arguments = ["--bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    arguments += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    arguments += ["--uid", str(account.uid), "--gid", str(account.gid), "--clearenv", "--chdir", working_dir]
    for item in environment:
        name, _, value = item.partition("=")
        arguments += ["--setenv", name, value]
    return arguments


def _bwrap_script(command: list[str]) -> str:
    return (
        "#!/bin/sh\n"
        "# Run the image's command, or the one given as arguments, in bubblewrap.\n"
        f"[ $# -gt 0 ] || set -- {shlex.join(command)}\n"
        'exec bwrap --args 9 -- "$@" 9<"$(dirname "$0")/bwrap.args"\n'
    )


def _nspawn_settings(environment: list[str], working_dir: str, command: list[str], account: Account) -> str:
    lines = ["[Exec]"]
    if account.uid:
        lines.append("# systemd-nspawn looks this user and its groups up with the image's own getent.")
    lines.append(f"User={account.uid}")
    if all(map(_fits_in_settings, command)):
        # Without Boot=, nspawn ignores the parameters and starts a shell.
        lines += ["Boot=no", f"Parameters={' '.join(map(_nspawn_quoted, command))}"]
    else:
        lines.append("# The command can't be written here, because it has a line break.")
    for item in environment:
        if _fits_in_settings(item):
            lines.append(f"Environment={_nspawn_quoted(item)}")
        else:
            lines.append(f"# {item.partition('=')[0]!a} can't be written here, because it has a line break.")
    if _fits_in_settings(working_dir):
        lines.append(f"WorkingDirectory={working_dir}")
    return "\n".join(lines) + "\n"


def _fits_in_settings(text: str) -> bool:
    return not set(text) & set("\n\r\0")


def _nspawn_quoted(text: str) -> str:
    """Quote one word for nspawn, in which, unlike in units, backslashes and percent signs have no special meaning."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
