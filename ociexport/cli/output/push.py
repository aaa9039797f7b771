"""What `ociexport push` prints about the images that it pushed, or would push: lines and JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ociexport.cli.errors import one_line, report_error
from ociexport.cli.exit_codes import OK, exit_code_of
from ociexport.cli.options.json import print_json
from ociexport.cli.output.summary import summary
from ociexport.errors import OciexportError, counted
from ociexport.system.progress.protocol import Progress, format_bytes

if TYPE_CHECKING:
    from ociexport.transfer.push import BlobCount, PlannedPush, PushResult


class PushReport:
    """Reports each image when it has its name, and all of them at the end.

    Args:
        command: the one that the user gave.
        as_json: whether the results are printed as one JSON object.

    Attributes:
        results: of the images so far.
        code: the exit code of the command: that of the first failure.
    """

    def __init__(self, command: str, progress: Progress, *, as_json: bool) -> None:
        self._command = command
        self._progress = progress
        self._is_json = as_json
        self._began = time.monotonic()
        self._failures: list[dict[str, object]] = []
        self.results: list[PushResult] = []
        self.code = OK

    def add(self, result: PushResult) -> None:
        """Report an image that has its name at the registry."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        self.results.append(result)
        details = [f"with {counted(len(result.companions), 'referring artifact')}"] if result.companions else []
        details.append(f"{counted(result.sent.blobs, 'blob')} ({format_bytes(result.sent.size)}) sent")
        for what, count in (("mounted", result.mounted), ("already there", result.there)):
            details += [f"{count.blobs} ({format_bytes(count.size)}) {what}"] if count.blobs else []
        place = result.reference.partition("@")[0]
        self._progress.say(summary("pushed", result.image.shown, place, result.digest, *details, f"{seconds:.1f} s"))
        if not self._is_json:
            sys.stdout.write(f"{result.reference}\n")
            sys.stdout.flush()

    def add_failure(self, image: str, error: OciexportError) -> None:
        """Report an image that could not be pushed; others may follow."""
        code = report_error(error)
        self.code = self.code or code
        self.note_failure(image, error)

    def note_failure(self, image: str, error: OciexportError | OSError) -> None:
        """Take an image whose failure was reported."""
        self._failures.append({"image": image, "error": one_line(error), "exitCode": exit_code_of(error)})

    def tell_plan(self, plans: Sequence[PlannedPush]) -> None:
        """Print what a push of a list would do, and which of its images can't be pushed."""
        tell_push_plan(self._command, plans, as_json=self._is_json, failures=self._failures)

    def end(self) -> None:
        """Print the JSON object of all images."""
        if self._is_json:
            images = [_result_to_json(result) for result in self.results]
            print_json(self._command, {"images": images, "failures": self._failures})


def _result_to_json(result: PushResult) -> dict[str, object]:
    return {
        "name": result.image.full_name,
        "reference": result.reference,
        "digest": str(result.digest),
        **_counts_to_json({"there": result.there, "mounted": result.mounted, "sent": result.sent}),
        "companions": [str(digest) for digest in result.companions],
    }


def _counts_to_json(counts: dict[str, BlobCount]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, count in counts.items():
        members[f"{name}Blobs"], members[f"{name}Bytes"] = count.blobs, count.size
    return members


def tell_push_plan(
    command: str,
    plans: Sequence[PlannedPush],
    *,
    as_json: bool,
    failures: Sequence[dict[str, object]] | None = None,
) -> None:
    """Print what a push would do.

    Args:
        failures: images of a list that can't be pushed, for JSON; None without a list.
    """
    totals = {
        state: [blob.descriptor.size for plan in plans for blob in plan.blobs if blob.state == state]
        for state in ("there", "mount", "send")
    }
    if as_json:
        members: dict[str, object] = {"dryRun": True, "images": [_plan_to_json(plan) for plan in plans]}
        for state, sizes in totals.items():
            members[f"{state}Blobs"], members[f"{state}Bytes"] = len(sizes), sum(sizes)
        print_json(command, members if failures is None else {**members, "failures": failures})
        return
    for plan in plans:
        print(f"image {plan.image.shown}: {plan.digest}")
        print(f"  to {plan.image.destination}, {_tag_state(plan)}")
        for blob in plan.blobs:
            words = {"there": "already there", "mount": f"to mount from {blob.mounted_from}", "send": "to send"}
            print(f"  {blob.title}: {format_bytes(blob.descriptor.size)}, {words[blob.state]}")
        if plan.companions:
            print(f"  with {counted(len(plan.companions), 'referring artifact')}")
    shown = {state: f"{counted(len(sizes), 'blob')} ({format_bytes(sum(sizes))})" for state, sizes in totals.items()}
    print(f"there: {shown['there']}; to mount: {shown['mount']}; to send: {shown['send']}")


def _tag_state(plan: PlannedPush) -> str:
    if plan.image.destination.tag is None:
        return "without a tag"
    if plan.replaces is not None:
        return f"a tag that moves from {plan.replaces}"
    return "a tag that is there" if plan.is_tagged else "a new tag"


def _plan_to_json(plan: PlannedPush) -> dict[str, object]:
    return {
        "name": plan.image.full_name,
        "destination": str(plan.image.destination),
        "digest": str(plan.digest),
        "isTagged": plan.is_tagged,
        "replaces": str(plan.replaces) if plan.replaces is not None else None,
        "companions": [str(digest) for digest in plan.companions],
        "blobs": [
            {
                "title": blob.title,
                "digest": str(blob.descriptor.digest),
                "size": blob.descriptor.size,
                "state": blob.state,
                "mountedFrom": blob.mounted_from,
            }
            for blob in plan.blobs
        ],
    }
