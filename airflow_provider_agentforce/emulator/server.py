"""The server in its thread.

This is the only module that uses uvicorn. It replaces public methods of ``uvicorn.Server`` and of its h11
protocol, because an ASGI application cannot close a connection without an answer; it touches no private name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_agentforce.emulator.tls import Proxy

_BACKLOG = 512
_START_TIMEOUT_S = 10.0
_TICK_S = 1.0


class _ServerConnection(H11Protocol):
    """A connection that passes its transport to the application, which an ASGI server otherwise hides."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets of a named protocol; without it answers wait 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class ThreadedServer(uvicorn.Server):
    """One listening socket and the thread that serves it.

    It is woken by an event where uvicorn polls, and stops without waiting for idle connections.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, keep_alive: int, tls: ssl.SSLContext | None = None
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_ServerConnection,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            headers=[("X-Agentforce-Emulator", "1")],
            timeout_keep_alive=keep_alive,
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port: int = listener.getsockname()[1]
        self.proxy = Proxy(host, self.port) if tls is not None else None
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self.run, args=([listener],), name="agentforce-emulator", daemon=True
        )

    def start(self) -> None:
        """Serve; return when requests are answered.

        :raises RuntimeError: the server did not start.
        """
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise RuntimeError("The emulator did not start.")

    def stop(self) -> None:
        """Stop serving: close every connection, answer nothing more, end the thread."""
        # The loop is closed if the server ended by itself.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def main_loop(self) -> None:
        """Serve until :meth:`stop`; what uvicorn does ten times per second happens once."""
        self._loop = asyncio.get_running_loop()
        if self.proxy is not None:
            self.servers.append(await self.proxy.start())
        while not self._stopping.is_set():
            # The tick keeps the Date header current.
            await self.on_tick(0)
            self._ready.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection and cancel running requests, without a grace period."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self.proxy is not None:
            await self.proxy.stop()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One turn of the loop closes the sockets of the aborted transports.
        await asyncio.sleep(0)
