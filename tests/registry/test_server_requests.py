"""server: every request gets one answer, and no body or name is interpreted as a header or a request."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ociexport.registry.server import LayoutServer
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import command_environment
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT

IMAGE = build_image([[member("a", b"1" * 5000)]])
PING = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"
LAST = PING + b"Connection: close\r\n\r\n"
SECONDS = 10


def write_names(path: Path, entries: dict[str, bytes], *, media_type: str = mediatypes.OCI_MANIFEST) -> None:
    """Write a layout whose index.json gives manifests any names."""
    write_layout(path, {"1": IMAGE})
    listed = []
    for name, raw in entries.items():
        digest = Digest.of(raw)
        (path / "blobs" / "sha256" / digest.encoded).write_bytes(raw)
        annotations = {"org.opencontainers.image.ref.name": name}
        listed.append({"mediaType": media_type, "digest": str(digest), "size": len(raw), "annotations": annotations})
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))


def manifest_of(name: str) -> bytes:
    """Return a manifest that differs from all others."""
    return json.dumps({**json.loads(IMAGE.raw), "annotations": {"n": name}}).encode()


@contextmanager
def serving(path: Path) -> Iterator[LayoutServer]:
    with LayoutServer(ImageLayout(path), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayoutServer]:
    path = tmp_path_factory.mktemp("served") / "l"
    write_layout(path, {"1": IMAGE})
    with serving(path) as server:
        yield server


def sent(server: LayoutServer, request: bytes) -> bytes:
    """Return all bytes received until the server closes the connection; our side has stopped sending by then."""
    host, port = server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=SECONDS) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def head_of(answer: bytes) -> list[str]:
    return answer.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")


def code_of(answer: bytes) -> str:
    """Return the error code of an answer, which must have the specification's form."""
    (error,) = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert error["message"]
    return str(error["code"])


# Bodies.


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"Content-Length: 38\r\n", b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"Content-Length: 00000000000000000005\r\n", b"GET /", [200]),
        (b"Content-Length: 70000\r\n", b"x" * 70000, [200]),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", b"GET /v2/x HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", [200]),
        (b"Transfer-Encoding: xchunked\r\n", b"GET /v2/x HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello", [200]),
    ],
)
def test_body_is_never_taken_for_a_request(server: LayoutServer, head: bytes, body: bytes, expected: list[int]) -> None:
    """RFC 9112 6.3; the answer is the connection's last, so the end of the body does not matter."""
    assert statuses(sent(server, PING + head + b"\r\n" + body + LAST)) == expected


@pytest.mark.parametrize("size", [5, 200_000])
def test_refusal_arrives_though_the_body_is_not_read(server: LayoutServer, size: int) -> None:
    request = b"PUT /v2/l/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    answer = sent(server, request + b"x" * size)
    assert (statuses(answer), code_of(answer)) == ([405], "UNSUPPORTED")
    assert "Connection: close" in head_of(answer)


# Invalid requests.


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET http://[/v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET //[/v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /v2/ HTTP/1.1\r\n\r\n", 400),
        (PING + b"Host: y\r\n\r\n", 400),
        (PING + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (PING + b"Content-Length: -1\r\n\r\n", 400),
        (PING + b"Content-Length: 1_0\r\n\r\n", 400),
        (PING + b"Content-Length: \xb2\r\n\r\n", 400),
        (PING + b"Content-Length: \r\n\r\n", 400),
        (PING + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (PING + b"Content-Length : 5\r\n\r\nhello", 400),
        (PING + b"X: a\r\n folded\r\n\r\n", 400),
        (PING + b"X: a\rContent-Length: 5\r\n\r\nhello", 400),
        (PING + b"X: a\0b\r\n\r\n", 400),
        (PING + b"no header\r\n\r\n", 400),
        (b"GET /v2/\r\n\r\n", 400),
        (b"GET /v2/ HTTP/x.y\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/ x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"\r\n\r\n", 400),
        (b"GET /v2/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"\r\nGET /v2/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (PING + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (PING + b"X: a\r\n" * 150 + b"\r\n", 431),
        (b"PROPFIND /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"get /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (PING.replace(b"/v2/", b"/v2/l/blobs/sha256:\xff") + b"\r\n", 400),
        (PING.replace(b"/v2/", b"/v2/_catalog?n=%ff") + b"\r\n", 400),
    ],
)
def test_malformed_request_gets_an_answer_in_the_form_of_all_errors(
    server: LayoutServer, request_bytes: bytes, status: int
) -> None:
    """distribution-spec, "Error Codes"."""
    answer = sent(server, request_bytes)
    assert statuses(answer) == [status]
    assert code_of(answer)
    assert "Content-Type: application/json" in head_of(answer)


def test_http2_is_refused_with_an_answer(server: LayoutServer) -> None:
    answer = sent(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (statuses(answer), code_of(answer)) == ([505], "UNSUPPORTED")


def test_request_without_a_version_is_refused_at_once(server: LayoutServer) -> None:
    """HTTP/0.9 has no headers, so there is no end of headers to wait for."""
    host, port = server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=SECONDS) as connection:
        connection.sendall(b"GET /v2/\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_one_empty_line_before_a_request_is_none_of_it(server: LayoutServer) -> None:
    """RFC 9112 2.2."""
    assert statuses(sent(server, b"\r\n" + LAST)) == [200]


SHREDS = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b"%", b"[", b"]", b"?n=", b"/", b"\xff", b"Content-Length: 3\r\n"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.data())
def test_every_request_gets_an_answer(server: LayoutServer, data: st.DataObject) -> None:
    """A request from the client with arbitrary bytes in any part."""
    request = bytearray(data.draw(st.sampled_from([PING, PING.replace(b"/v2/", b"/v2/l/tags/list?n=1")])) + b"\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(request) - 1))
        request[place : place + data.draw(st.integers(0, 3))] = data.draw(SHREDS | st.binary(min_size=1, max_size=3))
    answer = sent(server, bytes(request))
    assert answer.startswith(b"HTTP/1.1 ")
    assert all(status in (200, 400, 404, 405, 505) for status in statuses(answer))


# Values from the layout.


@pytest.mark.parametrize(
    "media_type",
    [
        "a/b\r\nX-Evil: 1",
        "a/b\nX-Evil: 1",
        "a/b\rX-Evil: 1",
        "application/\u00e9",
        "\u4e2d",
        "a/" + "b" * 70_000,
        "\0",
    ],
)
def test_media_type_adds_no_header(tmp_path: Path, media_type: str) -> None:
    document = {**json.loads(IMAGE.raw), "mediaType": media_type}
    write_names(tmp_path / "l", {"1": json.dumps(document).encode()}, media_type=media_type)
    with serving(tmp_path / "l") as server:
        answer = sent(server, LAST.replace(b"/v2/", b"/v2/l/manifests/1"))
    assert not any(line.lower().startswith("x-evil") for line in head_of(answer))
    assert (statuses(answer), b"X-Evil: 1\r\n" in answer) in (([500], False), ([404], False))
    assert code_of(answer)


def test_names_that_no_registry_can_have_are_not_listed(tmp_path: Path) -> None:
    names = ["ok", "x\r\nSet-Cookie: a=b", "with space", "\x1b[31mred", "t" * 129]
    write_names(
        tmp_path / "l",
        {name: manifest_of(name) for name in names},
    )
    with serving(tmp_path / "l") as server:
        answer = sent(server, LAST.replace(b"/v2/", b"/v2/l/tags/list"))
        # By digest every manifest is served.
        digest = Digest.of(manifest_of(names[1]))
        assert statuses(sent(server, LAST.replace(b"/v2/", f"/v2/l/manifests/{digest}".encode()))) == [200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"name": "l", "tags": ["ok"]}


def test_command_prints_no_name_that_a_terminal_obeys(tmp_path: Path) -> None:
    unusable = ["\x1b[31mred\nnext", "with space", "-", ".", "+"]
    write_names(tmp_path / "l", {name: manifest_of(name) for name in (*unusable, "ok")})
    with subprocess.Popen(
        [*OCIEXPORT, "serve", str(tmp_path / "l"), "--addr", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_environment(tmp_path),
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        host = process.stdout.readline().strip()
        told = [process.stderr.readline(), process.stderr.readline()]
        # When the server answers, the command has printed everything.
        with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=SECONDS) as connection:
            connection.sendall(LAST)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        told.append(process.stderr.read())
    assert "".join(told).splitlines() == [
        f"ociexport: serving {tmp_path}/l: tags: 1, such as {host}/l:ok",
        "ociexport: warning: served by digest only, not valid as tags: "
        "'\\x1b[31mred\\nnext'; 'with space'; '-'; and 2 more",
    ]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_blob_that_is_no_file_of_the_layout_is_not_given_out(tmp_path: Path, kind: str) -> None:
    """An untrusted layout must not make the server send the operator's files."""
    write_layout(tmp_path / "l", {"1": IMAGE})
    digest = IMAGE.layers[0].digest
    blob = tmp_path / "l" / "blobs" / "sha256" / digest.encoded
    blob.unlink()
    if kind == "link":
        (tmp_path / "secret").write_bytes(b"TOP SECRET")
        blob.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(blob)
    else:
        blob.mkdir()
    with serving(tmp_path / "l") as server:
        answer = sent(server, LAST.replace(b"/v2/", f"/v2/l/blobs/{digest}".encode()))
    assert (statuses(answer), code_of(answer)) == ([404], "BLOB_UNKNOWN")
