"""What `ociexport merge` prints: the images that are complete, and what the others lack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ociexport.cli.errors import one_line, report_error
from ociexport.cli.exit_codes import INTEGRITY, OK, exit_code_of
from ociexport.cli.options.json import print_json
from ociexport.errors import counted, escaped, printable
from ociexport.system.progress.protocol import Progress, format_bytes

if TYPE_CHECKING:
    from ociexport.transfer.bundle.merge import MergedImage, MergeResult, MissingBlob


def tell_merge(result: MergeResult, options: argparse.Namespace, progress: Progress) -> int:
    """Print the result and return the exit code."""
    if options.json:
        print_json("merge", {"far": options.far, "dryRun": options.dry_run, **_to_json(result)})
    else:
        for reference in _named(result):
            sys.stdout.write(f"{escaped(reference)}\n")
    for image in result.images:
        if image.is_complete and image.is_outdated:
            progress.say(f"{escaped(image.bundle)}: {escaped(_reference(image))}: the name has a later image")
    for image in result.waiting:
        for line in _lacks(image):
            print(f"ociexport: error: {escaped(line)}", file=sys.stderr)
    codes = [report_error(error) for _, error in result.unreadable]
    if result.volumes_to_come:
        progress.say(f"{escaped(options.far)}: volumes to come: {', '.join(map(printable, result.volumes_to_come))}")
    progress.say(f"{escaped(options.far)}: {_summary(result, dry_run=options.dry_run)}")
    return INTEGRITY if result.waiting else next(iter(codes), OK)


def _named(result: MergeResult) -> list[str]:
    """Return the images that are complete and have their names, each once: several bundles may bring the same."""
    return list(dict.fromkeys(_reference(one) for one in result.images if one.is_complete and not one.is_outdated))


def _reference(image: MergedImage) -> str:
    return image.name if image.name.startswith("@") else f"{image.name.partition('@')[0]}@{image.digest}"


def _lacks(image: MergedImage) -> Iterator[str]:
    """Yield a line for each blob that an image lacks; one for all that are in volumes which have not come yet."""
    to_come = [blob for blob in image.missing if blob.is_to_come]
    for blob in image.missing:
        if not blob.is_to_come or len(to_come) == 1:
            yield _lack(image, blob)
    if len(to_come) > 1:
        names = ", ".join(map(printable, sorted({name for blob in to_come for name in blob.bundles})))
        lacks = f"{counted(len(to_come), 'blob')} not there or not whole; {names} should have them"
        yield f"{image.bundle}: {printable(image.name)}: {lacks}"


def _lack(image: MergedImage, blob: MissingBlob) -> str:
    place = f"{image.bundle}: {printable(image.name)}: {blob.label}"
    place = place if str(blob.digest) in place else f"{place} {blob.digest}"
    if blob.is_cut:
        bundles = ", ".join(map(printable, blob.bundles))
        what = "the rest of it" if blob.reason else "it"
        return f"{place}: {blob.reason or 'not there'}; {bundles} should have {what}"
    reason = f"{place}: {blob.reason or 'not there'}"
    if not blob.bundles:
        return reason
    return f"{reason}; {' or '.join(map(printable, blob.bundles))} should have it"


def _summary(result: MergeResult, *, dry_run: bool) -> str:
    complete = len(_named(result))
    missing = len({blob.digest for image in result.waiting for blob in image.missing})
    added = f"{counted(result.added_blobs, 'blob')} ({format_bytes(result.added_bytes)})"
    waiting = f", {len(result.waiting)} waiting for {counted(missing, 'blob')}" if result.waiting else ""
    would = "would be " if dry_run else ""
    return f"{counted(complete, 'image')} {would}complete{waiting}; {added} {would}added, {result.reused_blobs} there"


def _to_json(result: MergeResult) -> dict[str, object]:
    return {
        "images": [
            {
                "name": image.name,
                "digest": str(image.digest),
                "bundle": image.bundle,
                "complete": image.is_complete,
                "new": image.is_new,
                "outdated": image.is_outdated,
                "missing": [
                    {
                        "digest": str(blob.digest),
                        "size": blob.size,
                        "bundles": list(blob.bundles),
                        "reason": blob.reason,
                    }
                    for blob in image.missing
                ],
            }
            for image in result.images
        ],
        "failures": [
            {"bundle": bundle, "error": one_line(error), "exitCode": exit_code_of(error)}
            for bundle, error in result.unreadable
        ],
        "volumesToCome": list(result.volumes_to_come),
        "addedBlobs": result.added_blobs,
        "addedBytes": result.added_bytes,
        "reusedBlobs": result.reused_blobs,
    }
