"""`ociexport push --list`: the images of a list go to a registry, each blob of all of them once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ociexport.cli.listed import ListRun, name_in_layout, own_platforms, pinned_source
from ociexport.cli.options.lists import verify_reads_input_once
from ociexport.cli.options.platform import named_choice_from
from ociexport.cli.output.push import PushReport
from ociexport.cli.pushing import Pushing, pushing, write_mapping
from ociexport.errors import InvalidReferenceError, NotFoundError, OciexportError, UsageError, counted, locating, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.images.source import ImageName
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.reference import ImageReference
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.push import PlannedPush
from ociexport.transfer.push_list import ImageToPush, SourceImage, images_of, images_to_push, name_of_reference
from ociexport.transfer.push_names import PushTarget
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RegistryName, parse_source_name

_PINNED_HINT = "the list names an index, which pull keeps with --sparse or --all; ociexport lock lists what it pulls"


def push_list(options: argparse.Namespace, target: PushTarget) -> int:
    """Push the images of a list, and return the exit code of the worst.

    With SRC, a layout or an archive, its images of these names are pushed, and no other place is asked for them. All
    names are settled before the first request to the destination. A tag in the way is a failure of its image alone.

    Raises:
        UsageError: two images would get one name, SRC is something else, or the list can't be read.
    """
    if len(options.images) > 1:
        raise UsageError(f"push: expected one SRC beside --list, got {counted(len(options.images), 'source')}")
    verify_reads_input_once([*options.images, *options.list])
    place = parse_source_name(options.images[0]) if options.images else None
    if place is not None and not (isinstance(place, LayoutName | ArchiveName) and place.image is None):
        raise UsageError(
            f"push: expected a layout or an archive beside --list, got {quoted(options.images[0])}",
            hint="the list names the images; without SRC, each is taken from where its name leads",
        )
    with (
        pushing(options, target) as push,
        ListRun(
            options,
            push.progress,
            registry=push.elsewhere_options,
            opener=push.elsewhere,
            is_in_place=place is not None,
            platforms=named_choice_from(options) or PlatformChoice(),
        ) as listed,
    ):
        report = PushReport(options.command, push.progress, as_json=options.json)
        for entry, error in listed.unreadable:
            report.note_failure(entry.image, error)
        if place is not None:
            push.elsewhere.name_each(place, everything=True)  # it is read once for all its images
        found = list(_find(listed, place, push, options, report))
        named = images_to_push([image for _, image in found], target, push.rules, push.progress.warn)
        plans = []
        for (entry, _), image in zip(found, named, strict=True):
            try:
                with locating(f"image {quoted(image.shown)}"):
                    if options.dry_run:
                        plans.append(_plan(push, image))
                    else:
                        report.add(push.run.push(image))
                listed.done(entry)
            except (OciexportError, OSError) as error:
                if isinstance(error, NotFoundError) and place is not None and "@" in entry.image:
                    error.hint = error.hint or _PINNED_HINT
                listed.fail(entry, error)
                report.note_failure(image.full_name, error)
        if options.dry_run:
            report.tell_plan(plans)
        else:
            write_mapping(options, push, report.results)
            report.end()
        return listed.end()


def _plan(push: Pushing, image: ImageToPush) -> PlannedPush:
    push.run.verify_tags([image])
    return push.run.plan(image)


def _find(
    listed: ListRun,
    place: LayoutName | ArchiveName | None,
    push: Pushing,
    options: argparse.Namespace,
    report: PushReport,
) -> Iterator[tuple[ListEntry, SourceImage]]:
    """Yield each entry with its image; one whose layout or archive can't be read fails."""
    for entry in listed.entries:
        try:
            images = [_image_in(place, entry)] if place is not None else list(_images_of(entry, push))
        except (OciexportError, OSError) as error:
            listed.fail(entry, error)
            report.note_failure(entry.image, error)
            continue
        platforms = own_platforms(entry, options)
        if place is not None and entry.locked is not None:
            platforms = None if platforms is None else PlatformChoice()  # its digest is that of the locked platforms
        for image in images:
            yield entry, replace(image, platforms=platforms)


def _images_of(entry: ListEntry, push: Pushing) -> Iterator[SourceImage]:
    name = parse_source_name(pinned_source(entry))
    for image in images_of(name, push.open_source, push.elsewhere):
        is_local = entry.locked is not None and not isinstance(name, RegistryName)
        yield replace(image, locked=entry.locked.digest) if is_local and entry.locked is not None else image


def _image_in(place: LayoutName | ArchiveName, entry: ListEntry) -> SourceImage:
    """Return the image of an entry in the layout or archive; of a lock file, by its digest, under its locked name."""
    called = name_in_layout(entry)
    try:
        name = name_of_reference(ImageReference.parse(called))
    except InvalidReferenceError:
        name = ImageName(called, None)
    digest = entry.locked.listed if entry.locked is not None else None
    source = replace(place, image=called if digest is None else f"@{digest}")
    return SourceImage(source, entry.image, name, digest)
