"""Which proxy a request goes through, by the variables that curl and Python programs know."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from ociexport.errors import UsageError, quoted
from ociexport.registry.failures import has_host, is_web_url, redacted
from ociexport.registry.hosts import is_loopback
from ociexport.registry.socks import is_socks_url


def proxies_for(url: str) -> Mapping[str, str]:
    """Return the proxy for ``url``, under its scheme; nothing where it is asked directly.

    For this machine there is none, by the name of which a proxy knows itself. A proxy without a scheme speaks http, as
    curl has it.

    Raises:
        UsageError: the variable holds no URL of a proxy that we know. It may hold a password, which is not shown.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return {}
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not proxy:
        return {}
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not (is_web_url(proxy) or (is_socks_url(proxy) and has_host(proxy))):
        raise UsageError(
            f"{parts.scheme.upper()}_PROXY or ALL_PROXY: expected http:// or socks5://HOST[:PORT], "
            f"got {quoted(redacted(proxy))}",
            hint="in a password / is written %2F and @ %40; NO_PROXY=HOST goes there without a proxy",
        )
    return {parts.scheme: proxy}
