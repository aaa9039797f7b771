"""What `ociexport pull` prints about the images that it pulled, or would pull: lines, JSON, and a file of digests."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, TextIO

from ociexport.cli.exit_codes import DISK, OK, exit_code_of
from ociexport.cli.options.json import print_json, to_json_text
from ociexport.cli.output.summary import summary
from ociexport.errors import OciexportError, counted, printable
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import Progress, format_bytes

if TYPE_CHECKING:
    from ociexport.transfer.plan import PlannedBlob, PlannedImage, PullPlan
    from ociexport.transfer.result import PulledManifest, PullResult, ThinContent, WrittenVolume


# For `PlannedImage.credentials` of None: the server gave the manifest without a login.
_ANONYMOUS = "anonymous: the registry asked for no credentials"


class PullReport:
    """Reports each image when it is complete, and all of them at the end.

    Args:
        progress: receives the messages for people.
        out: receives the results.
        place: the destination of the images, as messages name it.
        as_json: whether to write the results as one JSON object.
        digests: a file for the digests, one per line.
        command: the one that the user gave.

    Attributes:
        code: the exit code of the command: that of the first failure.
    """

    def __init__(
        self,
        progress: Progress,
        out: TextIO,
        *,
        place: str,
        as_json: bool,
        digests: BinaryIO | None,
        command: str = "pull",
    ) -> None:
        self._command = command
        self._done = "copied" if command == "copy" else "pulled"
        self.progress = progress
        self._began = time.monotonic()
        self._place = place
        self._out = out
        self._is_json = as_json
        self._digests = digests
        self._results: list[PullResult] = []
        self._unchanged: list[tuple[str, Digest]] = []
        self._failures: list[dict[str, object]] = []
        self.code = OK

    def add(self, *results: PullResult) -> None:
        """Report images that are complete and were pulled together."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        # The results of a long list take memory.
        keeps_all = self._is_json or self._digests is not None
        self._results += [result for result in results if keeps_all or result.thin is not None]
        for result in results:
            details = (*_what_it_is(result), *_how_it_came(result), f"{seconds:.1f} s")
            self.progress.say(
                summary(
                    "copied" if self._command == "copy" else "pulled", result.name, self._place, result.digest, *details
                )
            )
            if not self._is_json:
                self._out.write(f"{result.reference}\n")
                self._out.flush()

    def add_failure(self, image: str, error: OciexportError) -> None:
        """Report an image that could not be pulled; others may follow."""
        from ociexport.cli.errors import proof_of, report_error  # noqa: PLC0415 - start-up: only an error needs it

        code = report_error(error, proof_of("pull", image, error, self._place))
        self.code = self.code or code
        self.note_failure(image, error)

    def note_failure(self, image: str, error: OciexportError | OSError) -> None:
        """Take an image whose failure was reported."""
        from ociexport.cli.errors import one_line  # noqa: PLC0415 - start-up: as above

        self._failures.append({"image": image, "error": one_line(error), "exitCode": exit_code_of(error)})

    def add_unchanged(self, images: Sequence[tuple[str, Digest]]) -> None:
        """Report images of a lock file that are at the destination already, by name; nothing was asked for."""
        self.progress.say(f"{self._place}: {counted(len(images), 'image')} already there, as locked")
        self._unchanged += images
        if not self._is_json:
            self._out.write("".join(f"{_reference_of(*image)}\n" for image in images))
            self._out.flush()

    def end(self) -> None:
        """Write the digests and the JSON object of all images."""
        if self._digests is not None:
            self._digests.writelines(f"{digest}\n".encode() for _, digest in self._unchanged)
            self._digests.writelines(f"{result.digest}\n".encode() for result in self._results)
        thin = [result.thin for result in self._results if result.thin is not None]
        if thin:
            self.progress.say(f"{self._place}: {_what_is_new(thin)}")
            if thin[0].volumes:
                size = format_bytes(sum(volume.size for volume in thin[0].volumes))
                self.progress.say(f"{self._place}: {counted(len(thin[0].volumes), 'volume')} ({size}), and SHA256SUMS")
            from ociexport.cli.output.recipes import tell_recipes  # noqa: PLC0415 - start-up: few pulls are thin

            tell_recipes(thin, self._place, self.progress)
        if self._is_json:
            images = [_result_to_json(result) for result in self._results]
            unchanged = {"unchanged": [_reference_of(*one) for one in self._unchanged]} if self._unchanged else {}
            volumes = _volumes_to_json(thin[0].volumes if thin else ())
            members = {"images": images, **unchanged, "failures": self._failures, **volumes}
            self._out.write(to_json_text(self._command, members))
            self._out.flush()


def _reference_of(name: str, digest: Digest) -> str:
    return f"{name.partition('@')[0]}@{digest}"


def _what_it_is(result: PullResult) -> Iterator[str]:
    """Yield nothing for an image, which it usually is."""
    if not result.manifests or result.digest != result.manifest_digest:
        yield f"an index of {counted(len(result.manifests), 'manifest')}"
    elif not result.is_image:
        yield "an artifact"


def _how_it_came(result: PullResult) -> Iterator[str]:
    if result.companions:
        yield f"with {counted(len(result.companions), 'referring artifact')}"
    yield f"{counted(result.fetched_blobs, 'blob')} ({format_bytes(result.fetched_bytes)}) fetched"
    if result.reused_blobs:
        yield f"{result.reused_blobs} ({format_bytes(result.reused_bytes)}) already there"


def _volumes_to_json(volumes: Sequence[WrittenVolume]) -> dict[str, object]:
    if not volumes:
        return {}
    return {
        "volumes": [
            {
                "path": volume.path,
                "size": volume.size,
                **({"sha256": volume.sha256} if volume.sha256 is not None else {}),
            }
            for volume in volumes
        ]
    }


def _what_is_new(images: Sequence[ThinContent]) -> str:
    """Return what a thin archive or layout contains, and what it expects on the far side."""
    new = {one.digest: one.size for image in images for one in image.new}
    expected = {one.digest: one.size for image in images for one in image.expected if one.digest not in new}
    there = f"{counted(len(new), 'new blob')} ({format_bytes(sum(new.values()))})"
    return (
        f"{there if new else 'nothing new, documents only'}; expects {counted(len(expected), 'blob')} "
        f"({format_bytes(sum(expected.values()))}) on the far side"
    )


def _result_to_json(result: PullResult) -> dict[str, object]:
    return {
        **_selection_to_json(result),
        "name": result.name,
        "reference": result.reference,
        "digest": str(result.digest),
        "manifests": [_manifest_to_json(manifest) for manifest in result.manifests],
        "fetchedBlobs": result.fetched_blobs,
        "fetchedBytes": result.fetched_bytes,
        "reusedBlobs": result.reused_blobs,
        "reusedBytes": result.reused_bytes,
        "companions": [str(digest) for digest in result.companions],
        "deep": result.is_deep,
    }


def _selection_to_json(result: PullResult) -> dict[str, object]:
    if result.thin is None:
        return {}
    from ociexport.cli.output.recipes import recipes_to_json  # noqa: PLC0415 - start-up: few pulls are thin

    return {
        "newBlobs": len(result.thin.new),
        "newBytes": sum(one.size for one in result.thin.new),
        "expectedBlobs": len(result.thin.expected),
        "expectedBytes": sum(one.size for one in result.thin.expected),
        **recipes_to_json(result.thin),
    }


def _manifest_to_json(manifest: PulledManifest) -> dict[str, object]:
    return {
        "digest": str(manifest.digest),
        "configDigest": str(manifest.config_digest),
        "isImage": manifest.is_image,
        "platform": manifest.platform.to_json() if manifest.platform is not None else None,
    }


def tell_plan(plan: PullPlan, options: argparse.Namespace) -> int:
    """Print what a pull would do, and return the exit code that the pull would have, as far as it is known."""
    if options.json:
        print_json(options.command, {"dryRun": True, **_plan_to_json(plan, options.out)})
    else:
        for image in plan.images:
            _print_image(image)
        blobs = [blob for image in plan.images for blob in image.blobs]
        missing = [blob for blob in blobs if not blob.is_there]
        print(
            f"to fetch: {counted(len(missing), 'blob')} ({format_bytes(plan.fetch_bytes)}), "
            f"{len(blobs) - len(missing)} already there"
        )
        if plan.expected is not None:
            size = format_bytes(sum(descriptor.size for descriptor in plan.expected))
            print(f"to leave out: {counted(len(plan.expected), 'blob')} ({size}), expected on the far side")
        for volume in plan.volumes:
            print(f"volume {printable(volume.path)}: {format_bytes(volume.size)}")
        free = f", {format_bytes(plan.free_bytes)} free" if plan.free_bytes is not None else ""
        print(f"to write: {format_bytes(plan.write_bytes)} into {_described(options)}{free}")
    if plan.fits or plan.free_bytes is None:
        return OK
    from ociexport.cli.errors import report_error  # noqa: PLC0415 - start-up: only an error needs it

    report_error(
        OSError(
            f"{options.out}: expected room for {format_bytes(plan.write_bytes)}, "
            f"got {format_bytes(plan.free_bytes)} free"
        )
    )
    return DISK


def _print_image(planned: PlannedImage) -> None:
    image = planned.image
    print(f"image {image.source.display_name}: {planned.converted or image.listed.digest}")
    if planned.served_by is not None:
        identity = f"asked as {planned.credentials}" if planned.credentials else _ANONYMOUS
        print(f"  from {planned.served_by}, {identity}")
    for one in image.manifests:
        what = "a converted manifest" if planned.converted is not None else f"manifest {one.manifest.digest}"
        print(f"  {what}" + (f" for {one.platform}" if one.platform is not None else ""))
    if planned.is_deep:
        print("  each layer is compared with its diff_id while it arrives (--deep)")
    for blob in planned.blobs:
        print(f"  {blob.title}: {format_bytes(blob.descriptor.size)}, {_state_of(blob)}")
    if planned.replaces is not None:
        print(f"  its name moves from {planned.replaces}")


def _state_of(blob: PlannedBlob) -> str:
    if blob.is_there:
        return "already there"
    if blob.there_bytes:
        return f"to resume at {blob.there_bytes} of {counted(blob.descriptor.size, 'byte')}"
    return "to fetch"


def _expected_to_json(plan: PullPlan) -> dict[str, object]:
    if plan.expected is None:
        return {}
    return {"expected": [{"digest": str(one.digest), "size": one.size} for one in plan.expected]}


def _described(options: argparse.Namespace) -> str:
    out = "standard output" if options.out == "-" else options.out
    return out if os.path.lexists(options.out) or options.out == "-" else f"{out} (new)"


def _plan_to_json(plan: PullPlan, out: str) -> dict[str, object]:
    return {
        "images": [
            {
                "name": planned.image.source.display_name,
                "digest": str(planned.converted or planned.image.listed.digest),
                "servedBy": planned.served_by,
                "credentials": planned.credentials,
                "manifests": [
                    {
                        # Those of a converted image are known only after its layers are fetched.
                        "digest": str(one.manifest.digest) if planned.converted is None else None,
                        "configDigest": str(one.manifest.config.digest) if planned.converted is None else None,
                        "isImage": one.config is not None,
                        "platform": one.platform.to_json() if one.platform is not None else None,
                    }
                    for one in planned.image.manifests
                ],
                "blobs": [
                    {
                        "title": blob.title,
                        "digest": str(blob.descriptor.digest),
                        "size": blob.descriptor.size,
                        "thereBytes": blob.there_bytes,
                    }
                    for blob in planned.blobs
                ],
                "replaces": str(planned.replaces) if planned.replaces is not None else None,
                "deep": planned.is_deep,
            }
            for planned in plan.images
        ],
        **_expected_to_json(plan),
        **_volumes_to_json(plan.volumes),
        "out": out,
        "fetchBytes": plan.fetch_bytes,
        "writeBytes": plan.write_bytes,
        "freeBytes": plan.free_bytes,
    }
