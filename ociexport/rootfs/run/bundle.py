"""Makes the config of an OCI runtime bundle, which runc, crun and youki start, from an image's config.

Spec: image-spec 1.1 conversion.md; runtime-spec 1.0 config.md, config-linux.md.
"""

from __future__ import annotations

import json
import os

from ociexport.rootfs.run.accounts import Account
from ociexport.spec.config import ImageConfig

_RUNTIME_SPEC_VERSION = "1.0.2"
# The capabilities that docker and runc grant a container's root by default.
_CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
_MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
]
_READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_NAMESPACES = ["pid", "network", "ipc", "uts", "mount"]
_DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command_of(config: ImageConfig) -> list[str]:
    """Return the command line that a container runs: entry point and command; a shell if the image has neither."""
    return [*config.container.entrypoint, *config.container.cmd] or ["sh"]


def working_dir_of(config: ImageConfig) -> str:
    """Return the working directory of a container's process; absolute, as the runtime-spec requires."""
    working_dir = config.container.working_dir or "/"
    return working_dir if working_dir.startswith("/") else f"/{working_dir}"


def environment_of(config: ImageConfig, account: Account) -> list[str]:
    """Return the image's environment, with PATH and HOME added if it does not set them, as docker does."""
    environment = list(config.container.env)
    names = {item.partition("=")[0] for item in environment}
    if "PATH" not in names:
        environment.insert(0, _DEFAULT_PATH)
    if "HOME" not in names:
        environment.append(f"HOME={account.home or '/'}")
    return environment


def write_runtime_config(bundle_fd: int, config: ImageConfig, account: Account) -> None:
    """Write ``config.json`` into the directory ``bundle_fd``, which all users may then enter."""
    fd = os.open("config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=bundle_fd)
    with open(fd, "wb") as file:
        file.write(runtime_config(config, account))
    os.fchmod(bundle_fd, 0o755)


def runtime_config(config: ImageConfig, account: Account, *, hostname: str = "ociexport") -> bytes:
    """Return the ``config.json`` of a bundle whose root is ``rootfs``.

    Args:
        config: of the image.
        account: that its User names in the root filesystem.
        hostname: of the container.
    """
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)
    document = {
        "ociVersion": _RUNTIME_SPEC_VERSION,
        "process": {
            "terminal": False,
            "user": {
                "uid": account.uid,
                "gid": account.gid,
                **({"additionalGids": list(account.additional_gids)} if account.additional_gids else {}),
            },
            "args": command_of(config),
            "env": environment_of(config, account),
            "cwd": working_dir_of(config),
            "capabilities": capabilities,
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": hostname,
        "mounts": _mounts(config),
        "annotations": _annotations(config),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": _MASKED_PATHS,
            "readonlyPaths": _READONLY_PATHS,
        },
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _mounts(config: ImageConfig) -> list[dict[str, object]]:
    """Return the mounts of the runtime-spec's "Default Filesystems", those of docker, and one for each volume."""
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108 - inside the container
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]
    # The specification leaves the storage of volumes open. As in umoci, no data outlives the container.
    volumes = sorted(volume for volume in config.container.volumes if volume.startswith("/"))
    return mounts + [
        _mount(volume, "tmpfs", "none", "rw", "nosuid", "nodev", "noexec", "relatime") for volume in volumes
    ]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _annotations(config: ImageConfig) -> dict[str, str]:
    """Return the annotations of conversion.md; the image's own labels take precedence."""
    platform = config.platform
    found = {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": ",".join(platform.os_features),
        "author": config.author,
        "created": config.created,
        "stopSignal": config.container.stop_signal,
        "exposedPorts": ",".join(sorted(config.container.exposed_ports)),
    }
    annotations = {f"org.opencontainers.image.{name}": value for name, value in found.items() if value}
    return {**annotations, **config.container.labels}
