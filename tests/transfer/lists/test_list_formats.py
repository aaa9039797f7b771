"""Lists of images: each format is told by its content, and what is not understood is named.

Source: issue 18, "Lists and locks". The documents are written for these tests, after the formats' own documents.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.transfer.lists.entries import ImageList
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.parse import parse_list
from ociexport.transfer.lists.read import read_list

ZERO = "sha256:" + "0" * 64


def parsed(text: str) -> ImageList:
    return parse_list(text.encode(), "list", environment={})


def lines(found: ImageList) -> list[str]:
    """Return the sure images as lines of a plain list, and the maybes behind a question mark."""
    return [*map(to_line, found.sure), *(f"? {to_line(entry)}" for entry in found.maybes)]


FORMATS = {
    "lines": (
        f"""
# a comment
alpine:3.20
  quay.io/team/app:1   platform=linux/amd64,arm64   # why
docker://docker.io/library/busybox
./layout:tag platform=all
debian  tags=re:^1[0-9]$  'tags=!re:a b' semver=">=10 <13" newest=2
redis tags=all
quay.io/x/y@{ZERO}
""",
        [
            "alpine:3.20",
            "quay.io/team/app:1 platform=linux/amd64,linux/arm64",
            "docker://docker.io/library/busybox",
            "./layout:tag platform=all",
            'debian tags=re:^1[0-9]$ tags="!re:a b" semver=">=10 <13" newest=2',
            "redis tags=all",
            f"quay.io/x/y@{ZERO}",
        ],
        [],
    ),
    "list of names": (
        '["alpine:3.20", "quay.io/team/app:1", 7]',
        ["alpine:3.20", "quay.io/team/app:1", "7"],
        [],
    ),
    "hauler": (
        """apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata: {name: some}
spec:
  images:
    - name: rancher/cowsay:1
      platform: linux/arm64
    - name: quay.io/jetstack/cert-manager-cainjector:v1.13.3
      key: cosign.pub
    - nam: x
""",
        ["rancher/cowsay:1 platform=linux/arm64", "quay.io/jetstack/cert-manager-cainjector:v1.13.3"],
        [
            "list:9: spec.images[1].key: not understood, ignored: hauler's own option of one image",
            "list:10: spec.images[2].nam: not understood, ignored: hauler's own option of one image",
            "list:10: spec.images[2]: expected a mapping with the name of an image, left out",
        ],
    ),
    "skopeo sync": (
        f"""registry.example.com:5000:
  tls-verify: false
  images:
    busybox: []
    nothing:
    redis: ["1.0", 2.10, "{ZERO}"]
  images-by-tag-regex:
    nginx: ^1\\.13\\.[12]-alpine-perl$
  images-by-semver:
    alpine: ">= 3.12.0"
quay.io:
  images: {{coreos/etcd: [latest]}}
  color: red
""",
        [
            "registry.example.com:5000/busybox tags=all",
            "registry.example.com:5000/nothing tags=all",
            "registry.example.com:5000/redis:1.0",
            "registry.example.com:5000/redis:2.10",
            f"registry.example.com:5000/redis@{ZERO}",
            "registry.example.com:5000/nginx tags=re:^1\\.13\\.[12]-alpine-perl$",
            'registry.example.com:5000/alpine semver=">= 3.12.0"',
            "quay.io/coreos/etcd:latest",
        ],
        [
            "list:2: [registry.example.com:5000].tls-verify: ignored: how a registry is reached is set by options, see "
            "ociexport help credentials",
            "list:13: [quay.io].color: ignored: how a registry is reached is set by options, see ociexport help "
            "credentials",
        ],
    ),
    "regsync": (
        """version: 1
creds: [{registry: x, user: y}]
sync:
  - source: busybox:latest
    target: registry:5000/busybox
    type: image
    platforms: [linux/amd64, linux/arm64]
  - source: alpine
    target: registry:5000/alpine
    type: repository
    tags: {allow: ["3", "3.\\\\d+"], deny: [3.0], weird: 1}
  - {source: quay.io, target: x, type: registry}
""",
        [
            "busybox:latest platform=linux/amd64,linux/arm64",
            "alpine tags=re:^(?:3)$ tags=re:^(?:3.\\d+)$ tags=!re:^(?:3.0)$",
        ],
        [
            "list:11: sync[1].tags.weird: not understood, ignored",
            "list:12: sync[2].source: left out: only a source of type image or repository is read, this is registry",
        ],
    ),
    "imgpkg lock": (
        f"""apiVersion: imgpkg.carvel.dev/v1alpha1
kind: ImagesLock
images:
- image: index.docker.io/dkalinin/k8s-simple-app@{ZERO}
  annotations: {{kbld.carvel.dev/id: docker.io/dkalinin/k8s-simple-app}}
""",
        [f"index.docker.io/dkalinin/k8s-simple-app@{ZERO}"],
        [],
    ),
    "oc-mirror image set": (
        """kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror:
  platform: {channels: [{name: stable-4.18}]}
  additionalImages:
    - name: registry.redhat.io/ubi9/ubi:latest
    - name: quay.io/bad/one:1
  blockedImages: [{name: quay.io/bad/one:1}]
""",
        ["registry.redhat.io/ubi9/ubi:latest"],
        [
            "list:4: mirror.platform: holds no images that ociexport reads, ignored: only oc-mirror can resolve it",
            "list:7: mirror.additionalImages[1].name: left out: it is in blockedImages",
        ],
    ),
    "zarf package": (
        """kind: ZarfPackageConfig
metadata: {name: podinfo, architecture: arm64}
components:
  - name: podinfo
    required: true
    charts: [{name: podinfo, url: oci://ghcr.io/stefanprodan/charts/podinfo}]
    images:
      - ghcr.io/stefanprodan/podinfo:6.4.0
      - "###ZARF_PKG_TMPL_IMAGE###"
  - {name: other, only: {cluster: {architecture: amd64}}, images: [busybox]}
""",
        ["ghcr.io/stefanprodan/podinfo:6.4.0 platform=linux/arm64", "busybox platform=linux/amd64"],
        [
            "list:9: components[0].images[1]: left out: zarf replaces a variable in it",
            "list:6: components[0].charts: ignored: what it leads to may name more images",
        ],
    ),
    "CycloneDX": (
        f"""{{"bomFormat": "CycloneDX", "specVersion": "1.6",
 "metadata": {{"component": {{"type": "container", "name": "ghcr.io/team/app", "version": "{ZERO}"}}}},
 "components": [
  {{"type": "library", "name": "x", "purl": "pkg:pypi/x@1"}},
  {{"type": "container", "name": "nginx", "purl":
    "pkg:oci/nginx@sha256%3A{"0" * 64}?repository_url=index.docker.io/library/nginx&arch=amd64&tag=1.27"}},
  {{"name": "a", "components": [
    {{"name": "b", "purl": "pkg:docker/team/db@1.2?repository_url=registry.example&x=1"}}]}},
  {{"name": "c", "purl": "pkg:oci/lost@sha256:zz?repository_url=r.example/lost"}},
  {{"name": "d", "purl": "pkg:oci/nowhere@{ZERO}"}}
 ]}}""",
        [
            f"index.docker.io/library/nginx:1.27@{ZERO} platform=linux/amd64",
            "registry.example/team/db:1.2",
            f"? ghcr.io/team/app@{ZERO}",
        ],
        [
            "list: components[2].components[0].purl: qualifier 'x' is not understood, ignored",
            "list: components[3].purl: left out: package URL 'pkg:oci/lost@sha256:zz?repository_url=r.example/lost': "
            "digest: expected 64 lower-case hexadecimal digits after 'sha256:', got 'zz'",
            f"list: components[4].purl: left out: package URL 'pkg:oci/nowhere@{ZERO}': expected a repository_url, "
            "there is none",
        ],
    ),
    "SPDX": (
        f"""{{"spdxVersion": "SPDX-2.3", "packages": [
  {{"name": "app", "externalRefs": [{{"referenceType": "purl", "referenceLocator": "pkg:docker/team/app@{ZERO}"}}]}},
  {{"name": "quay.io/team/base", "versionInfo": "1", "primaryPackagePurpose": "CONTAINER"}}]}}""",
        [f"team/app@{ZERO}", "? quay.io/team/base:1"],
        [],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_content_tells_the_format(name: str) -> None:
    text, images, warnings = FORMATS[name]
    found = parsed(text)
    assert found.formats == (name,)
    assert lines(found) == images
    assert list(found.warnings) == warnings


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_printed_is_a_list_with_the_same_images(name: str) -> None:
    found = parsed(FORMATS[name][0])
    again = parsed("\n".join(map(to_line, found.sure)))
    assert [(one.image, one.platforms, one.selection) for one in again.entries] == [
        (one.image, one.platforms, one.selection) for one in found.sure
    ]


KUBERNETES = """
apiVersion: v1
kind: {kind}
metadata: {{name: it}}
{spec}
"""
POD = "containers: [{name: a, image: 'quay.io/a:1'}]"


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        ("v1", "Pod", f"spec: {{{POD}}}"),
        ("v1", "PodTemplate", f"template: {{spec: {{{POD}}}}}"),
        ("v1", "ReplicationController", f"spec: {{template: {{spec: {{{POD}}}}}}}"),
        *(("apps/v1", kind, f"spec: {{template: {{spec: {{{POD}}}}}}}") for kind in
          ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")),
        ("batch/v1", "Job", f"spec: {{template: {{spec: {{{POD}}}}}}}"),
        ("batch/v1", "CronJob", f"spec: {{jobTemplate: {{spec: {{template: {{spec: {{{POD}}}}}}}}}}}"),
        ("apps.openshift.io/v1", "DeploymentConfig", f"spec: {{template: {{spec: {{{POD}}}}}}}"),
        ("v1", "List", f"items: [{{apiVersion: v1, kind: Pod, spec: {{{POD}}}}}]"),
        ("v1", "PodList", f"items: [{{spec: {{{POD}}}}}]"),
        ("apps/v1", "DeploymentList", f"items: [{{spec: {{template: {{spec: {{{POD}}}}}}}}}]"),
    ],
)  # fmt: skip
def test_every_kind_with_a_pod_has_sure_images(version: str, kind: str, spec: str) -> None:
    found = parsed(f"apiVersion: {version}\nkind: {kind}\n{spec}\n")
    assert lines(found) == ["quay.io/a:1"]
    assert found.warnings == ()


def test_all_images_of_a_pod_are_sure_and_the_rest_are_maybes() -> None:
    found = parsed(
        """apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  initContainers: [{name: i, image: "i:1"}]
  containers:
    - {name: c, image: "c:1", imagePullPolicy: Always,
       env: [{name: RELATED_IMAGE_A, value: "quay.io/r:1"}, {name: OTHER, value: "quay.io/no:1"}],
       args: ["--proxy-image=quay.io/p:1"]}
    - {name: none}
    - {name: t, image: "{{ .Values.image }}"}
  ephemeralContainers: [{name: e, image: "e:1"}]
  volumes: [{name: v, image: {reference: "v:1"}}, {name: w, emptyDir: {}}]
---
apiVersion: example.com/v1
kind: Thing
spec:
  image: quay.io/thing:1
  parts: {sidecar: {image: {registry: quay.io, repository: side/car, tag: 1.10}}}
  images: [quay.io/one:1, quay.io/two:2]
  baseImage: "Not an image"
"""
    )
    assert lines(found) == [
        "i:1", "c:1", "e:1", "v:1",
        "? quay.io/r:1", "? quay.io/p:1", "? quay.io/thing:1", "? quay.io/side/car:1.10", "? quay.io/one:1",
        "? quay.io/two:2",
    ]  # fmt: skip
    assert list(found.warnings) == [
        "list:10: document 1: Pod p: spec.containers[1]: expected an image, there is none",
        "list:11: document 1: Pod p: spec.containers[2].image: left out: it is a template, expected what it makes: "
        "{{ .Values.image }}",
        "list:21: document 2: Thing: spec.baseImage: left out: its key says image, its value is no reference",
    ]
    assert found.entries[0].why == ("list:5: document 1: Pod p: spec.initContainers[0].image",)


def test_documents_of_several_kinds_in_one_file() -> None:
    found = parsed(
        "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec: {images: [{name: a}]}\n---\n"
        "apiVersion: content.hauler.cattle.io/v1\nkind: Charts\nspec: {charts: [{name: b}]}\n---\n"
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: c}]}\n---\n"
        "color: red\nimage: {repository: d, tag: 1}\n"
    )
    assert found.formats == ("hauler", "Kubernetes", "YAML of an unknown kind")
    assert lines(found) == ["a", "c", "? d:1"]
    assert list(found.warnings) == [
        "list:5: document 2: kind Charts holds no images that ociexport reads, ignored",
        "list:13: document 4: the kind of this document is not known (2 members: color, image), so what reads like an "
        "image in it is a maybe",
    ]


def test_an_image_that_is_named_twice_is_listed_once_with_both_reasons() -> None:
    found = parsed(
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx},\n {image: 'docker.io/nginx:latest'}]}\n"
    )
    (entry,) = found.entries
    assert entry.image == "nginx"
    assert entry.why == ("list:3: Pod: spec.containers[0].image", "list:4: Pod: spec.containers[1].image")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpine\nFoo/BAR:1\n", "list:2: image reference 'Foo/BAR:1': repository: must be lower case, got 'BAR'"),
        ("alpine colour=red", "list:1: expected platform=, tags=re:…, tags=!re:…, tags=all, semver= or newest= after the image, got 'colour=red'"),  # noqa: E501
        ("alpine tags=re:(", "list:1: tags: expected a regular expression, got '(': missing ), unterminated subpattern at position 0"),  # noqa: E501
        ("alpine semver=abc", "list:1: semver: expected a range such as '>=1.2 <2', got 'abc'"),
        ("alpine newest=0", "list:1: newest: expected a number above 0, got '0'"),
        ("alpine:3 newest=1", "list:1: expected a repository without a tag before tags=, semver= and newest=, got 'alpine:3'"),  # noqa: E501
        ('alpine semver="1', "list:1: expected a closing quote, got '\"1'"),
        ("alpine platform=a/b/c/d", "list:1: platform 'a/b/c/d': expected os/arch[/variant]"),
        ("services:\n  a: [\n", "list:3: expected YAML, got a syntax error: did not find expected node content"),
        ('{"a": \n1,}', "list:2: expected JSON, got a syntax error: Expecting property name enclosed in double quotes"),
        ("{{- if x }}\na: b\n", "list: expected a list of images, got a template"),
        ("- a\n- *nothing\n", "list:2: expected an anchor before its alias, there is no &nothing"),
        ("[1, 2", "list:1: expected JSON, got a syntax error: Expecting ',' delimiter"),
    ],
)  # fmt: skip
def test_what_does_not_parse_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(text)
    assert str(caught.value) == message


def bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(rows) + "\n"


MERGES = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}\nb:\n" + "- {<<: *a}\n" * 2000


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        bomb(9), MERGES, "- " + "[" * 5000 + "]" * 5000, "[" * 100_000, '{"a":' * 200_000, "a: &a [*a]", "? {a: b}\n: c",  # noqa: E501
        "a: !!python/object/apply:os.system ['false']\n<<: 7", "\0", "\x80", "a: \x01", "- " * 5000 + "x",
    ],
    ids=range(12),
)  # fmt: skip
def test_hostile_documents_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_list(text.encode("latin-1"), "list")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("list")


def test_tags_of_yaml_make_no_objects(tmp_path: Path) -> None:
    found = parsed(
        f"services:\n  a: {{image: !!python/object/apply:os.system ['touch {tmp_path}/x']}}\n  b: {{image: c}}\n"
    )
    assert lines(found) == ["c"]
    assert any(
        "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not understood" in one for one in found.warnings
    )
    assert list(tmp_path.iterdir()) == []


def test_a_list_at_a_url_names_only_images_in_registries(list_server: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_list(f"{list_server}/bad.txt")
    assert str(caught.value) == f"{list_server}/bad.txt:2: expected images in registries, got './etc'"
    assert lines(read_list(f"{list_server}/good.txt")) == ["alpine:3"]
