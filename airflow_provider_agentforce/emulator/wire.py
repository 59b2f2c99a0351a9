"""Put answers on the wire, also broken ones: half a body, an unfinished stream, no byte at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_agentforce.emulator.calls import Answer


class Connection(H11Protocol):
    """A connection that hands its transport to the application, which an ASGI server otherwise hides."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport in the state that every request of the connection gets."""
        super().connection_made(transport)
        # asyncio does this only for sockets of a named protocol; without it answers wait 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class WireResponse(Response):
    """An :class:`Answer` as an ASGI response; ``on_status`` and ``on_end`` tell when it starts and is out."""

    def __init__(
        self, answer: Answer, *, on_status: Callable[[int], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(status_code=answer.status)
        self._answer = answer
        self._on_status = on_status
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or as much of it as a fault leaves."""
        answer = self._answer
        transport: asyncio.Transport = scope["state"]["transport"]
        try:
            if not answer.drop:
                self._on_status(answer.status)
                await self._send(send)
        finally:
            self._on_end()
        if answer.drop:
            transport.abort()
            await _gone(receive)
        elif answer.cut is not None:
            # Close, not abort: what was sent before the cut has to arrive.
            transport.close()
            await _gone(receive)

    async def _send(self, send: Send) -> None:
        if self._answer.pieces is None:
            await self._send_whole(send)
        else:
            await self._send_pieces(self._answer.pieces, send)

    async def _send_whole(self, send: Send) -> None:
        answer = self._answer
        length = {} if answer.status in (204, 304) else {"content-length": str(len(answer.content))}
        await self._head(send, length)
        await _body(send, answer.content[: answer.cut], last=answer.cut is None)

    async def _send_pieces(self, pieces: list[bytes], send: Send) -> None:
        await self._head(send, {})
        left = self._answer.cut
        for index, piece in enumerate(pieces):
            if index == min(1, len(pieces) - 1):
                await asyncio.sleep(self._answer.pause)
            await _body(send, piece[:left], last=False)
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return
        await _body(send, b"", last=self._answer.cut is None)

    async def _head(self, send: Send, extra: dict[str, str]) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in {**self._answer.headers, **extra}.items()
        ]
        await send({"type": "http.response.start", "status": self._answer.status, "headers": headers})


async def _body(send: Send, content: bytes, *, last: bool) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": not last})


async def _gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
