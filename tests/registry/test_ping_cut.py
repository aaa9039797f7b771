"""A ping that is cut is sent again over the same scheme: a registry on loopback with http is not taken for TLS."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ociexport.cli.main import main
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.tls import Authority

IMAGE = build_image([[member("a", b"1")]])
RESET = struct.pack("ii", 1, 0)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(registry: FakeRegistry, count: int, how: str) -> Iterator[str]:
    """Yield the host of a port in front of ``registry`` that cuts the first ``count`` connections."""
    port = int(registry.host.rpartition(":")[2])
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            for number in range(1000):
                with suppress(OSError):
                    client = sockets.enter_context(listener.accept()[0])
                    if number >= count:
                        there = sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
                        threading.Thread(target=_copy, args=(client, there), daemon=True).start()
                        threading.Thread(target=_copy, args=(there, client), daemon=True).start()
                        continue
                    if how != "before the request":
                        client.recv(4096)
                    if how == "reset":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.close()
                    continue
                return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("words", [[], ["--retry-times", "0"]])
@pytest.mark.parametrize("how", ["reset", "closed", "before the request"])
def test_ping_that_is_cut_once_is_sent_again(how: str, words: list[str]) -> None:
    with FakeRegistry() as registry:
        IMAGE.serve(registry, "app", "1")
        with cutting(registry, 1, how) as host:
            assert main(["pull", f"{host}/app:1", "-o", "out", "-q", *words]) == 0


@pytest.mark.parametrize("count", [2, 3])
def test_answer_in_plain_text_shows_the_scheme(count: int) -> None:
    """Where two pings are cut, TLS is tried; a server that does not speak it gets the third ping over http."""
    with FakeRegistry() as registry:
        IMAGE.serve(registry, "app", "1")
        with cutting(registry, count, "reset") as host:
            words = ["--retry-times", "2", "--retry-delay", "0"]
            assert main(["pull", f"{host}/app:1", "-o", "out", "-q", *words]) == 0


def test_server_that_cuts_each_ping_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as registry, cutting(registry, 1000, "reset") as host:
        assert main(["pull", f"{host}/app:1", "-o", "out", "-q", "--retry-times", "0"]) == 5
    assert "connection reset by peer" in capsys.readouterr().err


def test_server_with_tls_that_is_cut_once_is_reached(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as registry:
        IMAGE.serve(registry, "app", "1")
        with cutting(registry, 1, "reset") as host:
            assert main(["pull", f"{host}/app:1", "-o", "out", "-q", "--ca-file", str(authority.ca_file)]) == 0
