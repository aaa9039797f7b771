"""A TCP proxy on loopback that limits each connection to a rate and delays each request, like a distant registry."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK_BYTES = 64 * 1024


@contextmanager
def throttled(target: str, *, bytes_per_second: int, request_delay_seconds: float) -> Iterator[str]:
    """Yield the ``host:port`` of a proxy to ``target`` during the ``with`` block.

    Args:
        target: ``host:port``.
        bytes_per_second: limit for the answers on one connection.
        request_delay_seconds: delay of each packet from the client; a request is one packet here.
    """
    host, port = target.split(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for source, sink, rate, delay in (
                    (client, server, 0, request_delay_seconds),
                    (server, client, bytes_per_second, 0.0),
                ):
                    threading.Thread(target=_pump, args=(source, sink, rate, delay), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _pump(source: socket.socket, sink: socket.socket, bytes_per_second: int, delay_seconds: float) -> None:
    begun, sent = time.monotonic(), 0
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            if delay_seconds:
                time.sleep(delay_seconds)
            if bytes_per_second:
                # An idle connection does not accumulate credit.
                begun = max(begun, time.monotonic() - (sent + len(chunk)) / bytes_per_second - 0.05)
                wait = begun + sent / bytes_per_second - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            sink.sendall(chunk)
            sent += len(chunk)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
