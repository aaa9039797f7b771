"""What ``report`` prints: lines for people, a table for spreadsheets, or JSON. `report_page` makes the HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from ociexport.errors import counted, escaped
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.progress.protocol import format_bytes
from ociexport.verification.changes import Change, ChangedName, Changes
from ociexport.verification.left_out import LeftOut, Place
from ociexport.verification.parts import AboutKind, Part
from ociexport.verification.report import Report, ReportedImage

_NAME_COLUMNS = 14
# Where blobs are that a thin bundle lacks on purpose.
_PLACES = {
    Place.FAR_SIDE: "on the far side",
    Place.RECIPE: "made there by recipes",
    Place.VOLUME: "in other volumes",
}
# A spreadsheet takes a cell that begins with one of these for a formula, also after blanks (OWASP, "CSV Injection"). In
# some languages it separates cells by semicolons, whatever the quotes around a cell say.
_FORMULA = re.compile(r"""(^|;)([\s"']*)(?=[=+\-@|%＝＋－＠])""")
CSV_COLUMNS = (
    "name",
    "other_names",
    "kind",
    "digest",
    "platforms",
    "created",
    "age_days",
    "bytes",
    "unique_bytes",
    "shared_bytes",
    "missing_blobs",
    "expected_blobs",
    "signatures",
    "sboms",
    "provenance",
    "other_attestations",
    "change",
)


@dataclass(frozen=True, slots=True)
class ReportTime:
    """The time of a report, from which ages are counted."""

    now: datetime

    @classmethod
    def of(cls, seconds: int) -> ReportTime:
        """Return the time that is ``seconds`` after the beginning of 1970."""
        return cls(datetime.fromtimestamp(seconds, UTC))

    def age_of(self, created: datetime | None) -> int | None:
        """Return the full days since ``created``; 0 for a time in the future."""
        return max(0, (self.now - created).days) if created is not None else None

    def shown_age(self, created: datetime | None) -> str:
        """Return the date of ``created`` and its age."""
        age = self.age_of(created)
        return f"{shown_time(created)[:10]}, {counted(age, 'day')} old" if age is not None else "not stated"


def shown_time(time: datetime | None) -> str:
    """Return a time in the form of RFC 3339; an empty text for none."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0") if time is not None else ""


def title_of(image: ReportedImage) -> str:
    """Return the first name of an image, safe to show; its digest if it has none."""
    return escaped(image.names[0]) if image.names else f"@{image.digest}"


def about_text(image: ReportedImage) -> str:
    """Return how many signatures, SBOMs and attestations there are."""
    found = [
        counted(image.count(kind), noun)
        for kind, noun in (
            (AboutKind.SIGNATURE, "signature"),
            (AboutKind.SBOM, "SBOM"),
            (AboutKind.PROVENANCE, "provenance statement"),
            (AboutKind.ATTESTATION, "other attestation"),
            (AboutKind.OTHER, "other artifact"),
        )
        if image.count(kind)
    ]
    return ", ".join(found) or "none"


def missing_text(image: ReportedImage) -> str:
    """Return how many blobs of an image are not stored, and their declared size."""
    return f"{counted(len(image.missing), 'blob')}, {format_bytes(sum(image.missing.values()))}"


def expected_text(image: ReportedImage) -> str:
    """Return how many blobs of an image are elsewhere on purpose, and where."""
    return "; ".join(_expected_texts(image.expected))


def _expected_texts(expected: Mapping[Digest, LeftOut]) -> Iterator[str]:
    for place, where in _PLACES.items():
        sizes = [one.size for one in expected.values() if one.place is place]
        if sizes:
            yield f"{counted(len(sizes), 'blob')}, {format_bytes(sum(sizes))} {where}"


def platform_text(part: Part) -> str:
    """Return a platform, or what a manifest is if it is for none."""
    shown = part.platform or escaped(part.artifact_type or "") or "platform not stated"
    return shown if part.layers is not None else f"{shown} (not here)"


def totals_lines(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the sums of a report, each with its name."""
    platforms = sum(len(image.platforms) for image in report.images)
    if report.is_told:
        yield "known from", "bundle.json alone: times are not in it, and signatures are listed like images"
    yield "images", f"{len(report.images)}, with {counted(platforms, 'platform')}"
    yield "blobs", f"{len(report.stored)}, {format_bytes(report.size)}"
    yield "unique", f"{format_bytes(report.unique)} in one image only"
    yield "shared", f"{format_bytes(report.shared)} in several, counted once"
    if report.unreferenced_blobs:
        yield (
            "unreferenced",
            f"{format_bytes(report.unreferenced)} in {counted(report.unreferenced_blobs, 'blob')} that no image needs",
        )
    if report.expected:
        yield "not inside", "; ".join(_expected_texts(report.expected))
    count, size = report.unfinished
    if count:
        yield "unfinished", f"{format_bytes(size)} beside, of {counted(count, 'blob')} that an interrupted run left"


def change_text(one: ChangedName) -> str:
    """Return what happened to a name, with its platforms and the bytes that are new."""
    if one.change is Change.REMOVED:
        return "removed"
    platforms = [f"{name} {change.value}" for name, change in one.platforms.items()]
    details = platforms if one.change is Change.CHANGED else []
    if one.has_other_about:
        details = [*details, "other signatures or SBOMs"]
    shown = f" ({', '.join(details)})" if details else ""
    return f"{one.change.value}{shown}, {format_bytes(one.new_bytes)} new"


def changes_summary(changes: Changes) -> str:
    """Return the numbers of names and bytes that changed."""
    names = ", ".join(f"{changes.count(change)} {change.value}" for change in Change)
    return f"{names}; {format_bytes(changes.new_bytes)} new, {format_bytes(changes.gone_bytes)} gone"


def report_lines(report: Report, changes: Changes | None, time: ReportTime) -> Iterator[str]:
    """Yield the lines for people."""
    yield _line("contents", escaped(report.place))
    for name, text in totals_lines(report):
        yield _line(name, text)
    if changes is not None:
        yield ""
        yield _line("since", escaped(changes.since))
        yield f"  {changes_summary(changes)}"
        for one in changes.names:
            if one.change is not Change.UNCHANGED:
                yield f"  {escaped(one.name)}: {change_text(one)}"
    for image in report.images:
        yield ""
        yield from _image_lines(image, time)
    if report.findings:
        yield ""
        yield "problems:"
        yield from (f"  {finding}" for finding in report.findings)


def _image_lines(image: ReportedImage, time: ReportTime) -> Iterator[str]:
    yield title_of(image)
    for name in image.names[1:]:
        yield "  " + _line("also", escaped(name))
    yield "  " + _line("digest", str(image.digest))
    yield "  " + _line("created", time.shown_age(image.created))
    shared = f"{format_bytes(image.unique)} unique, {format_bytes(image.shared)} shared"
    yield "  " + _line("size", f"{format_bytes(image.size)}: {shared}")
    if image.missing:
        yield "  " + _line("missing", missing_text(image))
    if image.expected:
        yield "  " + _line("not inside", expected_text(image))
    for part in image.parts:
        yield "  " + _line("platform", f"{platform_text(part)}  {part.digest}")
    yield "  " + _line("about it", about_text(image))
    for about in image.about:
        yield f"    {about.kind.value:<12}{about.digest}"


def _line(name: str, text: str) -> str:
    return f"{name + ':':<{_NAME_COLUMNS}}{text}"


def report_csv(report: Report, changes: Changes | None, time: ReportTime) -> str:
    """Return a table with a row for each image; no cell is taken for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for image in report.images:
        age = time.age_of(image.created)
        writer.writerow(
            _cell(value)
            for value in (
                image.names[0] if image.names else "",
                " ".join(image.names[1:]),
                image.kind,
                image.digest,
                " ".join(image.platforms),
                shown_time(image.created),
                "" if age is None else age,
                image.size,
                image.unique,
                image.shared,
                len(image.missing),
                len(image.expected),
                image.count(AboutKind.SIGNATURE),
                image.count(AboutKind.SBOM),
                image.count(AboutKind.PROVENANCE),
                image.count(AboutKind.ATTESTATION, AboutKind.OTHER),
                changes.of(image).value if changes is not None else "",
            )
        )
    return text.getvalue()


def _cell(value: object) -> str:
    """Return the text of a cell; an apostrophe in front of a formula keeps a spreadsheet from computing it."""
    return _FORMULA.sub(r"\1'\2", escaped(str(value)))


def report_to_json(report: Report, changes: Changes | None, time: ReportTime) -> dict[str, object]:
    """Return the members that ``report --json`` prints."""
    return {
        "name": report.place,
        "reportTime": shown_time(time.now),
        "fromBundleJson": report.is_told,
        "totals": {
            "images": len(report.images),
            "platforms": sum(len(image.platforms) for image in report.images),
            "blobs": len(report.stored),
            "bytes": report.size,
            "uniqueBytes": report.unique,
            "sharedBytes": report.shared,
            "unreferencedBlobs": report.unreferenced_blobs,
            "unreferencedBytes": report.unreferenced,
            "unfinishedBlobs": report.unfinished[0],
            "unfinishedBytes": report.unfinished[1],
            "expectedBlobs": len(report.expected),
            "expectedBytes": sum(one.size for one in report.expected.values()),
        },
        "images": [_image_to_json(image, changes, time) for image in report.images],
        "since": _changes_to_json(changes) if changes is not None else None,
        "problems": [str(finding) for finding in report.findings],
    }


def _image_to_json(image: ReportedImage, changes: Changes | None, time: ReportTime) -> dict[str, object]:
    return {
        "names": list(image.names),
        "kind": image.kind,
        "digest": str(image.digest),
        "mediaType": image.media_type,
        "created": shown_time(image.created) or None,
        "ageDays": time.age_of(image.created),
        "bytes": image.size,
        "uniqueBytes": image.unique,
        "sharedBytes": image.shared,
        "blobs": len(image.blobs),
        "platforms": [_part_to_json(part) for part in image.parts],
        "absentManifests": image.absent,
        "missing": [{"digest": str(digest), "size": size} for digest, size in image.missing.items()],
        "expected": [
            {"digest": str(digest), "size": one.size, "where": one.place.value}
            for digest, one in image.expected.items()
        ],
        "signatures": image.count(AboutKind.SIGNATURE),
        "sboms": image.count(AboutKind.SBOM),
        "about": [
            {"kind": one.kind.value, "digest": str(one.digest), "subject": str(one.subject) if one.subject else None}
            for one in image.about
        ],
        "change": changes.of(image).value if changes is not None else None,
    }


def _part_to_json(part: Part) -> dict[str, object]:
    return {
        "platform": part.platform,
        "digest": str(part.digest),
        "config": str(part.config) if part.config is not None else None,
        "created": shown_time(part.created) or None,
        "layers": part.layers,
        "artifactType": part.artifact_type,
        "stored": part.layers is not None,
    }


def _changes_to_json(changes: Changes) -> dict[str, object]:
    return {
        "name": changes.since,
        **{change.value: changes.count(change) for change in Change},
        "newBytes": changes.new_bytes,
        "goneBytes": changes.gone_bytes,
        "changes": [
            {
                "name": one.name,
                "change": one.change.value,
                "old": sorted(map(str, one.old)),
                "new": sorted(map(str, one.new)),
                "platforms": {name: change.value for name, change in one.platforms.items()},
                "otherAbout": one.has_other_about,
                "newBytes": one.new_bytes,
            }
            for one in changes.names
            if one.change is not Change.UNCHANGED
        ],
    }
