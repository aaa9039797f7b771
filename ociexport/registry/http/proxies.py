"""Which proxy a request goes through, from the environment variables that curl and Python programs use."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from ociexport.errors import UsageError, quoted
from ociexport.registry.http.addresses import is_loopback
from ociexport.registry.http.failures import has_host, redacted
from ociexport.registry.http.socks import is_socks_url
from ociexport.registry.http.web_url import WebUrl


def proxies_for(url: WebUrl) -> Mapping[str, str]:
    """Return the proxy for ``url``, under its scheme; empty for a direct connection.

    No proxy is used for this machine: on the proxy's machine ``localhost`` means the proxy itself. A proxy without a
    scheme speaks http, as for curl.

    Raises:
        UsageError: the variable does not contain the URL of a supported kind of proxy. Its password is not shown.
    """
    if is_loopback(url.host):
        return {}
    text = str(url)
    proxy = requests.utils.select_proxy(text, requests.utils.get_environ_proxies(text))
    if not proxy:
        return {}
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    # `WebUrl` does not fit: the user wrote this URL, and it may contain a user and a password.
    if not (has_host(proxy) and (is_socks_url(proxy) or urlsplit(proxy).scheme in ("http", "https"))):
        raise UsageError(
            f"{url.scheme.upper()}_PROXY or ALL_PROXY: expected http:// or socks5://HOST[:PORT], "
            f"got {quoted(redacted(proxy))}",
            hint="in a password / is written %2F and @ %40; NO_PROXY=HOST goes there without a proxy",
        )
    return {url.scheme: proxy}
