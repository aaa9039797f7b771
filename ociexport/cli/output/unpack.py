"""The result that `ociexport unpack` prints: the manifest's digest, or a JSON object."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ociexport.cli.options.json import to_json_text
from ociexport.rootfs.unpack import UnpackResult
from ociexport.system.files import is_stream

if TYPE_CHECKING:
    from ociexport.rootfs.outputs.tar import FlattenResult


def print_result(
    options: argparse.Namespace, source: str, result: UnpackResult | FlattenResult, *, same_as: str | None = None
) -> None:
    """Print the result; if standard output is the tar itself, print JSON on standard error, or nothing.

    Args:
        options: the command's options.
        source: the name of the image in messages.
        result: what was unpacked.
        same_as: the tree of the same image under another name of a list, to which this one is a link.
    """
    # A stream may be standard output under another name.
    target = options.target if options.to_tar is None else options.to_tar
    is_stdout_taken = target == "-" or is_stream(target)
    out = sys.stderr if is_stdout_taken else sys.stdout
    if options.json:
        members = _result_to_json(options, source, result)
        out.write(to_json_text("unpack", members if same_as is None else {**members, "sameAs": same_as}))
    elif not is_stdout_taken:
        out.write(f"{result.manifest_digest}\n")
        if isinstance(result, UnpackResult) and result.disk_image is not None and result.disk_image.verity is not None:
            verity = result.disk_image.verity
            out.write(f"roothash={verity.root_hash}\n")
            # The rest of the kernel's arguments, without an initrd and with one of systemd.
            out.write(f"{verity.kernel_arguments(options.format)}\n")
            out.write(f"{verity.systemd_arguments()}\n")


def _result_to_json(
    options: argparse.Namespace, source: str, result: UnpackResult | FlattenResult
) -> dict[str, object]:
    return {
        "source": source,
        "rootfs": options.rootfs,
        "tar": options.to_tar,
        "diskImage": _disk_image_to_json(options, result) if isinstance(result, UnpackResult) else None,
        "platform": result.config.platform.to_json(),
        "manifestDigest": str(result.manifest_digest),
        "configDigest": str(result.config.digest),
        "layers": [
            {"digest": str(layer.descriptor.digest), "size": layer.descriptor.size, "diffId": str(layer.diff_id)}
            for layer in result.layers
        ],
        "entries": result.entries if isinstance(result, UnpackResult) else result.written_entries,
        "losses": list(result.losses.lines()),
    }


def _disk_image_to_json(options: argparse.Namespace, result: UnpackResult) -> dict[str, object] | None:
    if result.disk_image is None:
        return None
    verity = result.disk_image.verity
    described: dict[str, object] | None = None
    if verity is not None:
        described = {
            "rootHash": verity.root_hash,
            "salt": verity.salt,
            "uuid": verity.uuid,
            "dataBlocks": verity.data_blocks,
            "hashOffset": verity.hash_offset,
            "kernelArguments": verity.kernel_arguments(options.format),
            "systemdArguments": verity.systemd_arguments(),
        }
    return {"format": options.format, "size": result.disk_image.size, "verity": described}
