"""Finds the way to a host once: proxy, CA bundle and client certificate, as ``requests`` finds them.

Each call then goes straight to urllib3, which takes less than half of the CPU time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from airflow_provider_agentforce.client.wire import POOLS

_MOST_HOSTS = 100


@dataclass(frozen=True)
class Route:
    """The way to a host.

    :param pool: its connections, to the host itself or to a proxy.
    :param origin: of the host, as in its URLs.
    :param absolute: whether a request names the origin, as a proxy asks without TLS.
    """

    pool: HTTPConnectionPool
    origin: str
    absolute: bool

    def target(self, url: str) -> str:
        """Return what a request to *url* names in its first line."""
        return url if self.absolute else url[len(self.origin) :]


class Routes:
    """The ways to all hosts, over tracked connections.

    :param connections: how many idle ones are kept for each host.
    """

    def __init__(self, connections: int) -> None:
        self._adapter = _Adapter(connections)
        self._known: dict[str, Route] = {}

    def to(self, url: str) -> Route:
        """Return the way to the host of *url*."""
        origin = url[: url.index("/", len("https://"))]
        route = self._known.get(origin)
        if route is None:
            route = self._known[origin] = self._adapter.route(origin)
        return route

    def close(self) -> None:
        """Close idle connections. The routes are found anew when they are needed."""
        self._known = {}
        self._adapter.close()


class _Adapter(HTTPAdapter):
    def __init__(self, connections: int) -> None:
        # A pool that is pushed out is closed, and its route could not be used again.
        super().__init__(pool_connections=_MOST_HOSTS, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise requests.exceptions.InvalidProxyURL("a SOCKS proxy is set; only HTTP proxies are supported")
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def route(self, origin: str) -> Route:
        request = requests.Request("GET", f"{origin}/").prepare()
        with requests.Session() as session:
            found = session.merge_environment_settings(request.url, {}, None, None, None)
        verify, cert, proxies = found["verify"], found["cert"], found["proxies"]
        pool: Any = self.get_connection_with_tls_context(request, verify, proxies, cert)
        self.cert_verify(pool, origin, verify, cert)  # type: ignore[no-untyped-call]
        return Route(pool, origin, absolute=self.request_url(request, proxies) != "/")
