"""Annotations of hauler's lists of images.

Source: issue 18, "A field that is not understood is named, never dropped in silence".
"""

from __future__ import annotations

from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.parse import parse_list


def parsed(text: str) -> ImageList:
    return parse_list(text.encode(), "list", environment={})


def lines(found: ImageList) -> list[str]:
    """Return the sure images as lines of a plain list, and the maybes behind a question mark."""
    return [*map(to_line, found.sure), *(f"? {to_line(entry)}" for entry in found.maybes)]


def test_annotations_of_hauler_are_for_images_that_say_nothing_else() -> None:
    """hauler ``cmd/hauler/cli/store/sync.go``: the image's own platform and registry take precedence."""
    found = parsed(
        """apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata:
  name: some
  annotations:
    hauler.dev/registry: r.example:5000
    hauler.dev/platform: linux/arm64
    hauler.dev/key: cosign.pub
    other.example/note: x
spec: {images: [{name: team/a:1}, {name: b}, {name: "quay.io/c:1", platform: linux/amd64}]}
"""
    )
    assert lines(found) == [
        "r.example:5000/team/a:1 platform=linux/arm64",
        "r.example:5000/b platform=linux/arm64",
        "quay.io/c:1 platform=linux/amd64",
    ]
    assert list(found.warnings) == [
        "list:8: metadata.annotations[hauler.dev/key]: not understood, ignored: hauler's own option of all images"
    ]
