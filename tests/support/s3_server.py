"""A store with the interface of S3 on loopback: moto's server, which may ignore or refuse conditions of writes.

    with S3Server() as store:
        store.make_bucket("far")
        ...
        store.keys("far")

It stops with its ``with`` block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support.serving import Serving

ACCESS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_DEFAULT_REGION": "us-east-1"}
_NOT_IMPLEMENTED = b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>no conditions</Message></Error>"
_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class S3Server(Serving):
    """See the module's docstring.

    Attributes:
        conditions: what the store does with If-Match and If-None-Match of a PUT.
        requests: method and path of each request.
        denies: methods that are refused.
        before: called with method and path before each request is answered.
        cuts, cut_path: how many bytes of each answer for a path are sent; each is used once.
    """

    def __init__(self) -> None:
        self.conditions: Literal["obeyed", "ignored", "refused"] = "obeyed"
        self.requests: list[tuple[str, str]] = []
        self.denies: frozenset[str] = frozenset()
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.cuts: list[int] = []
        self.cut_path = ""
        self._lock = threading.Lock()
        app = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if environ.get("HTTP_USER_AGENT", "").startswith("Boto3"):  # the test's own questions
                return app(environ, start_response)  # type: ignore[no-any-return]
            self.requests.append((method, path))
            self.before(method, path)
            if method in self.denies:
                return _refuse(environ, start_response, "403 Forbidden", _DENIED)
            has_condition = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys()
            if method == "PUT" and has_condition and self.conditions == "refused":
                return _refuse(environ, start_response, "501 Not Implemented", _NOT_IMPLEMENTED)
            if method == "PUT" and has_condition and self.conditions == "ignored":
                environ.pop("HTTP_IF_MATCH", None)
                environ.pop("HTTP_IF_NONE_MATCH", None)
            with self._lock:  # moto compares and writes in two steps
                body = b"".join(app(environ, start_response))
            if method == "GET" and path == self.cut_path and self.cuts:
                return [body[: self.cuts.pop(0)]]
            return [body]

        self._server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=_SilentHandler)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
            region_name=ACCESS["AWS_DEFAULT_REGION"],
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets to reach the store."""
        return {**ACCESS, "AWS_ENDPOINT_URL": self.url}

    def make_bucket(self, name: str) -> None:
        self.client.create_bucket(Bucket=name)

    def keys(self, bucket: str) -> dict[str, int]:
        """Return the keys in a bucket, and the sizes of their objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def read(self, bucket: str, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def uploads(self, bucket: str) -> int:
        """Return how many uploads are not completed."""
        return len(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


class _SilentHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _refuse(environ: dict[str, Any], start_response: Any, status: str, body: bytes) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
