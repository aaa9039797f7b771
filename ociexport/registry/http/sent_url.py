"""SentUrl: the URL of a request, in the form that libraries may log, with the target that is sent."""

from __future__ import annotations

from urllib.parse import quote

from ociexport.registry.http.web_url import WebUrl


class SentUrl(str):
    """The URL that urllib3 knows: without the query, so that neither its log nor its errors show a signature.

    Its ``target`` is what stands in the request line.

    Args:
        url: the URL to send.
        is_absolute: whether the request line has the whole URL, as for a proxy that forwards the request.
    """

    __slots__ = ("target",)
    target: str

    def __new__(cls, url: WebUrl, *, is_absolute: bool) -> SentUrl:
        """Return the SentUrl of ``url``."""
        server = f"{url.scheme}://{url.authority}" if is_absolute else ""
        path, _, _ = url.target.partition("?")
        # Older versions of urllib3 read a host after two slashes.
        new = super().__new__(cls, f"{server}/{quote(path.lstrip('/'), safe='/%:@')}")
        new.target = server + url.target
        return new
