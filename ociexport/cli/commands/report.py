"""`ociexport report`: show what a layout or an archive holds: images, sizes, signatures, age, changes."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import print_json
from ociexport.cli.options.progress import progress_from
from ociexport.cli.output.report import ReportTime, report_csv, report_lines, report_to_json
from ociexport.system.environment import source_date_epoch
from ociexport.verification.changes import compare, read_snapshot
from ociexport.verification.report import make_report

_FORMS = ("html", "json", "csv", "text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "layout",
        metavar="LAYOUT|ARCHIVE",
        help="whole layout (./layout) or archive (./images.tar), thin ones too; or the bundle.json of a thin one",
    )
    parser.add_argument(
        "--since", metavar="OLD", help="layout, archive or bundle.json to compare with: show what changed since"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="print one HTML page, without scripts or other files")
    form.add_argument("--json", action="store_true", help="print the result as one JSON object")
    form.add_argument("--csv", action="store_true", help="print a table with a row for each image")
    form.add_argument("--text", action="store_true", help="print lines (the default)")


def run(options: argparse.Namespace) -> int:
    """Print the report. Ages are counted from SOURCE_DATE_EPOCH, if it is set, or from now."""
    form = _form_from(options)
    epoch = source_date_epoch()
    now = ReportTime.of(epoch) if epoch is not None else ReportTime(datetime.now(UTC))
    progress = progress_from(options)
    report = make_report(options.layout, progress)
    changes = compare(report, read_snapshot(options.since, progress)) if options.since is not None else None
    if form == "json":
        print_json("report", report_to_json(report, changes, now))
    elif form == "csv":
        sys.stdout.write(report_csv(report, changes, now))
    elif form == "html":
        from ociexport.cli.output.report_page import report_page  # noqa: PLC0415 - start-up: other forms do without

        sys.stdout.write(report_page(report, changes, now))
    else:
        sys.stdout.writelines(f"{line}\n" for line in report_lines(report, changes, now))
    return OK


def _form_from(options: argparse.Namespace) -> str:
    """Return the requested form; the command line counts before the configuration."""
    if sum(getattr(options, form) for form in _FORMS) > 1:
        leave_out_configured(options, *_FORMS)
    return next((form for form in _FORMS if getattr(options, form)), "text")
