"""Custom resources, and what else of Kubernetes reads like an image.

Source: issue 18, "A field that is not understood is named, never dropped in silence".
"""

from __future__ import annotations

from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.parse import parse_list

ZERO = "sha256:" + "0" * 64


def parsed(text: str) -> ImageList:
    return parse_list(text.encode(), "list", environment={})


def lines(found: ImageList) -> list[str]:
    """Return the sure images as lines of a plain list, and the maybes behind a question mark."""
    return [*map(to_line, found.sure), *(f"? {to_line(entry)}" for entry in found.maybes)]


def test_no_image_of_a_custom_resource_is_dropped_in_silence() -> None:
    """Images in parts, below a key that says images, in arguments and in texts are maybes; parts alone are named."""
    found = parsed(
        """apiVersion: example.com/v1
kind: Thing
spec:
  images: {proxy: "quay.io/proxy:1", pull: {policy: Always}, db: {name: quay.io/db, tag: 2}, more: [quay.io/l:1]}
  image: {name: quay.io/named, digest: "sha256:DIGEST"}
  imageRepository: quay.io/repo
  imageTag: "3"
  webImage: quay.io/web:1
  webImageTag: "4"
  sidecarImageTag: "5"
---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
images:
- {name: app, newName: quay.io/new/app, newTag: "6"}
- {name: redis, newTag: "7"}
- {name: db, digest: "sha256:DIGEST"}
---
apiVersion: v1
kind: Pod
spec: {containers: [{image: a, args: ["--reloader=quay.io/reloader:v1", "--listen=localhost:8080", "--to=x/y:1"]}]}
---
apiVersion: v1
kind: ConfigMap
data:
  pod.yaml: |
    containers:
    - image: "quay.io/in/text:1"
    - image: {{ .Values.image }}
""".replace("DIGEST", "0" * 64)
    )
    assert lines(found) == [
        "a",
        "? quay.io/repo:3", "? quay.io/web:1", "? quay.io/proxy:1", "? quay.io/db:2", "? quay.io/l:1",
        f"? quay.io/named@{ZERO}", "? quay.io/new/app:6", "? redis:7", f"? db@{ZERO}", "? quay.io/reloader:v1",
        "? quay.io/in/text:1",
    ]  # fmt: skip
    assert list(found.warnings) == [
        "list:10: document 1: Thing: spec.sidecarImageTag: left out: it is a part of an image, the image is not "
        "beside it"
    ]
