"""server: the read-only half of the distribution-spec over a layout; skopeo and our own client pull from it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.registry.conditions import parse_range
from ociexport.registry.server import LayoutServer
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import MemorySource, member, tar_of
from tests.support.system_parts import OCIEXPORT, require, run

LAYER = os.urandom(300_000)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource([tar_of([member("a", LAYER)])])


@pytest.fixture
def layout(tmp_path: Path, source: MemorySource) -> ImageLayout:
    """Two repositories by full name, one image by tag only, and an unnamed artifact that refers to the first."""
    layout = ImageLayout(tmp_path / "My Layout")
    for name in (
        ImageName("1.0", "docker.io/library/app:1.0"),
        ImageName("1.1", "docker.io/library/app:1.1"),
        ImageName("2", "registry.test:5000/team/other:2"),
        ImageName("bare", None),
    ):
        source.image_name = name
        pull(source, layout)
    artifact = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "artifactType": "application/x.sbom",
        "annotations": {"note": "about it"},
        "config": {"mediaType": mediatypes.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [],
        "subject": source.manifest.to_json(),
    }
    raw = json.dumps(artifact).encode()
    layout.write_manifest(ReceivedManifest(raw, mediatypes.OCI_MANIFEST, Digest.of(raw)))
    layout.write_name(Descriptor(mediatypes.OCI_MANIFEST, Digest.of(raw), len(raw)), ImageName(None, None))
    return layout


@pytest.fixture
def server(layout: ImageLayout) -> Iterator[LayoutServer]:
    with LayoutServer(layout, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])


def ask(server: LayoutServer, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def test_ping_says_the_version(server: LayoutServer) -> None:
    """distribution-spec, "Determining Support"."""
    answer = ask(server, "/v2/")
    assert (answer.status, answer.headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")


def test_manifest_is_had_by_tag_and_by_digest(server: LayoutServer, source: MemorySource) -> None:
    digest = source.manifest.digest
    for selector in ("1.0", str(digest)):
        answer = ask(server, f"/v2/library/app/manifests/{selector}")
        assert answer.status == 200
        assert answer.body == source.blobs[digest]
        assert answer.headers["Content-Type"] == mediatypes.OCI_MANIFEST
        assert answer.headers["Docker-Content-Digest"] == str(digest)
        head = ask(server, f"/v2/library/app/manifests/{selector}", "HEAD")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(answer.body)))


def test_image_with_a_tag_only_is_in_the_directorys_repository(server: LayoutServer) -> None:
    assert ask(server, "/v2/my-layout/manifests/bare").status == 200


def test_blob_is_sent_whole_and_in_ranges(server: LayoutServer, source: MemorySource) -> None:
    """RFC 9110 14.2."""
    layer = source.layers[0]
    raw = source.blobs[layer.digest]
    path = f"/v2/library/app/blobs/{layer.digest}"
    assert ask(server, path).body == raw
    head = ask(server, path, "HEAD")
    assert (head.body, head.headers["Content-Length"], head.headers["Accept-Ranges"]) == (b"", str(len(raw)), "bytes")
    for header, start, end in (
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, len(raw)),
        ("bytes=-7", len(raw) - 7, len(raw)),
        ("bytes=0-99999999", 0, len(raw)),
    ):
        answer = ask(server, path, Range=header)
        assert (answer.status, answer.body) == (206, raw[start:end])
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(raw)}"
    for header in ("bytes=1-2,5-6", "lines=1-2", "bytes=-", "bytes=\xb3-"):
        assert (ask(server, path, Range=header).status, len(ask(server, path, Range=header).body)) == (200, len(raw))


@pytest.mark.parametrize("numbers", ["500-0", "5-1", "-0", "{size}-", "{size}-{size}", "9" * 30 + "-", "9" * 30 + "-0"])
def test_range_without_bytes_of_the_blob_is_refused_with_its_size(
    server: LayoutServer, source: MemorySource, numbers: str
) -> None:
    """RFC 9110 15.5.17; the conformance suite asks for ``500-0``."""
    layer = source.layers[0]
    size = len(source.blobs[layer.digest])
    answer = ask(server, f"/v2/library/app/blobs/{layer.digest}", Range="bytes=" + numbers.format(size=size))
    assert (answer.status, answer.code, answer.headers["Content-Range"]) == (416, "SIZE_INVALID", f"bytes */{size}")


@pytest.mark.parametrize("requested", ["bytes=10-19", "bytes=500-0", "bytes=999999999-"])
def test_head_describes_the_whole_blob_whatever_range_it_names(
    server: LayoutServer, source: MemorySource, requested: str
) -> None:
    """RFC 9110 14.2: ranges are defined for GET only."""
    layer = source.layers[0]
    answer = ask(server, f"/v2/library/app/blobs/{layer.digest}", "HEAD", Range=requested)
    assert (answer.status, answer.headers["Content-Range"]) == (200, None)
    assert answer.headers["Content-Length"] == str(len(source.blobs[layer.digest]))


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"{digest}"', 206),
        ('W/"{digest}"', 200),
        ('"other"', 200),
        ("{digest}", 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
def test_range_is_sent_only_of_the_content_that_if_range_names(
    server: LayoutServer, source: MemorySource, condition: str, status: int
) -> None:
    """RFC 9110 13.1.5."""
    digest = source.layers[0].digest
    headers = {"Range": "bytes=10-19", "If-Range": condition.format(digest=digest)}
    answer = ask(server, f"/v2/library/app/blobs/{digest}", **headers)
    raw = source.blobs[digest]
    assert (answer.status, answer.body) == (status, raw[10:20] if status == 206 else raw)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("If-None-Match", '"{digest}"', 304),
        ("If-None-Match", '"other", W/"{digest}"', 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"other"', 200),
        ("If-Match", '"{digest}"', 200),
        ("If-Match", "*", 200),
        ("If-Match", 'W/"{digest}"', 412),
        ("If-Match", '"other"', 412),
    ],
)
def test_entity_tag_is_the_digest(
    server: LayoutServer, source: MemorySource, method: str, header: str, value: str, status: int
) -> None:
    """RFC 9110 8.8.3, 13.1."""
    blob, manifest = source.layers[0].digest, source.manifest.digest
    for path, digest in ((f"blobs/{blob}", blob), ("manifests/1.0", manifest), (f"manifests/{manifest}", manifest)):
        answer = ask(server, f"/v2/library/app/{path}", method, **{header: value.format(digest=digest)})
        assert answer.status == status
        if status != 412:
            assert answer.headers["ETag"] == f'"{digest}"'
        if status == 304:
            assert (answer.body, answer.headers["Content-Length"]) == (b"", None)


def _percent_encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def test_percent_encoded_path_is_the_same_path(server: LayoutServer, source: MemorySource) -> None:
    """RFC 3986 2.3; clients encode the colon of a digest, and some the slash of a name."""
    layer, manifest = source.layers[0].digest, source.manifest.digest
    for path, encoded in (
        (f"library/app/blobs/{layer}", f"library/app/blobs/{str(layer).replace(':', '%3A')}"),
        (f"library/app/manifests/{manifest}", f"library/app/manifests/{_percent_encoded(str(manifest))}"),
        ("library/app/manifests/1.0", "library%2Fapp/manifests/%31.0"),
        ("library/app/tags/list", f"{_percent_encoded('library/app')}/tags/l%69st"),
        (f"library/app/referrers/{manifest}", f"library/app/re%66errers/{str(manifest).replace(':', '%3a')}"),
    ):
        plain, answer = ask(server, f"/v2/{path}"), ask(server, f"/v2/{encoded}")
        assert (answer.status, answer.body) == (200, plain.body)


def test_server_header_names_no_version(server: LayoutServer) -> None:
    assert ask(server, "/v2/").headers["Server"] == "ociexport"


def test_connection_is_kept(server: LayoutServer, source: MemorySource) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    for path in ("/v2/", f"/v2/library/app/blobs/{source.layers[0].digest}", "/v2/library/app/manifests/none", "/v2/"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.headers["Connection"] is None
    connection.close()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/library/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/none/manifests/1.0", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/library/app/manifests/sha256:{'0' * 64}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/library/app/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        ("/v2/library/app/blobs/sha256:..%2f..%2fx", 400, "DIGEST_INVALID"),
        ("/v2/library/app/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/library/none/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/library/app/tags/other", 404, "UNSUPPORTED"),
        ("/", 404, "UNSUPPORTED"),
        ("/v2/library/app%2Fmanifests%2F1.0", 404, "UNSUPPORTED"),
        ("/v2/library/app/manifests/%2e%2e", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/app/manifests/%ff", 400, "UNSUPPORTED"),
        ("/v2//manifests/1.0", 404, "UNSUPPORTED"),
        ("/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
    ],
)
def test_errors_have_the_specifications_codes(server: LayoutServer, path: str, status: int, code: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_can_be_changed(server: LayoutServer, method: str) -> None:
    answer = ask(server, "/v2/library/app/manifests/1.0", method)
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_blob_that_no_manifest_names_is_not_served(server: LayoutServer, layout: ImageLayout) -> None:
    """Only blobs reachable from index.json are public; a stray file in blobs/ is not."""
    secret = Descriptor("x", Digest.of(b"secret"), 6)
    with layout.new_blob(secret) as blob:
        blob.write(b"secret")
    assert ask(server, f"/v2/library/app/blobs/{secret.digest}").status == 404


def test_lists_are_paged(server: LayoutServer) -> None:
    """distribution-spec, "Listing Tags"."""
    first = ask(server, "/v2/library/app/tags/list?n=1")
    assert json.loads(first.body) == {"name": "library/app", "tags": ["1.0"]}
    assert first.headers["Link"] == '</v2/library/app/tags/list?n=1&last=1.0>; rel="next"'
    second = ask(server, "/v2/library/app/tags/list?n=1&last=1.0")
    assert (json.loads(second.body)["tags"], second.headers["Link"]) == (["1.1"], None)
    catalog = ask(server, "/v2/_catalog?n=2")
    assert json.loads(catalog.body) == {"repositories": ["library/app", "my-layout"]}
    rest = ask(server, catalog.headers["Link"].split(">")[0][1:])
    assert json.loads(rest.body) == {"repositories": ["team/other"]}
    assert json.loads(ask(server, "/v2/_catalog?n=0").body) == {"repositories": []}


def test_referrers_are_found_by_subject(server: LayoutServer, source: MemorySource) -> None:
    """distribution-spec, "Listing Referrers"."""
    path = f"/v2/library/app/referrers/{source.manifest.digest}"
    answer = ask(server, path)
    index = json.loads(answer.body)
    assert answer.headers["Content-Type"] == index["mediaType"] == mediatypes.OCI_INDEX
    (found,) = index["manifests"]
    assert (found["artifactType"], found["annotations"]) == ("application/x.sbom", {"note": "about it"})
    assert ask(server, f"/v2/library/app/manifests/{found['digest']}").status == 200
    filtered = ask(server, f"{path}?artifactType=application/other")
    assert (json.loads(filtered.body)["manifests"], filtered.headers["OCI-Filters-Applied"]) == ([], "artifactType")
    assert json.loads(ask(server, f"/v2/library/app/referrers/sha256:{'0' * 64}").body)["manifests"] == []


def test_what_is_added_while_serving_is_served(server: LayoutServer, layout: ImageLayout, source: MemorySource) -> None:
    source.image_name = ImageName("new", "docker.io/library/app:new")
    pull(source, layout)
    assert ask(server, "/v2/library/app/manifests/new").status == 200


def test_own_client_pulls_what_is_served(server: LayoutServer, source: MemorySource, tmp_path: Path) -> None:
    result = pull(f"{server.address}/library/app:1.0", tmp_path / "copy")
    assert result.manifest_digest == source.manifest.digest


def test_ipv6_address_is_served(layout: ImageLayout, source: MemorySource, tmp_path: Path) -> None:
    with LayoutServer(layout, "::1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            assert server.address.startswith("[::1]:")
            assert pull(f"{server.address}/library/app:1.0", tmp_path / "copy").fetched_blobs == 2
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.system
def test_skopeo_pulls_from_the_command(layout: ImageLayout, source: MemorySource, tmp_path: Path) -> None:
    require("skopeo")
    with subprocess.Popen(
        [*OCIEXPORT, "serve", layout.path, "--addr", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        host = process.stdout.readline().strip()
        try:
            run("skopeo", "copy", "--src-tls-verify=false", f"docker://{host}/team/other:2", f"oci:{tmp_path}/copy:2")
            tags = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/library/app"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == (f"ociexport: serving {layout.path}: tags: 4, such as {host}/library/app:1.0\n")
    assert tags["Tags"] == ["1.0", "1.1"]
    assert ImageLayout(tmp_path / "copy").open_image("2").fetch_manifest().digest == source.manifest.digest


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("none",), 3, "none: expected an OCI layout, got no oci-layout file in it"),
        ((".",), 3, ".: expected an OCI layout, got no oci-layout file in it"),
        (("layout", "--addr", "192.0.2.1:80"), 9, "192.0.2.1:80: Cannot assign requested address"),
    ],
)
def test_what_can_not_be_served_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, error: str
) -> None:
    write_layout(tmp_path / "layout", {"1": build_image([[]])})
    monkeypatch.chdir(tmp_path)
    ended = run_command("serve", *words, home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", f"ociexport: error: {error}\n")


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d{0,30}-\d{0,30}", fullmatch=True), st.integers(0, 10**9))
def test_any_range_is_within_the_blob(header: str, size: int) -> None:
    wanted = parse_range(header, size)
    if wanted is not None and wanted[0] < wanted[1]:
        assert 0 <= wanted[0] < wanted[1] <= size
