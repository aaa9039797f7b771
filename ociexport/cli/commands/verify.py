"""`ociexport verify`: check a layout, an archive or a registry image for problems, and repair a layout."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ociexport.cli.exit_codes import INTEGRITY, OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.lists import add_list_arguments
from ociexport.cli.options.platform import add_several_platforms_arguments, named_choice_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.options.thin import HAVE, far_side_from, recipe_prover_from
from ociexport.errors import UsageError, counted, escaped
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import Progress
from ociexport.verification.findings import Finding
from ociexport.verification.options import VerifyOptions
from ociexport.verification.verify import Verification, verify_source

if TYPE_CHECKING:
    from ociexport.transfer.lists.entries import ListEntry
    from ociexport.verification.repair import RepairResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "source",
        metavar="SRC",
        nargs="*",
        help="layout or archive (all of it, or ./layout:tag), - for standard input, or image reference; or several "
        "volumes of one set, which are checked together",
    )
    parser.add_argument(
        "--deep", action="store_true", help="also decompress all layers, check their diff_ids, and apply them in memory"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="fetch broken and missing blobs and documents of a layout again, from the sources in --from",
    )
    parser.add_argument(
        "--from",
        dest="origins",
        metavar="SRC",
        action="append",
        default=[],
        help="with --repair, fetch from this image reference, layout or archive; a registry (registry.example/) stands "
        "for its images named in the layout's index.json; may be repeated",
    )
    parser.add_argument("--cache", metavar="DIR", help="with --repair, copy blobs from this cache directory")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --repair, list what would be fetched and from where, and write nothing",
    )
    parser.add_argument(
        "--against",
        metavar="HAVE",
        action="append",
        default=[],
        help=f"prove that an update and what the far side has are whole together; HAVE as in pull --since: a {HAVE}; "
        "may be repeated",
    )
    parser.add_argument("--strict", action="store_true", help="require everything that an index lists")
    add_several_platforms_arguments(
        parser,
        "check these platforms only; may be repeated (default: all in a layout or archive, this machine's in a "
        "registry)",
        "check all platforms in a registry too",
    )
    add_json_argument(parser)
    add_limit_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)
    add_list_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each finding; the exit code is 7 if any of them is a problem."""
    progress = progress_from(options)
    if options.list:
        return _verify_list(options, progress)
    sources = options.source
    if not sources:
        raise UsageError("verify: expected SRC, got none", hint="for example ociexport verify ./layout")
    options.source = " ".join(sources)
    if options.repair and len(sources) > 1:
        raise UsageError(f"--repair: expected one layout, got {counted(len(sources), 'source')}")
    if options.repair:
        if options.against:
            raise UsageError("--against: expected no --repair with it", hint="see ociexport verify --help")
        return _repair(options, progress)
    for option, is_given in (
        ("--from", options.origins),
        ("--cache", options.cache),
        ("--dry-run", options.dry_run),
    ):
        if is_given:
            raise UsageError(f"{option}: expected --repair with it", hint="see ociexport verify --help")
    found = verify_source(sources if len(sources) > 1 else sources[0], _verify_options_from(options, progress))
    if options.json:
        source = {"source": sources[0]} if len(sources) == 1 else {"source": sources[0], "sources": sources}
        print_json("verify", {**source, **_to_json(found)})
    return _tell(options, found, progress)


def _verify_list(options: argparse.Namespace, progress: Progress) -> int:
    """Verify each image of a list, where it comes from or, with SRC, in that layout or archive."""
    from ociexport.cli.listed import for_each, name_in_layout, own_platforms, pinned_source  # noqa: PLC0415 - start-up: few have a list

    if options.repair:
        raise UsageError("--repair: expected no --list beside it, got one")
    if len(options.source) > 1:
        raise UsageError(f"verify: expected one SRC beside --list, got {counted(len(options.source), 'source')}")
    if "-" in (*options.source, *options.against):
        raise UsageError("-: expected a file beside --list, which reads it for each image, got standard input")
    (place,) = options.source or (None,)

    def verify(entry: ListEntry) -> int:
        own = argparse.Namespace(**vars(options))
        own.list = None
        own.source = [pinned_source(entry)]
        if place is not None:
            # By digest, so that a name that has moved since is missing.
            image = f"@{entry.locked.listed}" if entry.locked is not None else f":{name_in_layout(entry)}"
            own.source = [f"{place}{image}"]
        choice = own_platforms(entry, options)
        if choice is not None and place is None:
            own.platform, own.all = list(map(str, choice.platforms)), choice.takes_all
        return run(own)

    return for_each(options, progress, verify, is_in_place=place is not None)


def _verify_options_from(options: argparse.Namespace, progress: Progress) -> VerifyOptions:
    return VerifyOptions(
        strict=options.strict,
        deep=options.deep,
        limits=limits_from(options),
        platform=named_choice_from(options),
        against=far_side_from(options, progress),
        prove_recipes=recipe_prover_from(options, progress),
        progress=progress,
        registry=registry_options_from(options),
    )


def _repair(options: argparse.Namespace, progress: Progress) -> int:
    """Print a line for each blob that was repaired, or would be, and then the findings after the repair."""
    from ociexport.verification.repair import repair_layout  # noqa: PLC0415 - start-up: few layouts need a repair

    result = repair_layout(
        options.source,
        _verify_options_from(options, progress),
        origins=options.origins,
        cache=options.cache,
        dry_run=options.dry_run,
    )
    if options.json and options.dry_run:
        members = {**_to_json(result.verification), **_plan_to_json(result)}
        print_json("verify", {"source": options.source, "dryRun": True, **members})
    elif options.json:
        members = {**_to_json(result.verification), **_repairs_to_json(result)}
        print_json("verify", {"source": options.source, **members})
    else:
        for line in (*result.repaired, *result.planned):
            sys.stdout.write(f"{line}\n")
    for line in (*map(str, result.unrepaired), *result.advice):
        progress.warn(escaped(line))
    return _tell(options, result.verification, progress)


def _tell(options: argparse.Namespace, found: Verification, progress: Progress) -> int:
    if not options.json:
        for finding in found.findings:
            sys.stdout.write(f"{finding}\n")
    progress.say(f"{escaped(options.source)}: {found}")
    return OK if found.is_right else INTEGRITY


def _plan_to_json(result: RepairResult) -> dict[str, object]:
    return {
        "planned": [
            {
                "place": one.place,
                "size": one.size,
                "asked": list(one.asked),
                "notAsked": list(one.not_asked),
                **_digest_member(one.digest),
            }
            for one in result.planned
        ],
        "advice": list(result.advice),
    }


def _repairs_to_json(result: RepairResult) -> dict[str, object]:
    return {
        "repaired": [
            {
                "place": blob.place,
                "size": blob.size,
                "from": blob.origin,
                **_digest_member(blob.digest),
            }
            for blob in result.repaired
        ],
        "unrepaired": [
            {"place": blob.place, "digest": str(blob.digest), "reasons": list(blob.reasons)}
            for blob in result.unrepaired
        ],
        "advice": list(result.advice),
    }


def _to_json(found: Verification) -> dict[str, object]:
    return {
        "right": found.is_right,
        "images": found.images,
        "documents": found.documents,
        "blobs": found.blobs,
        "readBytes": found.read_bytes,
        **_expected_to_json(found),
        **_volumes_to_json(found),
        **({"layers": found.layers, "tarBytes": found.tar_bytes} if found.layers is not None else {}),
        "findings": [_finding_to_json(finding) for finding in found.findings],
    }


def _expected_to_json(found: Verification) -> dict[str, object]:
    if found.expected is None:
        return {}
    return {
        "expectedBlobs": len(found.expected),
        "expectedBytes": sum(blob.size for blob in found.expected),
        "recipes": found.recipes,
    }


def _volumes_to_json(found: Verification) -> dict[str, object]:
    volumes = found.volumes
    if volumes is None:
        return {}
    return {
        "volumes": {
            "set": str(volumes.set_id),
            "count": volumes.count,
            "given": list(volumes.given),
            "toCome": list(volumes.to_come),
            "blobsToCome": len(volumes.elsewhere),
            "bytesToCome": sum(blob.size for blob in volumes.elsewhere),
            "wholeImages": list(volumes.whole),
        }
    }


def _finding_to_json(finding: Finding) -> dict[str, object]:
    return {
        "kind": finding.kind.value,
        "wrong": finding.is_wrong,
        "place": finding.place,
        "message": finding.message,
        **_digest_member(finding.digest),
    }


def _digest_member(digest: Digest | None) -> dict[str, object]:
    return {"digest": str(digest)} if digest is not None else {}
