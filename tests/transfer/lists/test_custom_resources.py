"""Custom resources, and what else of Kubernetes reads like an image.

Source: issue 18, "A field that is not understood is named, never dropped in silence".
"""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("image:\n  repository: quay.io/a\n  tag: v1\nreplicas: 1\n", ["quay.io/a:v1"]),
        ("image: {registry: quay.io, repository: b, digest: 'sha256:DIGEST'}\nx: 1\n", [f"quay.io/b@{ZERO}"]),
        ("kind: Pod\nspec: {containers: [{image: 'quay.io/c:1', args: [--image=d:2]}]}\n", ["quay.io/c:1", "d:2"]),
        ('{"image": "quay.io/e:1",\n "names": ["f:1"]}\n', ["quay.io/e:1"]),
        ("data: |\n  image: quay.io/g:1\n  other: {image: 'h:1'}\nx: 1\n", ["quay.io/g:1"]),
        ("image: quay.io/i:1\nnot yaml: [\n", ["quay.io/i:1"]),
        ("a: &a {image: 'j:1'}\nb: *a\n", []),  # an alias could stand for a large document
        ("some words\nof an image\n", []),
    ],
)
def test_a_text_that_is_yaml_is_read_too(text: str, images: list[str]) -> None:
    """The values of k3s's HelmChart, and what ConfigMaps have in any style of YAML."""
    for kind, way in (("helm.cattle.io/v1\nkind: HelmChart", "spec"), ("v1\nkind: ConfigMap", "data")):
        body = "".join(f"    {line}\n" for line in text.replace("DIGEST", "0" * 64).splitlines())
        found = parsed(f"apiVersion: {kind}\nmetadata: {{name: n}}\n{way}:\n  values: |\n{body}")
        assert sorted(lines(found)) == [f"? {image}" for image in sorted(images)]
        assert all(entry.why[0].endswith(f"{way}.values: in a text") for entry in found.entries)


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("{name: 'quay.io/a:1', entrypoint: ['']}", ["quay.io/a:1"]),
        ("{name: 'a/b:1'}", ["a/b:1"]),
        ("{name: quay.io/a, tag: 1}", ["quay.io/a:1"]),
        ("{name: quay.io/a, policy: Always}", ["quay.io/a"]),
        ("{name: pull-secret}", []),
        ("{name: x, version: 1}", []),
    ],
)
def test_a_name_below_an_image(value: str, images: list[str]) -> None:
    """Of a name alone, only one with a registry, a tag or a digest reads like an image; GitLab CI has such."""
    for text in (f"job: {{image: {value}}}\n", f"apiVersion: e.org/v1\nkind: T\nspec: {{image: {value}}}\n"):
        assert lines(parsed(text)) == [f"? {image}" for image in images]


@pytest.mark.timeout(20)
def test_texts_in_texts_end() -> None:
    deep = "".join(f"{' ' * depth}image: |\n" for depth in range(1500)) + " " * 1500 + "x\n"
    assert (
        lines(parsed(f"apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    {deep.replace(chr(10), chr(10) + '    ')}"))
        == []
    )
