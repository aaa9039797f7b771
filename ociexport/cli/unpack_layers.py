"""`ociexport unpack --layers-dir` and `--erofs-layers`: each layer by itself, and the commands that mount them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import closing

from ociexport.cli.options.json import to_json_text
from ociexport.cli.options.platform import platform_from
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.signatures import open_signed_source
from ociexport.cli.output.summary import summary
from ociexport.errors import counted
from ociexport.rootfs.disk.userns import enter_user_namespace
from ociexport.rootfs.outputs.layers.commands import LayerCommands, layer_commands
from ociexport.rootfs.outputs.layers.kinds import DIRECTORIES, Kind
from ociexport.rootfs.outputs.layers.unpack import LayersResult, unpack_layers, verify_options
from ociexport.rootfs.unpack import UnpackOptions
from ociexport.system.host_paths import real_target


def run_layers(options: argparse.Namespace, unpack_options: UnpackOptions) -> int:
    """Make the layers, and print the manifest's digest and the commands."""
    verify_options(unpack_options)
    given = options.layers_dir or options.erofs_layers
    directory = real_target(given)
    if options.userns and os.geteuid() != 0:
        enter_user_namespace()
    progress, began = progress_from(options), time.monotonic()
    with closing(open_signed_source(options, progress)) as source:
        result = unpack_layers(
            source,
            directory,
            kind=_kind_of(options),
            platform=platform_from(options),
            options=unpack_options,
            progress=progress,
        )
    commands = layer_commands(result)
    if result.has_marked_whiteouts:
        progress.warn(f"{given}: no devices can be made here, so these layers need Linux 6.7 or later")
    made = sum(layer.is_new for layer in result.layers)
    progress.say(
        summary(
            "unpacked",
            source.display_name,
            given,
            result.manifest_digest,
            f"{made} of {counted(len(result.layers), 'layer')} new",
            f"{time.monotonic() - began:.1f} s",
        )
    )
    print_layers(options, source.display_name, result, commands)
    return 0


def print_layers(
    options: argparse.Namespace, source: str, result: LayersResult, commands: LayerCommands | None = None
) -> None:
    """Print the manifest's digest and the commands, or a JSON object."""
    commands = commands or layer_commands(result)
    if options.json:
        sys.stdout.write(to_json_text("unpack", _to_json(source, result, commands)))
        return
    sys.stdout.write(f"{result.manifest_digest}\n{commands.mount}\n")
    for command in (commands.bwrap, commands.nspawn):
        if command is not None:
            sys.stdout.write(f"{command}\n")
    for name, path in commands.mstack.items():
        sys.stdout.write(f"# ROOTFS.mstack/{name} -> {path}\n")


def _kind_of(options: argparse.Namespace) -> Kind:
    if options.layers_dir is not None:
        return DIRECTORIES
    from ociexport.rootfs.outputs.layers.erofs_files import EROFS_FILES  # noqa: PLC0415 - start-up: directories need no erofs

    return EROFS_FILES


def _to_json(source: str, result: LayersResult, commands: LayerCommands) -> dict[str, object]:
    return {
        "source": source,
        "rootfs": None,
        "tar": None,
        "layersDir": result.directory,
        "platform": result.config.platform.to_json(),
        "manifestDigest": str(result.manifest_digest),
        "configDigest": str(result.config.digest),
        "layers": [
            {
                "digest": str(one.layer.descriptor.digest),
                "size": one.layer.descriptor.size,
                "diffId": str(one.layer.diff_id),
                "path": one.path,
                "new": one.is_new,
            }
            for one in result.layers
        ],
        "entries": result.entries,
        "losses": list(result.losses),
        "userxattr": result.uses_user_xattrs,
        "lowerDirs": list(commands.lower),
        "commands": {"mount": commands.mount, "bwrap": commands.bwrap, "nspawn": commands.nspawn},
        "mstack": dict(commands.mstack),
    }
