"""What needs the server itself: to run in a thread, and to break an answer on its way.

This is the only module that knows uvicorn. It replaces public methods of ``uvicorn.Server`` and of its h11
protocol, because an ASGI application cannot close a connection without an answer; it touches no private name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_BACKLOG = 512
_START_TIMEOUT_S = 10.0
_TICK_S = 1.0


@dataclass(kw_only=True)
class OrgResponse:
    """What goes back to the caller, whole or broken.

    ``pieces`` make a stream: the first goes out at once, the rest after ``pause`` seconds. ``cut`` closes the
    connection after that many bytes of body, ``drop`` before the first byte. ``hold_open`` are the seconds
    between the last piece of a stream and its end.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    pieces: list[bytes] | None = None
    pause: float = 0.0
    cut: int | None = None
    drop: bool = False
    hold_open: float = 0.0

    @property
    def _ends(self) -> bool:
        return self.cut is None and not self.hold_open

    async def send(self, send: Send) -> None:
        """Send headers and body, or as much of them as is to arrive."""
        if self.drop:
            return
        streamed = self.pieces is not None
        bodiless = streamed or self.status in (204, 304)
        length = {} if bodiless else {"content-length": str(len(self.content))}
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in {**self.headers, **length}.items()
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if streamed:
            await self._send_pieces(self.pieces or [], send)
        else:
            await _body(send, self.content[: self.cut], last=self._ends)

    async def _send_pieces(self, pieces: list[bytes], send: Send) -> None:
        left = self.cut
        for index, piece in enumerate(pieces):
            if index == min(1, len(pieces) - 1):
                await asyncio.sleep(self.pause)
            await _body(send, piece[:left], last=False)
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return
        if self._ends:
            await _body(send, b"", last=True)

    async def finish(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the answer or the connection, when the session is free again."""
        transport: asyncio.Transport = scope["state"]["transport"]
        if self.drop:
            transport.abort()
        elif self.cut is not None:
            # Close, not abort: what was sent before the cut has to arrive.
            transport.close()
        elif self.hold_open:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_gone(receive), self.hold_open)
            await _body(send, b"", last=True)
            return
        else:
            return
        await _gone(receive)


async def _body(send: Send, content: bytes, *, last: bool) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": not last})


async def _gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


class _Connection(H11Protocol):
    """A connection that hands its transport to the application, which an ASGI server otherwise hides."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets of a named protocol; without it answers wait 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class ThreadedServer(uvicorn.Server):
    """One listening socket and the thread that serves it.

    It is woken by an event where uvicorn polls, and stops without waiting for idle connections.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, keep_alive: int) -> None:
        config = uvicorn.Config(
            app,
            http=_Connection,
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
        super().__init__(config)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port: int = listener.getsockname()[1]
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self.run, args=([listener],), name="agentforce-emulator", daemon=True
        )

    def start(self) -> None:
        """Serve; return when requests are answered.

        :raises RuntimeError: the server did not come up.
        """
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise RuntimeError("The emulator did not start.")

    def stop(self) -> None:
        """Stop serving: close every connection, answer nothing more, end the thread."""
        # The loop is closed when the server ended by itself.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def main_loop(self) -> None:
        """Serve until :meth:`stop`; what uvicorn does ten times a second happens once."""
        self._loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            # The tick keeps the Date header right.
            await self.on_tick(0)
            self._ready.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection and cancel what still runs, without a grace period."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One turn of the loop closes the sockets of the aborted transports.
        await asyncio.sleep(0)
