"""Shared by all exchanges: connections that are kept for the next ones, and a stop."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import BaseAdapter

from airflow_provider_agentforce.client.transport import routes
from airflow_provider_agentforce.client.transport.connection import Connection
from airflow_provider_agentforce.client.transport.exchange import Exchange
from airflow_provider_agentforce.client.transport.routes import Route


class _Prepared(requests.PreparedRequest):
    """A prepared request that knows its exchange."""

    exchange: Exchange


class _Adapter(BaseAdapter):
    """Has ``requests`` send over the connections of this package. The exchange holds the reply."""

    _nothing = requests.Response()

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        assert isinstance(request, _Prepared)  # noqa: S101 - nothing else uses this session
        request.exchange.perform()
        return self._nothing

    def close(self) -> None:
        """Do nothing: the pool is closed by its transport."""


class _Pool:
    """Idle connections by route. It has no lock, which a signal handler could leave taken.

    :param most: connections kept for each route.
    """

    def __init__(self, most: int) -> None:
        self.session = requests.Session()
        self.adapter = _Adapter()
        self.routes: dict[str, Route] = {}
        self._most = most
        self._idle: dict[Route, deque[Connection]] = {}
        # The sockets are closed even if the client never is.
        weakref.finalize(self, _close_all, self._idle)

    def take(self, route: Route) -> Connection | None:
        """Return a connection that may be used, and close those that may not."""
        idle = self._idle.get(route)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                return None
            if connection.usable:
                return connection
            connection.close()
        return None

    def put(self, connection: Connection) -> None:
        """Keep a connection, and close the oldest when there are too many."""
        connection.rest()
        idle = self._idle.setdefault(connection.route, deque())
        idle.append(connection)
        if len(idle) > self._most:
            with suppress(IndexError):
                idle.popleft().close()

    def close(self) -> None:
        """Close all idle connections, and look at the environment again next time."""
        self.routes = {}
        _close_all(self._idle)


def _close_all(idle_by_route: dict[Route, deque[Connection]]) -> None:
    for idle in list(idle_by_route.values()):
        with suppress(IndexError):  # another thread was faster
            while idle:
                idle.pop().close()


class Transport:
    """Carries exchanges over connections that all threads share.

    :param max_idle: idle connections kept for each host.
    """

    def __init__(self, *, max_idle: int, pool: _Pool | None = None) -> None:
        self._pool = pool or _Pool(max_idle)
        self._max_idle = max_idle
        # Weak: an exchange whose end a signal interrupts is closed together with the error that refers to it.
        self._under_way: dict[int, weakref.ref[Exchange]] = {}
        self._stopped = False

    def sibling(self) -> Transport:
        """Return a transport over the same connections that can be stopped alone."""
        return Transport(max_idle=self._max_idle, pool=self._pool)

    def stop(self, *, keep_starts: bool = False) -> None:
        """Cut every exchange under way and make no other. Takes no lock: safe in a signal handler.

        :param keep_starts: let the starts of sessions come to their end.
        """
        self._stopped = True
        for reference in list(self._under_way.values()):
            exchange = reference()
            if exchange is None or exchange.during_cleanup or (keep_starts and exchange.starts_session):
                continue
            exchange.stop()

    def close(self) -> None:
        """Close idle connections. The transport can be used again."""
        self._pool.close()

    def send(self, exchange: Exchange) -> None:
        """Have the adapter of ``requests`` send. The exchange holds everything that the wire needs."""
        prepared = _Prepared()
        prepared.method, prepared.url, prepared.exchange = exchange.call.method, exchange.call.url, exchange
        # Session.send would look for redirects, cookies and proxies, for every request.
        self._pool.adapter.send(prepared)

    def route(self, url: str) -> Route:
        """Return the way to the host of *url*."""
        origin = url[: url.index("/", len("https://"))]
        route = self._pool.routes.get(origin)
        if route is None:
            # Threads that find it at the same time use the same one, and its connections.
            route = self._pool.routes.setdefault(origin, routes.find(self._pool.session, origin))
        return route

    def take(self, route: Route) -> Connection | None:
        """Return an idle connection."""
        return self._pool.take(route)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for another exchange, unless the transport was stopped."""
        if self._stopped:
            connection.close()
        else:
            self._pool.put(connection)

    def add(self, exchange: Exchange) -> None:
        """Note an exchange, and stop it if the transport is stopped."""
        self._under_way[id(exchange)] = weakref.ref(exchange)
        if self._stopped and not exchange.during_cleanup:
            exchange.stop()

    def remove(self, exchange: Exchange) -> None:
        """Forget an exchange."""
        self._under_way.pop(id(exchange), None)
