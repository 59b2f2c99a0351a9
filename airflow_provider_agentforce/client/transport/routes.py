"""The way to a host, as ``requests`` finds it in the environment: proxy, CA bundle, client certificate."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import requests.utils

_PORTS = {"http": 80, "https": 443}


class UnsupportedProxyError(OSError):
    """The environment names a proxy that is not an HTTP proxy."""


@dataclass(frozen=True, eq=False)
class Route:
    """The way to a host.

    :param host: of the URL; :attr:`port` likewise.
    :param first: host and port to connect to: the host's own, or the proxy's.
    :param context: TLS settings; ``None`` for plain http.
    :param tunnelled: whether the proxy is asked for a tunnel.
    :param proxy_authorization: for the proxy; not shown.
    """

    origin: str
    host: str
    port: int
    first: tuple[str, int]
    context: ssl.SSLContext | None
    tunnelled: bool
    absolute: bool
    proxy_authorization: str | None

    @property
    def authority(self) -> str:
        """Host and port, as in a ``CONNECT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def target(self, url: str) -> str:
        """Return what the first line of a request for *url* names."""
        return url if self.absolute else url[len(self.origin) :] or "/"


def find(session: requests.Session, origin: str) -> Route:
    """Find the way to *origin*, ``scheme://host[:port]``.

    :raises UnsupportedProxyError: the environment names a SOCKS or https proxy for it.
    """
    parts = urlsplit(origin)
    settings = session.merge_environment_settings(f"{origin}/", {}, None, None, None)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    context = None
    if parts.scheme == "https":
        context = _context(settings["verify"], settings["cert"])
    proxy = requests.utils.select_proxy(f"{origin}/", settings["proxies"])
    if not proxy:
        return Route(origin, host, port, (host, port), context, False, False, None)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if through.scheme != "http":
        raise UnsupportedProxyError(f"the proxy is a {through.scheme} proxy; only HTTP proxies are supported")
    first = (through.hostname or "", through.port or 80)
    return Route(
        origin, host, port, first, context, context is not None, context is None, _authorization(through)
    )


def _authorization(proxy: Any) -> str | None:
    if proxy.username is None:
        return None
    given = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"Basic {base64.b64encode(given.encode()).decode()}"


@cache
def _context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    # Not create_default_context: from Python 3.13 on it refuses CAs of companies that work today.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
    context.load_verify_locations(**({"capath": bundle} if Path(bundle).is_dir() else {"cafile": bundle}))
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
