"""Serving: the base of the servers on loopback, each of which stops with its ``with`` block."""

from __future__ import annotations

import threading
from http.server import HTTPServer
from typing import Self


class Serving:
    """Serves in a thread; a subclass makes ``_server``, before `__enter__` at the latest."""

    _server: HTTPServer | None = None

    @property
    def port(self) -> int:
        assert self._server is not None, "it serves only within its with block"
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        assert self._server is not None
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
