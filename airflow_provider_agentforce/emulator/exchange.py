"""The input and output of a handler: a request to the org, and its answer, complete or broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from airflow_provider_agentforce.emulator.errors import ApiError, json_bytes
from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import RequestRecord, SessionRecord
from airflow_provider_agentforce.emulator.org import Org

API_BASE = "/einstein/ai-agent/v1"
PREVIEW_BASE = "/einstein/ai-agent/v1.1"


@dataclass(kw_only=True)
class OrgRequest:
    """One request. ``params`` are the variable parts of the path; ``fault`` applies to it."""

    org: Org
    record: RequestRecord
    params: dict[str, str]
    query: dict[str, str]
    fault: Fault | None
    locked: SessionRecord | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The request headers, names in lower case."""
        return self.record.headers

    @property
    def api_path(self) -> str:
        """The path below the API base, as error bodies show it."""
        return self.record.path.removeprefix(PREVIEW_BASE).removeprefix(API_BASE)

    def content_type(self) -> str:
        """Return the media type of the body without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def credentials(self, scheme: str) -> str:
        """Return the ``Authorization`` header's credentials for ``scheme`` (lower case), empty without it."""
        sent, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if sent.lower() == scheme else ""

    def authorize(self, refusal: str) -> None:
        """Refuse a caller without a valid token.

        :param refusal: the name of the documented error.
        :raises ApiError: that one.
        """
        if not self.org.accepts_token(self.credentials("bearer")):
            raise ApiError(refusal)

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        :raises ApiError: another content type (a 500, as documented), or no JSON object.
        """
        if self.content_type() != "application/json":
            raise ApiError("unsupported_media_type")
        body = self.record.body
        if not isinstance(body, dict):
            raise ApiError("bad_request", detail="The request body is not a JSON object")
        return body

    def lock_session(self) -> SessionRecord:
        """Lock the session in the path for this request, until the answer is sent.

        :raises ApiError: the session has ended or is locked.
        """
        self.locked = self.org.lock_session(self.params["session_id"])
        return self.locked

    async def wait_while_held(self) -> None:
        """Wait until no test holds this operation."""
        hold = self.org.holds.get(self.record.operation)
        if hold is not None:
            await hold.wait()

    def close(self) -> None:
        """Release what the request locked."""
        if self.locked is not None:
            self.org.unlock_session(self.locked)
            self.locked = None


@dataclass(kw_only=True)
class OrgResponse:
    """The answer to the caller, complete or broken.

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
        """Send headers and body, or the part of them that must arrive."""
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
        """End the answer or the connection. Called when the session is no longer locked."""
        transport: asyncio.Transport = scope["state"]["transport"]
        if self.drop:
            transport.abort()
        elif self.cut is not None:
            # Close, not abort: the bytes before the cut must arrive.
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


Handler = Callable[[OrgRequest], Awaitable[OrgResponse]]


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> OrgResponse:
    """Return ``value`` as a JSON answer."""
    return OrgResponse(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        content=json_bytes(value),
    )
