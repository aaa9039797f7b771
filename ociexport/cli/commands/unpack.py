"""`ociexport unpack`: unpack an image into a new root filesystem, or into one file."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.disk_image import add_disk_image_arguments, settle_format
from ociexport.cli.options.executor import add_executor_argument
from ociexport.cli.options.json import add_json_argument
from ociexport.cli.options.layers import add_layers_arguments, settle_layers_format, wants_layers
from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.lists import add_list_arguments
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments
from ociexport.cli.options.signatures import add_signature_arguments, open_signed_source
from ociexport.cli.output.summary import summary
from ociexport.cli.output.unpack import print_result
from ociexport.cli.process import reuse_freed_memory
from ociexport.errors import UsageError, counted
from ociexport.images.source import servers_of
from ociexport.layers.selection import PathSelection
from ociexport.rootfs.disk.metadata import IdMap, XattrMode
from ociexport.rootfs.disk.userns import enter_user_namespace
from ociexport.rootfs.outputs.formats import TREE
from ociexport.rootfs.unpack import UnpackOptions, unpack
from ociexport.system.environment import source_date_epoch
from ociexport.system.files import new_file
from ociexport.system.host_paths import is_within, real_path, real_place, real_target, verify_outside
from ociexport.system.progress.protocol import format_bytes

if TYPE_CHECKING:
    from ociexport.rootfs.outputs.tar import FlattenResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "source", metavar="SRC", nargs="?", help="layout (./layout, ./layout:tag, oci:…) or image reference"
    )
    parser.add_argument(
        "rootfs", metavar="ROOTFS", nargs="?", help="directory to create, new or empty; or a disk image, see --format"
    )
    parser.add_argument(
        "--to-tar", metavar="FILE|-", help="write one tar instead of a ROOTFS directory; - is standard output"
    )
    add_layers_arguments(parser)
    add_platform_argument(parser)
    parser.add_argument("--replace", action="store_true", help="atomically replace an existing ROOTFS with the new one")
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="unpack only these paths; '**' also matches slashes; may be repeated",
    )
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="skip these paths; may be repeated",
    )
    parser.add_argument(
        "--bundle", action="store_true", help="make ROOTFS an OCI runtime bundle: config.json and rootfs"
    )
    parser.add_argument(
        "--run-files",
        metavar="DIR",
        help="write the files that chroot, bwrap and systemd-nspawn need to run the image's command",
    )
    parser.add_argument("--receipt", metavar="FILE", help="write a JSON record of what was unpacked and verified")
    parser.add_argument(
        "--no-preflight", dest="preflight", action="store_false", help="do not check the free space first"
    )
    parser.add_argument(
        "--sync",
        action="store_true",
        help="sync ROOTFS to disk before renaming it into place",
    )
    add_disk_image_arguments(parser)
    _add_metadata_arguments(parser.add_argument_group("metadata"))
    add_limit_arguments(parser)
    add_json_argument(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)
    lists = add_list_arguments(parser)
    add_executor_argument(lists, task="unpack the images", place="--into")
    lists.add_argument(
        "--into",
        metavar="DIR",
        help="unpack the images of a list into directories below DIR; an image with several names is unpacked once, "
        "its other names become links",
    )


def _add_metadata_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--keep-dirlinks",
        action="store_true",
        help="keep a symlink to a directory if a later layer has a directory at its path",
    )
    group.add_argument("--sparse", action="store_true", help="write blocks of zeros as holes")
    group.add_argument(
        "--xattrs",
        choices=[mode.value for mode in XattrMode],
        default=XattrMode.WARN.value,
        help="xattrs that the file system refuses: strict fails, warn goes on (default); none sets no xattrs at all",
    )
    group.add_argument(
        "--devices",
        choices=["skip", "placeholder"],
        default="skip",
        help="devices that can't be created: skip them (default), or create empty files in their place",
    )
    group.add_argument("--owners", metavar="FILE", help="write the owners in the image as an mtree specification")
    group.add_argument(
        "--userns",
        action="store_true",
        help="as an ordinary user, keep the image's owners, mapped to this user's subordinate ids",
    )
    group.add_argument(
        "--rootless",
        action="store_true",
        help="unpack as an ordinary user does, even as root: owners are recorded instead of set, and no devices made",
    )
    for kind in ("uid", "gid"):
        group.add_argument(
            f"--{kind}-map",
            metavar="IMAGE:HOST[:SIZE]",
            action="append",
            default=[],
            help=f"map the image's {kind}s to these {kind}s on the host; may be repeated",
        )


def run(options: argparse.Namespace) -> int:
    """Unpack, and print the manifest's digest."""
    if options.list:
        return _unpack_list(options)
    if options.into is not None:
        raise UsageError("--into: expected --list beside it, got none")
    if options.executor is not None:
        leave_out_configured(options, "executor")
        if options.executor is not None:
            raise UsageError("--executor: expected --list beside it, got none")
    if options.source is None:
        raise UsageError(
            "unpack: expected SRC and ROOTFS, got none", hint="for example ociexport unpack debian:12 ./rootfs"
        )
    if wants_layers(options):
        from ociexport.cli.unpack_layers import run_layers  # noqa: PLC0415 - start-up: few runs unpack layers

        reuse_freed_memory()
        settle_layers_format(options)
        return run_layers(options, _unpack_options_from(options))
    if (options.rootfs is None) == (options.to_tar is None):
        raise UsageError(
            f"unpack: expected either ROOTFS or --to-tar, got {'neither' if options.rootfs is None else 'both'}",
            hint="for example ociexport unpack debian:12 ./rootfs",
        )
    if options.userns and options.rootless:
        raise UsageError("--rootless: expected no --userns beside it, which keeps the image's owners")
    settle_format(options)
    reuse_freed_memory()
    if options.to_tar is not None:
        return _write_tar(options)
    if options.format == TREE:
        # This comes before the user namespace, in which the owner of a link can't be determined.
        options.tree = real_target(options.rootfs)
        _verify_places(options)
        if options.userns and os.geteuid() != 0:
            options.rootfs = options.target = options.tree
            options.run_files = real_target(options.run_files) if options.run_files is not None else None
            enter_user_namespace()
    else:
        options.tree = os.path.join(*real_place(options.target))
        _verify_places(options)
    unpack_options = _unpack_options_from(options)
    progress, began = progress_from(options), time.monotonic()
    with closing(open_signed_source(options, progress)) as source:
        result = unpack(
            source, options.target, platform=platform_from(options), options=unpack_options, progress=progress
        )
    # Checked again, because the new tree may be reachable by another name that did not exist before.
    _verify_places(options)
    if options.run_files is not None and result.account is not None:
        from ociexport.rootfs.run.files import write_run_files  # noqa: PLC0415 - start-up: only this option needs it

        rootfs = os.path.join(options.rootfs, "rootfs") if options.bundle else options.rootfs
        write_run_files(options.run_files, rootfs, result.config, result.account)
    if options.receipt is not None:
        from ociexport.rootfs.receipt import write_receipt  # noqa: PLC0415 - start-up: as above

        write_receipt(options.receipt, result, source.display_name, options.rootfs, servers_of(source))
    progress.say(
        summary(
            "unpacked",
            source.display_name,
            "standard output" if options.target != options.rootfs else options.rootfs,
            result.manifest_digest,
            counted(result.entries, "entry"),
            format_bytes((result.disk_image and result.disk_image.size) or result.tar_bytes),
            f"{time.monotonic() - began:.1f} s",
        )
    )
    print_result(options, source.display_name, result)
    return 0


def _unpack_options_from(options: argparse.Namespace) -> UnpackOptions:
    return UnpackOptions(
        keep_dirlinks=options.keep_dirlinks,
        holes=options.sparse,
        xattrs=XattrMode(options.xattrs),
        placeholder_devices=options.devices == "placeholder",
        uid_map=IdMap.parse(tuple(options.uid_map)) if options.uid_map else None,
        gid_map=IdMap.parse(tuple(options.gid_map)) if options.gid_map else None,
        limits=limits_from(options),
        selection=_selection_from(options),
        replace=options.replace,
        sync=options.sync,
        preflight=options.preflight,
        bundle=options.bundle,
        find_account=options.run_files is not None,
        owners_file=options.owners,
        rootless=options.rootless,
        receipt=options.receipt,
        format=options.format,
        disk_image=options.disk_image,
    )


def _unpack_list(options: argparse.Namespace) -> int:
    """Unpack each image of a list into a directory of its own, below ``--into`` or the directory that is the argument.

    With two arguments, or one beside ``--into``, the first is a layout or an archive that has the images.
    """
    from ociexport.cli.listed_unpack import unpack_list, verify_list_options  # noqa: PLC0415 - start-up: few have a list

    is_layered = options.layers_dir is not None or options.erofs_layers is not None
    if options.into is None and not is_layered:
        if options.executor is not None:
            raise UsageError("--executor: expected --into beside it, got none")
        places = [place for place in (options.source, options.rootfs) if place is not None]
        if not places:
            raise UsageError(
                "unpack: expected a directory for the trees of a list, got none",
                hint="for example ociexport unpack --list images.txt ./trees",
            )
        options.into = places.pop()
        options.source, options.rootfs = places[0] if places else None, None
    verify_list_options(options)
    if is_layered:
        settle_layers_format(options)
    else:
        options.format = options.format or TREE
        settle_format(options)
    reuse_freed_memory()
    return unpack_list(options, _unpack_options_from(options))


def _verify_places(options: argparse.Namespace) -> None:
    """Return if the files beside the tree can be written, and are outside it; call it before the tree is begun.

    Raises:
        UsageError: a path is in the tree or leads through it, or the path of a directory is a link to nothing.
        OSError: a path's directory does not exist, or the path is a directory instead of a file or the reverse.
    """
    bundle = options.tree if options.bundle else None
    tree = os.path.join(options.tree, "rootfs") if options.bundle else options.tree
    if options.owners is not None:  # it is begun before the bundle exists
        _verify_place(options.owners, options.tree, "--owners")
    if options.receipt is not None:
        _verify_place(options.receipt, tree, "--receipt", bundle=bundle)
    if options.run_files is not None:
        _verify_place(options.run_files, tree, "--run-files", bundle=bundle, is_directory=True)


def _verify_place(path: str, tree: str, option: str, *, bundle: str | None = None, is_directory: bool = False) -> None:
    verify_outside(path, tree, option, bundle=bundle, is_directory=is_directory)
    if is_directory:
        real_target(path)
    parent = os.path.dirname(os.path.abspath(path))
    if bundle is not None and is_within(real_path(parent), bundle):
        return  # the bundle's directories are made later
    if not os.path.isdir(parent):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if os.path.exists(path) and os.path.isdir(path) != is_directory:
        code = errno.ENOTDIR if is_directory else errno.EISDIR
        raise OSError(code, os.strerror(code), path)


def _selection_from(options: argparse.Namespace) -> PathSelection | None:
    return PathSelection.parse(tuple(options.include), tuple(options.exclude))


def _write_tar(options: argparse.Namespace) -> int:
    """Write the flattened tar; it gets its name only after everything in it was verified."""
    for flag, value in (
        ("--replace", options.replace),
        ("--sync", options.sync),
        ("--bundle", options.bundle),
        ("--run-files", options.run_files),
        ("--receipt", options.receipt),
        ("--owners", options.owners),
        ("--userns", options.userns),
        ("--rootless", options.rootless),
    ):
        if value:
            raise UsageError(f"{flag}: expected ROOTFS beside it, got --to-tar")
    if options.to_tar == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "--to-tar -: expected a file or a pipe on standard output, got a terminal",
                hint="for example --to-tar - | tar -tv",
            )
        name, result = _flatten(options, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
    else:
        with new_file(options.to_tar) as file:
            name, result = _flatten(options, file.write)
    print_result(options, name, result)
    return 0


def _flatten(options: argparse.Namespace, write: Callable[[bytes | memoryview], object]) -> tuple[str, FlattenResult]:
    from ociexport.rootfs.outputs.tar import flatten  # noqa: PLC0415 - start-up: a tree on disk does without

    progress, began = progress_from(options), time.monotonic()
    epoch = source_date_epoch()
    with closing(open_signed_source(options, progress)) as source:
        result = flatten(
            source,
            write,
            platform=platform_from(options),
            limits=limits_from(options),
            selection=_selection_from(options),
            keep_dirlinks=options.keep_dirlinks,
            max_mtime_ns=None if epoch is None else epoch * 1_000_000_000,
            progress=progress,
        )
    for line in result.losses.lines():
        progress.warn(line)
    target = "standard output" if options.to_tar == "-" else options.to_tar
    size = (counted(result.written_entries, "entry"), f"{time.monotonic() - began:.1f} s")
    progress.say(summary("unpacked", source.display_name, target, result.manifest_digest, *size))
    return source.display_name, result
