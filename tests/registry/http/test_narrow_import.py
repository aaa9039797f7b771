"""In the command's process requests is imported without what the command does not use, and works all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

NARROW = """
import sys
from ociexport.system.ownership import own_process
own_process()
from ociexport.registry.http.narrow import import_requests
import_requests()
import requests, urllib3, urllib3.connectionpool
"""
CLAIMS = {
    "what is used later is imported then": """
import requests.utils
assert "urllib.request" not in sys.modules
assert requests.utils.getproxies() == {"http": "http://proxy.example"}
assert "urllib.request" in sys.modules
""",
    "no log, no module": """
urllib3.connectionpool.log.debug("text %s", 1)
assert "logging" not in sys.modules
""",
    "a warning is as silent as it was": """
urllib3.connectionpool.log.warning("text %s", 1)
assert "logging" in sys.modules
""",
    "who listens hears all levels": """
import io, logging
heard = io.StringIO()
logging.basicConfig(stream=heard, level=logging.DEBUG, format="%(name)s %(message)s")
for level in ("debug", "info", "warning", "error"):
    getattr(urllib3.connectionpool.log, level)("%s.", level)
assert heard.getvalue() == "".join(f"urllib3.connectionpool {word}.\\n" for word in "debug info warning error".split())
""",
    "filters are kept": """
import io, logging
from ociexport.registry.http.logs import cut_secrets, our_request
assert type(urllib3.connectionpool.log).__name__ == "LateLogger"
cut_secrets(); cut_secrets()
heard = io.StringIO()
logging.basicConfig(stream=heard, level=logging.DEBUG, format="%(message)s")
with our_request():
    urllib3.connectionpool.log.debug("https://a.example/?sig=%s", "very-secret")
urllib3.connectionpool.log.debug("%s", "kept")
assert "very-secret" not in heard.getvalue() and "a.example" in heard.getvalue() and "kept" in heard.getvalue()
""",
    "dates": """
import datetime
assert requests.Response().elapsed == datetime.timedelta(0)
assert urllib3.connection.RECENT_DATE == datetime.date(*urllib3.connection.RECENT_DATE.timetuple()[:3])
""",
    "host names": """
assert "encodings.idna" not in sys.modules
assert "b\\xfccher.example".encode("idna") == b"xn--bcher-kva.example"
assert str(urllib3.util.parse_url("http://b\\xfccher.example/")) == "http://xn--bcher-kva.example/"
""",
    "a file that is sent has a type": """
from urllib3.filepost import encode_multipart_formdata
assert b"text/plain" in encode_multipart_formdata({"f": ("a.txt", b"x")})[0]
""",
    "cookies": """
jar = requests.cookies.RequestsCookieJar()
jar.set("a", "b", expires=1)
assert jar["a"] == "b"
import http.cookies
morsel = http.cookies.SimpleCookie("c=d")["c"]
assert isinstance(morsel, requests.cookies.Morsel) and isinstance(requests.cookies.Morsel(), http.cookies.Morsel)
jar.set("c", morsel)
assert jar["c"] == "d"
import http.cookiejar
assert http.cookiejar.http2time("Wed, 09 Feb 1994 22:23:32 GMT") == 760832612
""",
    "annotations are compiled as ever": """
import typing
assert typing.ForwardRef("int").__forward_code__.co_names == ("int",) and not hasattr(typing, "compile")
assert urllib3.util.retry.RequestHistory("GET", "/", None, 200, None).status == 200
""",
    "e-mail": """
import email.utils
assert email.utils.parsedate_to_datetime("Wed, 09 Feb 1994 22:23:32 GMT").timestamp() == 760832612
assert "@" in email.utils.make_msgid(domain="a.example")
""",
}
WITHOUT = """
import sys
from ociexport.system.ownership import own_process
own_process()
import ociexport.registry.http.narrow as narrow
for name in [name for name in sys.modules if name.startswith(("requests", "urllib3"))]:
    del sys.modules[name]
"""
VERSIONS = {
    "another version needs a member that a stand-in lacks": (
        "narrow.LateLogging = lambda: narrow.stand_in('logging')\n"
    ),
    "another version uses a member otherwise": (
        "narrow.LateLogging = lambda: narrow.stand_in('logging', NullHandler=object, getLogger=None)\n"
    ),
    "another version needs an optional part": "narrow._OPTIONAL = (*narrow._OPTIONAL, 'urllib3.util.retry')\n",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_requests_imported_narrowly(claim: str) -> None:
    _run(NARROW + CLAIMS[claim])


@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_is_imported_whole(version: str) -> None:
    check = """
narrow.import_requests()
import requests, logging
assert isinstance(requests.packages.urllib3.connectionpool.log, logging.Logger)
assert requests.adapters.HTTPAdapter().poolmanager.connection_from_url("http://a.example").host == "a.example"
"""
    _run(WITHOUT + VERSIONS[version] + check)


def _run(script: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "http_proxy": "http://proxy.example"}
    ended = subprocess.run(
        [sys.executable, "-c", script], timeout=60, env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
