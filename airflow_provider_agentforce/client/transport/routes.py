"""The way to a host, as ``requests`` finds it in the environment: proxy, CA bundle, client certificate."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import requests
import requests.utils

from airflow_provider_agentforce.client.transport.errors import RouteError

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, eq=False)
class Route:
    """The way to a host.

    :param host: of the URL; :attr:`port` likewise.
    :param first: host and port to connect to: the host's own, or the proxy's.
    :param context: TLS settings; ``None`` for plain http.
    :param tunnelled: whether the proxy is asked for a tunnel.
    :param absolute: whether a request names the whole URL, as a proxy asks without TLS.
    :param proxy_authorization: for the proxy; not shown.
    """

    origin: str
    host: str
    port: int
    first: tuple[str, int]
    context: ssl.SSLContext | None
    tunnelled: bool
    absolute: bool
    proxy_authorization: str | None = field(repr=False)

    @property
    def address(self) -> str:
        """The address to connect to, for a person."""
        proxy = "proxy " if self.tunnelled or self.absolute else ""
        return proxy + _address(*self.first)

    @property
    def authority(self) -> str:
        """Host and port, as in a ``CONNECT``."""
        return _address(self.host, self.port)

    def target(self, url: str) -> str:
        """Return the target in the first line of a request for *url*."""
        return url if self.absolute else url[len(self.origin) :] or "/"


def find(session: requests.Session, origin: str) -> Route:
    """Find the way to *origin*, ``scheme://host[:port]``.

    :raises RouteError: the environment names a proxy or a CA bundle that cannot be used.
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
    through, first = _proxy(proxy)
    return Route(
        origin, host, port, first, context, context is not None, context is None, _authorization(through)
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _proxy(url: str) -> tuple[SplitResult, tuple[str, int]]:
    """Return the parts of a proxy's URL, and the host and port to connect to."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        # A password that is not escaped ends the host early.
        host, port = None if parts.fragment else parts.hostname, parts.port or _PORTS["http"]
    except ValueError:
        host = None
    if not host:
        # The URL may hold a password.
        raise RouteError("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not a valid URL") from None
    if parts.scheme != "http":
        raise RouteError(f"the proxy is a {parts.scheme} proxy; only HTTP proxies are supported")
    return parts, (host, port)


def _authorization(proxy: SplitResult) -> str | None:
    if proxy.username is None:
        return None
    given = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"Basic {base64.b64encode(given.encode()).decode()}"


@cache
def _context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    # Not create_default_context: from Python 3.13 on, it refuses company CAs that work today.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
    try:
        context.load_verify_locations(**({"capath": bundle} if Path(bundle).is_dir() else {"cafile": bundle}))
    except OSError as error:
        # The error itself does not name the file.
        raise RouteError(f"the CA bundle {bundle} cannot be read: {error.strerror or error}") from error
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
