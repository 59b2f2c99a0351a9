"""Run the application in a thread: ready when start() returns, and nothing left behind after stop()."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from airflow_provider_agentforce.emulator.wire import Connection

_BACKLOG = 512
_START_TIMEOUT_S = 10.0
_TICK_S = 1.0


class _Uvicorn(uvicorn.Server):
    """uvicorn, woken by an event where it polls, and stopping without waiting for idle connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            # The tick keeps the Date header right.
            await self.on_tick(0)
            self.ready.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One turn of the loop closes the sockets of the aborted transports.
        await asyncio.sleep(0)

    def request_stop(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)


class ThreadedServer:
    """One listening socket and the thread that serves it."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, keep_alive: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=Connection,
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
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(target=self._run, name="agentforce-emulator", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve; return when requests are answered.

        :raises RuntimeError: the server did not come up.
        """
        self._thread.start()
        if not self._server.ready.wait(_START_TIMEOUT_S):
            raise RuntimeError("The emulator did not start.")

    def stop(self) -> None:
        """Stop serving: close every connection, answer nothing more, end the thread."""
        self._server.request_stop()
        self._thread.join()
