"""`ociexport inspect`: show an image's config, layers, platforms and annotations, without fetching its layers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import closing

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.output.inspection import inspection_lines, inspection_to_json, listing_lines, listing_to_json
from ociexport.errors import UsageError
from ociexport.images.resolve import DocumentReader, read_raw_config, resolve_manifest, verify_requested
from ociexport.images.source import ImageSource, published, shared_name
from ociexport.inspection.inspect import inspect_source
from ociexport.spec.descriptor import Platform
from ociexport.spec.digested_bytes import is_schema1
from ociexport.storage.index import ListedImage, main_images, name_of
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.sources.list_names import list_layout_images
from ociexport.transfer.sources.names import ArchiveName, RegistryName, SourceName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("source", metavar="SRC", help="image reference, layout (./layout, ./layout:tag) or archive")
    add_platform_argument(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--raw",
        action="store_true",
        help="print the original bytes of the manifest or index; with --platform, of the manifest",
    )
    shown.add_argument("--config", action="store_true", help="print the original bytes of the image's config")
    add_json_argument(shown)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the image's description, or the list of images if SRC holds several and names none of them."""
    progress = progress_from(options)
    name = parse_source_name(options.source)
    with closing(SourceOpener(options=registry_options_from(options), progress=progress)) as opener:
        images = [] if options.raw or options.config else _several_images(name, opener)
        one_name = len({(known.tag, known.full) for _, known in main_images(images)}) == 1
        if images and not (options.platform and one_name):
            return _print_listing(options, images)
        return _inspect_one(options, name, opener, progress)


def _inspect_one(options: argparse.Namespace, name: SourceName, opener: SourceOpener, progress: Progress) -> int:
    with closing(opener.open(name)) as source:
        platform = platform_from(options)
        shared = shared_name(source) if not options.platform else None
        if shared is not None and options.raw:
            raise UsageError(
                f"{options.source}: --raw: expected one image, there are several with this name",
                hint="select one with --platform",
            )
        if shared is not None and not options.config:
            return _print_listing(options, [(entry, name_of(entry)) for entry in shared.entries])
        if options.raw:
            return _print_bytes(_read_raw(source, platform if options.platform else None))
        if options.config:
            resolved = resolve_manifest(source, platform)
            verify_requested(source, resolved, platform)
            return _print_bytes(read_raw_config(source, resolved.manifest))
        inspection = inspect_source(source, platform, must_fit=options.platform is not None)
    if inspection.missing is not None:
        progress.warn(inspection.missing)
    if options.json:
        print_json("inspect", inspection_to_json(inspection))
    else:
        _print_lines(inspection_lines(inspection))
    return OK


def _print_listing(options: argparse.Namespace, images: list[ListedImage]) -> int:
    if options.json:
        print_json("inspect", listing_to_json(options.source, images))
    else:
        _print_lines(listing_lines(images))
    return OK


def _several_images(name: SourceName, opener: SourceOpener) -> list[ListedImage]:
    """Return the images of a layout or archive if it holds several and ``name`` selects none; otherwise an empty list.

    An archive on standard input is not listed, because it can be read only once.
    """
    if isinstance(name, RegistryName) or name.image is not None or name == ArchiveName("-", None):
        return []
    images = list_layout_images(name, opener)
    main = main_images(images)
    return images if len({descriptor.digest for descriptor, _ in main}) > 1 else []


def _read_raw(source: ImageSource, platform: Platform | None) -> bytes:
    received = published(source).fetch_manifest()
    if platform is None or is_schema1(received.raw, received.media_type):
        # The bytes are not parsed, so that documents of unknown types are printed too.
        return received.raw
    documents = DocumentReader(source, received)
    resolved = resolve_manifest(documents, platform)
    verify_requested(documents.source, resolved, platform)
    return resolved.manifest.raw


def _print_bytes(raw: bytes) -> int:
    sys.stdout.buffer.write(raw)
    return OK


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
