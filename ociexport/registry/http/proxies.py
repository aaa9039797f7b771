"""Which proxy a request goes through, by the variables that curl and Python programs know."""

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
    """Return the proxy for ``url``, under its scheme; nothing where it is asked directly.

    For this machine there is none, by the name of which a proxy knows itself. A proxy without a scheme speaks http, as
    curl has it.

    Raises:
        UsageError: the variable holds no URL of a proxy that we know. It may hold a password, which is not shown.
    """
    if is_loopback(url.host):
        return {}
    text = str(url)
    proxy = requests.utils.select_proxy(text, requests.utils.get_environ_proxies(text))
    if not proxy:
        return {}
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    # The user wrote it, and it may name a user.
    if not (has_host(proxy) and (is_socks_url(proxy) or urlsplit(proxy).scheme in ("http", "https"))):
        raise UsageError(
            f"{url.scheme.upper()}_PROXY or ALL_PROXY: expected http:// or socks5://HOST[:PORT], "
            f"got {quoted(redacted(proxy))}",
            hint="in a password / is written %2F and @ %40; NO_PROXY=HOST goes there without a proxy",
        )
    return {url.scheme: proxy}
