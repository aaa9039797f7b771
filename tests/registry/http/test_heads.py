"""The head of an answer is read whole, or the answer is refused: no header is lost, and nothing waits for minutes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ociexport.errors import RegistryError, TransferError
from ociexport.registry.http.failures import MalformedAnswerError
from ociexport.registry.http.heads import MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS, Head, read_head
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from ociexport.spec.digest import Digest
from ociexport.system.progress.display import PlainProgress
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.raw_server import Answering, RawImage, RawRequest, RawServer, answer
from tests.support.tls import Authority

NO_RETRIES = RegistryOptions(retry_times=0, read_timeout_seconds=10)
IMAGE = RawImage.of(bytes(10240))
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"

# Header lines that Go reads too, and the headers that they are.
READ = {
    "blank before the colon": (b"X-Odd : v", [("X-Odd", "v")]),
    "no blank after it": (b"X-Odd:v", [("X-Odd", "v")]),
    "tabs": (b"X-Odd:\t v \t", [("X-Odd", "v")]),
    "no value": (b"X-Odd:", [("X-Odd", "")]),
    "no name": (b": v", []),
    "blank in the name": (b"X Odd: v", [("X Odd", "v")]),
    "name in UTF-8": ("X-Ödd: v".encode(), [("X-\xc3\x96dd", "v")]),
    "name in latin-1": (b"X-\xd6dd: v", [("X-\xd6dd", "v")]),
    "value in UTF-8": ("X-Odd: é中".encode(), [("X-Odd", "\xc3\xa9\xe4\xb8\xad")]),
    "value with bytes of latin-1": (b"X-Odd: a\x85\xa0\xffb", [("X-Odd", "a\x85\xa0\xffb")]),
    "value with a control character": (b"X-Odd: a\x0c\x1cb", [("X-Odd", "a\x0c\x1cb")]),
    "value on two lines": (b"X-Odd: a\r\n  b", [("X-Odd", "a b")]),
    "value on more lines": (b"X-Odd:\r\n\ta\r\n \r\n b", [("X-Odd", "a b")]),
    "CR at the end": (b"X-Odd: v\r", [("X-Odd", "v")]),
    "CR in the value": (b"X-Odd: a\rb: c", [("X-Odd", "a\rb: c")]),
    "LF alone": (b"X-Odd: v\nX-Even: w", [("X-Odd", "v"), ("X-Even", "w")]),
    "envelope of a mailbox": (b"From me: v", [("From me", "v")]),
    "long line": (b"X-Odd: " + b"v" * 300_000, [("X-Odd", "v" * 300_000)]),
    "many": (b"\r\n".join(b"X-%d: v" % i for i in range(5000)), [(f"X-{i}", "v") for i in range(5000)]),
}
# Lines and blocks that Go refuses too, and what is said of them.
REFUSED = {
    "no colon": (b"this is no header", "expected a header 'Name: value', got 'this is no header'"),
    "no colon, with an escape": (b"\x1b[31mred", r"expected a header 'Name: value', got '\x1b[31mred'"),
    "CR alone on a line": (b"\r", "expected a header 'Name: value', got ''"),
    "control character in the name": (b"X\rY: v", r"expected a header 'Name: value', got 'X\rY: v'"),
    "two lengths": (b"Content-Length: 3", "expected one number in Content-Length, got '3, "),
    "length with a sign": (b"Content-Length: +3", "expected one number in Content-Length, got '+3, "),
    "length of words": (b"Content-Length: all", "expected one number in Content-Length, got 'all, "),
    "too much": (b"X: " + b"v" * MAX_HEAD_BYTES, "expected at most 1048576 bytes of headers, got more"),
    "too many": (b"X: v\r\n" * (MAX_HEAD_BYTES // 6) + b"X: v", "expected at most 1048576 bytes of headers, got more"),
}


def _head_of(raw: bytes) -> Head:
    return read_head(io.BufferedReader(io.BytesIO(raw)))


def _cases(table: Mapping[str, tuple[bytes, object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("line", [line for line, _ in table.values()], ids=list(table))


@pytest.mark.parametrize(("line", "fields"), READ.values(), ids=list(READ))
def test_odd_lines_are_read_and_hide_no_other_line(line: bytes, fields: list[tuple[str, str]]) -> None:
    head = _head_of(b"HTTP/1.1 200 OK\r\nA: 1\r\n" + line + b"\r\nContent-Length: 5\r\n\r\n")
    assert head == Head("HTTP/1.1", 200, "OK", [("A", "1"), *fields, ("Content-Length", "5")])


@pytest.mark.parametrize(("line", "told"), REFUSED.values(), ids=list(REFUSED))
def test_other_lines_are_refused(line: bytes, told: str) -> None:
    with pytest.raises(MalformedAnswerError) as caught:
        _head_of(b"HTTP/1.1 200 OK\r\nA: 1\r\n" + line + b"\r\nContent-Length: 5\r\n\r\n")
    assert str(caught.value).startswith(told)


def test_first_line_that_goes_on_is_refused() -> None:
    """RFC 9112 2.2: it may hide a header from one reader and show it to another."""
    with pytest.raises(MalformedAnswerError, match="got 'Content-Length: 5'"):
        _head_of(b"HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\n")


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (b"Content-Length: 5\r\nContent-Length: 5", "5"),
        (b"Content-Length: 5, 5", "5"),
        (b"Content-length : 5", "5"),
        (b"Content-Length:\r\n 5", "5"),
        (b"Content-Length: 007", "007"),
    ],
)
def test_repeated_length_is_that_length(lines: bytes, length: str) -> None:
    """RFC 9112 6.3, rule 5."""
    assert _head_of(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n").fields == [("Content-Length", length)]


def test_length_of_a_chunked_body_is_not_looked_at() -> None:
    fields = [("Content-Length", "x"), ("Transfer-Encoding", "chunked")]
    head = _head_of(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.fields == fields


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"HTTP/1.1 200 OK", ("HTTP/1.1", 200, "OK")),
        (b"HTTP/1.0 404 Not  Found ", ("HTTP/1.0", 404, "Not  Found")),
        (b"HTTP/1.1 200", ("HTTP/1.1", 200, "")),
        (b"HTTP/1.1 200 ", ("HTTP/1.1", 200, "")),
        (b"HTTP/1.1  200\t\xff", ("HTTP/1.1", 200, "\xff")),
    ],
)
def test_status_lines(line: bytes, read: tuple[str, int, str]) -> None:
    head = _head_of(line + b"\r\n\r\n")
    assert (head.version, head.status, head.reason) == read


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 20",
        b"HTTP/1.1 +20 OK",
        b"SSH-2.0-x",
        b"",
        b"A: b",
        b"x" * 10**6,
    ],
)
def test_other_protocols_are_refused(line: bytes) -> None:
    with pytest.raises(BadStatusLine):
        _head_of(line + b"\r\n\r\n")


@given(st.lists(st.sampled_from([100, 102, 103, 199]), max_size=5), st.data())
def test_head_that_is_cut_is_never_taken_for_whole(interim: list[int], data: st.DataObject) -> None:
    """Without its last lines, an answer would seem to have another body."""
    raw = b"".join(b"HTTP/1.1 %d X\r\nLink: <a>\r\n\r\n" % status for status in interim)
    raw += b"HTTP/1.1 200 OK\r\nX-Odd: a\r\n b\r\nContent-Length: 5\r\n\r\n"
    assert _head_of(raw + b"body").fields[-1] == ("Content-Length", "5")
    with pytest.raises((IncompleteRead, RemoteDisconnected)):
        _head_of(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.lists(st.sampled_from([b"HTTP/1.1 ", b"200", b" ", b"\r\n", b"\n", b":", b"a", b"\0", b"\t", b"\xff"])))
@example([b"HTTP/1.1 ", b"200", b"\n", b"\n"])
def test_any_bytes_are_a_head_or_one_of_four_errors(parts: list[bytes]) -> None:
    try:
        head = _head_of(b"".join(parts))
    except (MalformedAnswerError, BadStatusLine, IncompleteRead, RemoteDisconnected):
        return
    head.message()
    assert head.framing().endswith(b"\r\n")


# On the wire


def _get(url: str, **fields: object) -> WireRequest:
    return WireRequest("GET", WebUrl.parse(url), "it", document_bytes=100, **fields)  # type: ignore[arg-type]


def _ask(answering: Answering, options: RegistryOptions = NO_RETRIES) -> tuple[bytes, RawServer]:
    with RawServer(answering) as server, closing(Transport(options)) as transport:
        return transport.send(_get(server.url)).read_up_to(100), server


@_cases(READ)
def test_body_ends_where_it_should_after_odd_lines(line: bytes) -> None:
    """The server keeps the connection: a client that lost Content-Length would wait."""
    with RawServer(lambda request: answer(b"body", line)) as server, closing(Transport(NO_RETRIES)) as transport:
        for _ in range(3):
            assert transport.send(_get(server.url)).read_up_to(100) == b"body"


@_cases(REFUSED)
def test_refusal_is_one_line_at_once_and_not_retried(line: bytes) -> None:
    started = time.monotonic()
    with RawServer(lambda request: answer(b"body", line)) as server, closing(Transport()) as transport:
        with pytest.raises(TransferError, match=r"^it: GET http://\S+: expected ") as caught:
            transport.send(_get(server.url))
        assert len(server.requests) == 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert caught.value.hint == (
        "the server, or a proxy on the way to it, sends a malformed answer: report this to its operators"
    )
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints", b"110", b"199 X"])
@pytest.mark.parametrize("count", [1, 2, MAX_INTERIM_ANSWERS])
def test_interim_answers_are_passed_over(status: bytes, count: int) -> None:
    before = b"HTTP/1.1 " + status + b"\r\nContent-Length: 7\r\nOdd : x\r\n\r\n"
    assert _ask(lambda request: answer(b"body", before=before * count))[0] == b"body"


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints"])
def test_interim_answers_have_a_limit(status: bytes) -> None:
    before = b"HTTP/1.1 " + status + b"\r\n\r\n"
    with pytest.raises(TransferError, match=r"expected at most 100 interim answers \(1xx\), got more"):
        _ask(lambda request: answer(b"body", before=before * (MAX_INTERIM_ANSWERS + 1)), RegistryOptions())


def test_interim_answers_share_one_limit_of_bytes() -> None:
    before = b"HTTP/1.1 103 X\r\nA: " + b"v" * (MAX_HEAD_BYTES // 4) + b"\r\n\r\n"
    with pytest.raises(TransferError, match="expected at most 1048576 bytes of headers"):
        _ask(lambda request: answer(b"body", before=before * 5), RegistryOptions())


def test_switching_protocols_is_an_answer() -> None:
    """We ask for no other protocol, and what follows would not be HTTP."""
    with pytest.raises(RegistryError, match="expected 200 OK, got 101 Switching Protocols"):
        _ask(lambda request: b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n")


def test_over_tls_too(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as registry:
        registry.misbehave("", Fault(raw=answer(b"body", b"Odd : x", before=EARLY_HINTS)))
        with closing(Transport(RegistryOptions(retry_times=0, ca_file=authority.ca_file))) as transport:
            assert transport.send(_get(f"{registry.url}/v2/")).read_up_to(100) == b"body"


@pytest.mark.parametrize("cut", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", EARLY_HINTS])
def test_connection_that_ends_within_the_head_is_a_failure_that_passes(cut: bytes) -> None:
    """It would seem to be an answer without a body."""
    with FakeRegistry() as registry:
        options = RegistryOptions(retry_times=1, retry_delay_seconds=0)
        with closing(Transport(options)) as transport:
            registry.misbehave("", Fault(raw=cut), times=1)
            assert transport.send(_get(f"{registry.url}/v2/")).read_up_to(100) == b"{}"
            registry.misbehave("", Fault(raw=cut))
            with pytest.raises(TransferError, match="the connection was closed too early"):
                transport.send(_get(f"{registry.url}/v2/"))


def test_trailers_have_a_limit() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n"
    assert _ask(lambda request: chunked + b"X-Odd : v\r\nno colon\r\n\r\n")[0] == b"body"
    with FakeRegistry() as registry, closing(Transport()) as transport:
        registry.misbehave("", Fault(raw=chunked, endless=b"X: y\r\n" * 1000))
        with pytest.raises(TransferError, match="expected at most 1048576 bytes of headers"):
            transport.send(_get(f"{registry.url}/v2/"))
        assert registry.faults_met == 1


@pytest.mark.parametrize("is_verbose", [False, True])
def test_secrets_in_a_malformed_line_are_not_shown(is_verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def answering(request: RawRequest) -> bytes:
        # A server that repeats the request, and one that forgets a colon.
        asked = request.head.split(b"Authorization: ")[1].split(b"\r\n")[0]
        return answer(b"", b"Location /a?sig=very-secret " + asked)

    options = RegistryOptions(retry_times=0, verbose=is_verbose)
    with (
        RawServer(answering) as server,
        closing(Transport(options, PlainProgress())) as transport,
        pytest.raises(TransferError) as caught,
    ):
        transport.send(_get(server.url, authorization="Bearer a-secret-token"))
    shown = f"{caught.value} {caught.value.__cause__!r} {capsys.readouterr()}"
    assert "got 'Location /a?…" in str(caught.value)
    assert "secret" not in shown


# Whole commands: each kind of answer


KINDS: dict[str, Callable[[RawRequest], bool]] = {
    "challenge": lambda request: b"Authorization" not in request.head and b"/v2/" in request.target,
    "token": lambda request: request.target.startswith(b"/token"),
    "manifest": lambda request: b"/manifests/" in request.target,
    "redirect": lambda request: b"/v2/app/blobs/" in request.target,
    "storage": lambda request: request.target.startswith(b"/storage/"),
    "all": lambda request: True,
}


def _registry(is_odd: Callable[[RawRequest], bool], line: bytes, before: bytes) -> RawServer:
    """Return a server with tokens and a storage of its own, which sends ``line`` and ``before`` where it is odd."""

    def answering(request: RawRequest) -> bytes:
        headers, first = ([line], before) if is_odd(request) else ([], b"")
        if request.target.startswith(b"/token"):
            return answer(b'{"token": "t"}', *headers, before=first)
        if request.target.startswith(b"/v2/") and b"Authorization: Bearer t" not in request.head:
            challenge = f'WWW-Authenticate: Bearer realm="{server.url}/token"'.encode()
            return answer(b"{}", *headers, challenge, status=b"401 Unauthorized", before=first)
        if b"/v2/app/blobs/" in request.target:
            location = b"Location: /storage/" + request.target.rpartition(b"/")[2]
            return answer(b"", *headers, location, status=b"307 Temporary Redirect", before=first)
        return IMAGE.answer(request, *headers, before=first)

    server = RawServer(answering)
    return server


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_of_a_pull_may_be_odd(kind: str, tmp_path: Path) -> None:
    odd = b"Name : v\r\nX-\xc3\x96dd: v\r\nX-Folded: a\r\n b\r\n: nameless\r\nX-Long: " + b"v" * 70_000
    many = b"\r\n".join(b"X-%d: v" % number for number in range(150))
    server = _registry(KINDS[kind], odd + b"\r\n" + many, EARLY_HINTS + b"HTTP/1.1 102 Processing\r\n\r\n")
    with server:
        ended = run_command("pull", "-q", f"{server.host}/app:1", "--out", tmp_path / "image", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert str(Digest.of(IMAGE.manifest)) in ended.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_of_a_pull_may_be_refused(kind: str, tmp_path: Path) -> None:
    server = _registry(KINDS[kind], b"this is no header", b"")
    started = time.monotonic()
    with server:
        ended = run_command("pull", "-q", f"{server.host}/app:1", "--out", tmp_path / "image", home=tmp_path)
    error, hint = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (5, "")
    assert "expected a header 'Name: value', got 'this is no header'" in error
    assert hint.endswith("report this to its operators")
    assert time.monotonic() - started < 10
